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

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.utils.data import DataLoader

from monai_weckd.utils import budget
from monai_weckd.utils.budget import (
    VARIABLE,
    BudgetError,
    CountedBytes,
    CountedFile,
    borrowed,
    budgeted,
    claim,
    memory_budget,
)
from monai_weckd.utils.system import available_memory


@pytest.fixture(autouse=True)
def thousand(monkeypatch):
    monkeypatch.setenv(VARIABLE, "1000")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("5", 5), ("2k", 2048), ("2 KiB", 2048), ("1.5M", 3 * 2**19), ("8G", 2**33), ("8 GB", 2**33), ("1t", 2**40)],
)
def test_the_environment_says_how_much(monkeypatch, text, expected):
    monkeypatch.setenv(VARIABLE, text)
    assert memory_budget() == expected


@pytest.mark.parametrize("text", ["0", "-1", "much", "8 X", "1e9", "nan", "8G8"])
def test_what_is_no_size_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ValueError, match=rf"^{VARIABLE}: expected a number of bytes such as 8G, got '{text}'\."):
        memory_budget()


def test_the_default_is_half_of_what_there_is(monkeypatch):
    monkeypatch.setenv(VARIABLE, "")
    budget._default.cache_clear()
    monkeypatch.setattr(budget, "available_memory", lambda: 900)
    assert memory_budget() == 450
    budget._default.cache_clear()


@pytest.mark.parametrize(("text", "expected"), [("max\n", None), ("1048576\n", 2**20), (f"{2**62}\n", None)])
def test_a_container_has_less_than_its_machine(tmp_path, text, expected):
    (tmp_path / "memory.max").write_text(text)
    found = available_memory([tmp_path / "memory.max", tmp_path / "absent"])
    assert found == (expected or available_memory([]))
    assert available_memory([]) > 2**28


class Budgets:
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return memory_budget()


def test_workers_of_a_loader_share_it():
    assert [int(one) for one in DataLoader(Budgets(), batch_size=None, num_workers=2)] == [500] * 4


@budgeted
def take(*counts):
    for count in counts:
        claim(count)
    return sum(counts)


@pytest.mark.parametrize("counts", [(1001,), (600, 401), (10**30,)])
def test_too_much_is_refused(counts):
    with pytest.raises(BudgetError, match=r"expected what decodes within 1,000 bytes of memory, got [\d,]+\. Make it"):
        take(*counts)
    assert take(600, 400) == 1000  # nothing was kept


def test_outside_of_a_decoding_only_the_size_counts():
    claim(1000)
    claim(1000)
    with pytest.raises(BudgetError, match=r"^a.png: expected what decodes"):
        claim(1001, name="a.png")


def test_a_function_within_another_is_a_part_of_it():
    @budgeted
    def both():
        return take(600) + take(600)

    with pytest.raises(BudgetError, match=r"got 1,200"):
        both()


def test_what_was_freed_counts_no_more():
    @budgeted
    def one_after_the_other():
        for _ in range(5):
            with borrowed():
                claim(900)
        claim(-5)
        claim(100)
        return True

    assert one_after_the_other()


def test_who_finds_no_room_begins_again_and_holds_nothing_meanwhile():
    held, begun, free = threading.Event(), [], threading.Event()

    @budgeted
    def first():
        claim(800)
        held.set()
        assert free.wait(60)

    @budgeted
    def second():
        begun.append(True)
        claim(100)
        if len(begun) == 1:
            free.set()
        claim(300)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(first)
        assert held.wait(60)
        other = pool.submit(second)
        one.result(60), other.result(60)
    assert len(begun) in (1, 2)  # 1 if the first had gone by then
    assert take(1000) == 1000


def test_no_more_is_claimed_at_once_than_there_is():
    lock, now, most = threading.Lock(), [0], [0]

    def change(count):
        with lock:
            now[0] += count
            most[0] = max(most[0], now[0])

    @budgeted
    def work(number):
        counted = 0
        try:
            for part in (number * 37 % 300, number * 91 % 600):
                claim(part)
                change(part)
                counted += part
        finally:
            change(-counted)
        return number

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(400))) == list(range(400))
    assert 0 < most[0] <= 1000
    assert now == [0]


def _child(queue):
    queue.put(take(1000))


def test_a_forked_process_has_what_its_parent_holds():
    @budgeted
    def parent():
        claim(900)
        context = multiprocessing.get_context("fork")
        queue = context.Queue()
        child = context.Process(target=_child, args=(queue,))
        child.start()
        assert queue.get(timeout=60) == 1000
        child.join()

    parent()


@pytest.mark.parametrize("kind", [CountedFile, CountedBytes])
def test_what_is_read_again_and_again_counts(tmp_path, monkeypatch, kind):
    monkeypatch.setenv(VARIABLE, "4M")
    (tmp_path / "a").write_bytes(bytes(1000))

    @budgeted
    def read(times, *, swallow=False):
        with kind(tmp_path / "a") if kind is CountedFile else kind(bytes(1000)) as file:
            for _ in range(times):
                file.seek(0)
                try:
                    assert file.read(2**40) == bytes(1000)
                except BudgetError:
                    if not swallow:
                        raise
            assert file.read() == b""
            file.check()
        return True

    assert read(1000)
    for swallow in (False, True):
        with pytest.raises(BudgetError):
            read(5000, swallow=swallow)
