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
import sys

import pytest

from monai_weckd.utils import progress as module
from monai_weckd.utils.progress import Progress, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """Return the seconds that the clock shows; a test moves them."""
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_the_log_says_what_begins_and_how_far_it_is(clock, caplog, capfd):
    caplog.set_level("INFO")
    with Progress("verifying", 40, unit="files") as shown:
        assert caplog.messages == ["verifying: 40 files"]
        for done in range(1, 41):
            clock[0] += 0.3
            shown.move(done, lambda: "stage 1")
    assert caplog.messages == [
        "verifying: 40 files",
        "verifying: 34 of 40 files, stage 1",
        "verifying: 40 of 40 files in 12.0 s",
    ]
    assert capfd.readouterr().err == ""


def test_what_is_done_at_once_takes_one_line(clock, caplog):
    caplog.set_level("INFO")
    assert list(progress("abc", "decoding", total=3)) == ["a", "b", "c"]
    assert caplog.messages == ["decoding: 3 images"]


@pytest.mark.parametrize(("total", "done", "rank"), [(0, 0, "0"), (4, 4, "0"), (4, 0, "1")])
def test_nothing_is_shown_of_nothing_and_by_other_processes(total, done, rank, caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setenv("RANK", rank)
    with Progress("decoding", total, done=done) as shown:
        shown.move(total)
    assert not caplog.messages


def test_a_terminal_gets_a_bar_and_the_log_nothing(caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress("training", 24, unit="steps", done=4) as shown:
        shown.move(24, lambda: "stage 3 epoch 2/2")
    assert "training: 100%" in sys.stderr.getvalue()
    assert "24/24" in sys.stderr.getvalue()
    assert "stage 3 epoch 2/2" in sys.stderr.getvalue()
    assert not caplog.messages


def test_a_terminal_without_tqdm_has_lines(caplog, monkeypatch):
    caplog.set_level("INFO")
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert list(progress([1, 2], "embedding", total=2)) == [1, 2]
    assert caplog.messages == ["embedding: 2 images"]


def test_an_error_ends_the_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(KeyError), Progress("training", 3) as shown:
        raise KeyError
    assert shown.bar.disable
