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


def test_what_is_asked_for_meanwhile_is_done_once_more():
    begun, go, done = threading.Semaphore(0), threading.Semaphore(0), []

    def work():
        begun.release()
        assert go.acquire(timeout=200)
        done.append(len(done))

    worker = Background("test", work, failure="nothing")
    worker.ask()
    assert begun.acquire(timeout=200)
    for _ in range(5):
        worker.ask()
    go.release()
    assert begun.acquire(timeout=200)
    go.release()
    for thread in [one for one in threading.enumerate() if one.name == "test"]:
        thread.join(200)
    assert done == [0, 1]


def test_a_failure_is_logged_and_does_not_end_it(caplog):
    done = threading.Event()

    def work():
        if not caplog.text:
            raise ValueError("broken")
        done.set()

    worker = Background("test", work, failure="it could not be done")
    worker.ask()
    for thread in [one for one in threading.enumerate() if one.name == "test"]:
        thread.join(200)
    assert "it could not be done" in caplog.text
    worker.ask()
    assert done.wait(200)
