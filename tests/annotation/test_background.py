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

import threading

from monai_weckd.annotation.background import Background


def test_a_call_meanwhile_has_the_work_done_once_more():
    begun, go, done = threading.Semaphore(0), threading.Semaphore(0), []

    def work():
        begun.release()
        assert go.acquire(timeout=200)
        done.append(len(done))

    behind = Background(work, name="work", failed="no work")
    behind.start()
    assert begun.acquire(timeout=200)
    for _ in range(3):
        behind.start()
    go.release()
    assert begun.acquire(timeout=200)
    assert done == [0]
    go.release()
    _end(behind)
    assert done == [0, 1]


def test_a_failure_is_logged_and_ends_nothing(caplog):
    outcomes = [ZeroDivisionError("none"), None]

    def work():
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    behind = Background(work, name="work", failed="the work could not be done")
    for _ in range(2):
        behind.start()
        _end(behind)
    assert outcomes == []
    assert [record.message for record in caplog.records] == ["the work could not be done"]


def _end(behind):
    """Wait until the thread of some work has ended."""
    for thread in threading.enumerate():
        if thread.name == "work":
            thread.join(200)
