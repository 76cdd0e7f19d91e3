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

import pytest
from annotation_runs import label_all

from monai_weckd.annotation import StageRunningError, StageStoppedError


def test_one_stage_at_a_time(here):
    label_all(here)
    here.reserve()
    assert here.training.running
    with pytest.raises(
        StageRunningError, match=r"stage: expected none in training, got stage 1\. Wait until it is done"
    ):
        here.reserve()
    thread = threading.Thread(target=here.train, kwargs={"reserved": True})
    thread.start()
    with pytest.raises(StageRunningError):
        here.train()
    here.chain.go.set()
    thread.join()
    expected = {"running": False, "stage": 1, "epoch": 2, "epochs": 3, "error": None}
    assert here.state()["training"] == expected


def test_a_stage_that_is_stopped_leaves_its_labels_to_the_next(here):
    with pytest.raises(ValueError, match=r"stage: expected one in training, got none\. There is nothing to stop\."):
        here.stop()
    label_all(here)
    here.reserve()
    here.stop()
    with pytest.raises(StageStoppedError, match=r"stage: stopped after epoch 2 of 3\. Its labels wait for the next"):
        here.train(reserved=True)
    assert here.state()["training"]["error"].startswith("stage: stopped after epoch 2 of 3.")
    here.chain.go.set()
    assert here.train() == {"stage": 1}  # which nobody has stopped


def test_a_stage_without_labels_is_refused_before_it_begins(here):
    with pytest.raises(ValueError, match="labels: expected labels in two groups or more of at least two classes"):
        here.train()
    assert here.state()["training"] == {"running": False, "stage": 0, "epoch": 0, "epochs": 0, "error": None}


def test_why_a_stage_failed_is_told_in_one_line(here):
    label_all(here)
    here.chain.error = FloatingPointError("loss: expected a finite number,\n got nan.")
    here.chain.go.set()
    with pytest.raises(FloatingPointError):
        here.train()
    found = here.state()["training"]
    assert (found["running"], found["error"]) == (False, "loss: expected a finite number, got nan.")
    here.chain.error = None
    assert here.train() == {"stage": 1}
    assert here.state()["training"]["error"] is None


def test_a_stage_that_cannot_be_logged_does_not_begin(here):
    label_all(here)
    log = here.store.path.with_suffix(".log")
    log.rename(kept := log.with_suffix(".kept"))
    log.mkdir()
    with pytest.raises(OSError, match=r"labels\.log: expected a file that can be written"):
        here.reserve()
    assert not here.training.running
    log.rmdir()
    kept.rename(log)
    here.reserve()
