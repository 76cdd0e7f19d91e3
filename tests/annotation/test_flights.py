# Copyright (c) monai_weckd contributors
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#     http://www.apache.org/licenses/LICENSE-2.0
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.


from __future__ import annotations

import io
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from monai_weckd.annotation import pictures
from monai_weckd.annotation.flights import Flights
from monai_weckd.annotation.training import ImagePredictor


class Slow:
    """Work that waits until it may end, and counts itself."""

    def __init__(self, error=None):
        self.error, self.calls, self.running, self.most = error, 0, 0, 0
        self.lock, self.go = threading.Lock(), threading.Event()

    def __call__(self, *args, **options):
        with self.lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
        self.go.wait(10)
        with self.lock:
            self.running -= 1
        if self.error:
            raise self.error
        return self.calls


def ask_at_once(count, ask, work):
    """Return the results or errors of threads that have all begun before the work may end."""
    barrier = threading.Barrier(count + 1)

    def one(number):
        barrier.wait(10)
        return ask(number)

    with ThreadPoolExecutor(count) as pool:
        waiting = [pool.submit(one, number) for number in range(count)]
        barrier.wait(10)
        threading.Timer(0.2, work.go.set).start()
        return [future.exception(20) or future.result() for future in waiting]


@pytest.mark.parametrize("count", [2, 8, 30])
def test_what_many_ask_for_is_made_once(count):
    work, flights = Slow(), Flights(kept=1, few=threading.BoundedSemaphore(2))
    assert ask_at_once(count, lambda number: flights.get("a", work), work) == [1] * count
    assert flights.get("a", work) == 1


@pytest.mark.parametrize("few", [1, 2, 3])
def test_a_few_are_made_at_a_time(few):
    work, flights = Slow(), Flights(kept=1, few=threading.BoundedSemaphore(few))
    ask_at_once(12, lambda number: flights.get(number, work), work)
    assert (work.calls, work.most) == (12, few)


def test_an_error_is_that_of_all_who_wait_and_is_not_kept():
    work, flights = Slow(ValueError("no image")), Flights(kept=1, few=threading.BoundedSemaphore(2))
    found = ask_at_once(8, lambda number: flights.get("a", work), work)
    assert {str(error) for error in found} == {"no image"}
    work.error, before = None, work.calls
    assert flights.get("a", work) == before + 1


@pytest.mark.parametrize(("kept", "calls"), [(0, 6), (1, 6), (2, 5), (3, 3)])
def test_the_last_ones_are_kept(kept, calls):
    work, flights = Slow(), Flights(kept=kept, few=threading.BoundedSemaphore(2))
    work.go.set()
    for key in "abcabc" if kept != 2 else "abcacb":
        flights.get(key, work)
    assert work.calls == calls


def test_thirty_windows_decode_a_picture_once(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)).save(path)
    read, work = pictures.read_image, Slow()

    def slow(*args, **options):
        work()
        return read(*args, **options)

    monkeypatch.setattr(pictures, "read_image", slow)
    found = ask_at_once(30, lambda number: pictures.image_png(str(path), center=100, width=200), work)
    assert work.calls == 1
    assert len(set(found)) == 1
    assert Image.open(io.BytesIO(found[0])).size == (60, 50)


@pytest.mark.parametrize("shape", [(2000, 2000), (1, 3_000_000), (3_000_000, 1), (7, 5), (1500, 1500, 3)])
def test_rows_that_are_drawn_in_turn_are_those_drawn_at_once(shape):
    plane = np.random.default_rng(0).integers(0, 3000, shape if len(shape) == 3 else (*shape, 1)).transpose(2, 1, 0)
    found = np.asarray(Image.open(io.BytesIO(pictures._png(plane, 1000.0, 2000.0))))
    wanted = np.clip(((plane - 1000.0) * (255 / 2000) + 127.5).round(), 0, 255).astype(np.uint8).transpose(2, 1, 0)
    np.testing.assert_array_equal(found, wanted if len(shape) == 3 else wanted[..., 0])


def test_thirty_clients_have_one_image_classified_once(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    work = Slow()

    def preprocessing(item):
        work()
        return {"image": torch.ones(3, 8, 8)}

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 2)).eval()
    predictor = ImagePredictor(network, preprocessing, 2)
    found = ask_at_once(30, lambda number: predictor.predict(str(path)), work)
    assert work.calls == 1
    assert {tuple(one) for one in found} == {tuple(found[0])}
    predictor.predict(str(path))
    assert work.calls == 2  # it may have changed since
