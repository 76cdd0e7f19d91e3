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
from dataclasses import replace

import numpy as np
import pytest
import torch
from annotation_runs import SCRATCH, class_of, label_all, make_annotated, make_bundle
from sklearn.linear_model import LogisticRegression

from monai_weckd.annotation import AnnotatedChain, AnnotationSession, StageRunningError, StageStoppedError


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


def test_no_class_is_added_during_a_stage(here):
    here.training = replace(here.training, running=True, stage=2)
    with pytest.raises(StageRunningError, match="stage: expected none in training, got stage 2"):
        here.add_class("polyp")
    assert here.add_class("Ill") == ("ill", False)


def test_a_stage_and_the_live_head_train_on_what_each_reader_says(studies, tmp_path, monkeypatch):
    monkeypatch.setattr(AnnotationSession, "learn", lambda self: None)  # the test itself has it learn
    chain, items = make_annotated(studies, tmp_path / "output", val_fraction=0)
    here = AnnotationSession(chain, studies, read_twice=1.0, disagreements="soft")
    chain.score(items)
    names, counts = list(here.classes), {}
    for place, key in enumerate(chain.scores.ids[::2]):
        own = class_of(key)
        other = names[(names.index(own) + 1) % 4]
        said = [own, own] if place % 3 else [other, own, own] if place % 2 else [own, other]
        for reader, label in enumerate(said):
            here.put_label(key, label, who=f"reader {reader}")
        counts[key] = [said.count(name) / len(said) for name in names]
    divided = {key for key, shares in counts.items() if max(shares) < 1}
    assert here.shares.keys() == divided
    assert 4 < len(divided) < len(counts)
    assert here.labels == {key: class_of(key) for key in here.labels}  # the most frequent one, or the first
    chain.learn(items, here.labels, here.shares)
    live = chain.live
    shares = np.array([counts[live.ids[place]] for place in live.labeled])
    rows, classes = shares.nonzero()
    inputs = live.inputs.double().numpy()
    weights = (shares * len(shares) / (4 * shares.sum(axis=0)))[rows, classes]
    oracle = LogisticRegression(C=1 / live.head.penalty, max_iter=20_000, tol=1e-10)
    oracle.fit(inputs[[*live.labeled]][rows], classes, sample_weight=weights)
    logits = live.inputs.double() @ live.head.weight.T + live.head.bias
    np.testing.assert_allclose(torch.softmax(logits, dim=1), oracle.predict_proba(inputs), atol=1e-4)
    # an image counts once, and the stage solves what the live head has solved
    assert (here.budget(), here.state()["images"]["labeled"]) == (len(counts), len(counts))
    assert here.state()["images"]["shared"] == len(divided)
    assert here.train()["labeled"] == len(counts)
    np.testing.assert_allclose(chain.scores.probabilities, live.probabilities, atol=1e-4)


def test_readings_are_not_shared_where_a_stage_is_trained_step_by_step(images, tmp_path):
    chain = AnnotatedChain(make_bundle(images, tmp_path, **SCRATCH), tmp_path)
    with pytest.raises(ValueError, match="disagreements: expected 'settle' or 'majority' where a stage is trained st"):
        AnnotationSession(chain, images, disagreements="soft")
