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

import time

import numpy as np
import pytest
import torch
from annotation_runs import SCRATCH, class_of, label_next, make_annotated
from sklearn.metrics import balanced_accuracy_score

from monai_weckd.annotation import AnnotationSession
from monai_weckd.annotation.live import Estimates, LiveHead
from monai_weckd.networks import StandardizedLinear
from monai_weckd.plan.label_kind import LabelKind


def draw(count, seed=0):
    """Return features of three classes, (N, 6), of other scales than one, and the classes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    points = random.normal(0, 3, (3, 6))[labels] + random.normal(0, 1, (count, 6))
    return (points * random.uniform(0.1, 9, 6) + 5).astype(np.float32), labels


def heads(layer):
    features, labels = draw(60)
    ids = [f"{place}.png" for place in range(60)]
    return LiveHead(layer, ids, features, LabelKind(("a", "b", "c"))), ids, labels


@pytest.mark.parametrize("kind", [torch.nn.Linear, StandardizedLinear])
def test_it_learns_from_the_labels_so_far(kind):
    head, ids, labels = heads(kind(6, 3))
    groups = {key: key for key in ids}
    model = head.solve({key: int(label) for key, label in zip(ids[:24], labels, strict=False)}, groups)
    np.testing.assert_allclose(model.probabilities.sum(axis=1), 1, atol=1e-5)
    assert balanced_accuracy_score(labels[24:], model.probabilities[24:].argmax(axis=1)) > 0.8
    assert model.summary["labels"] == 24
    assert 0.8 < model.summary["balanced_accuracy"] <= 1


def test_one_class_teaches_nothing_and_other_images_are_passed_over():
    head, ids, _ = heads(StandardizedLinear(6, 3))
    groups = {key: key for key in ids}
    assert head.solve({}, groups) is None
    assert head.solve({ids[0]: 1, ids[3]: 1}, groups) is None
    assert head.solve({ids[0]: 1, "gone.png": 2}, groups) is None


def test_where_nothing_can_be_held_out_there_is_no_figure():
    head, ids, labels = heads(StandardizedLinear(6, 3))
    model = head.solve(
        {key: int(label) for key, label in zip(ids[:3], labels, strict=False)}, {key: key for key in ids}
    )
    assert model.summary == {"labels": 3, "balanced_accuracy": None}


def test_it_is_the_head_that_a_stage_would_solve(studies, tmp_path):
    chain, items = make_annotated(studies, tmp_path / "run", val_fraction=0.0)
    labels = {}
    chain.score(items)
    label_next(chain, items, labels, 10)
    assert chain.live is None
    chain.learn(items, labels)
    live = chain.live
    assert chain.next(items, labels)[0].probabilities is None  # no student has seen the image
    before = chain._scores.ids
    chain.append_stage(items, labels)
    assert chain._scores.ids == before
    np.testing.assert_allclose(live.probabilities, chain._scores.probabilities, atol=2e-3)


def test_the_next_images_are_chosen_by_it(studies, tmp_path, monkeypatch):
    guides = []
    monkeypatch.setattr(
        "monai_weckd.annotation.upcoming.suggest", lambda *args, guide, **options: guides.append(guide) or []
    )
    chain, items = make_annotated(studies, tmp_path / "run")
    chain.score(items)
    labels = {item["id"]: class_of(item["id"]) for item in items[:20]}
    chain.next(items, labels)
    chain.learn(items, labels)
    chain.next(items, labels)
    assert guides[0] is None
    assert guides[1] is chain.live.probabilities


def test_stages_that_train_step_by_step_have_no_live_head(studies, tmp_path):
    chain, items = make_annotated(studies, tmp_path / "run", settings=SCRATCH)
    chain.score(items)
    labels = {item["id"]: class_of(item["id"]) for item in items[:20]}
    chain.learn(items, labels)
    assert chain.live is None


def test_an_answer_is_learned_in_the_background(studies, tmp_path):
    chain, items = make_annotated(studies, tmp_path / "run")
    session = AnnotationSession(chain, studies)
    chain.score(items)
    assert session.state()["live"] is None
    for item in items[:20]:
        session.put_label(item["id"], class_of(item["id"]))
    until = time.monotonic() + 200
    while (session.state()["live"] or {}).get("labels") != 20:
        assert time.monotonic() < until
        time.sleep(0.05)
    session.remove_label(items[0]["id"])
    while session.state()["live"]["labels"] != 19:
        assert time.monotonic() < until
        time.sleep(0.05)


def test_labels_that_were_held_out_have_probabilities_by_other_heads():
    head, ids, labels = heads(StandardizedLinear(6, 3))
    given = {key: int(label) for key, label in zip(ids[:23], labels, strict=False)}
    groups = {key: f"g{place // 3}" for place, key in enumerate(ids)}
    model = head.solve(given, groups)
    assert list(model.held_out) == ids[:23]
    rows = np.stack(list(model.held_out.values()))
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    predicted = rows.argmax(axis=1)
    assert balanced_accuracy_score(labels[:23], predicted) == pytest.approx(model.summary["balanced_accuracy"])
    lone = {**given, ids[2]: 0, **{key: 0 for key in given if given[key] == 2}, ids[5]: 2}
    assert ids[5] not in head.solve(lone, groups).held_out  # no other group has its class


def test_the_estimate_is_that_of_a_stage_for_as_many_images():
    head, ids, labels = heads(StandardizedLinear(6, 3))
    groups = {key: key for key in ids}
    model = head.solve({key: int(label) for key, label in zip(ids[:24], labels, strict=False)}, groups)
    found = head.estimate(model, groups)
    low, high = found["balanced_accuracy"]["interval"]
    assert found["images"] == 36
    assert low <= found["balanced_accuracy"]["value"] <= high
    assert head.estimate(model, {key: key for key in ids[:40]}) is None  # fewer images than labels are left
    two = head.solve({key: int(label) % 2 for key, label in zip(ids[:24], labels, strict=False)}, groups)
    assert head.estimate(two, groups) is None  # a class has no label


def test_a_part_of_many_images_stands_for_all(monkeypatch):
    monkeypatch.setattr("monai_weckd.annotation.live._SAMPLE", 12)
    head, ids, labels = heads(StandardizedLinear(6, 3))
    shares = []
    monkeypatch.setattr(
        "monai_weckd.annotation.live.estimate_layer", lambda *args, share: shares.append((len(args[2][0][1]), share))
    )
    groups = {key: key for key in ids}
    head.estimate(head.solve({key: int(label) for key, label in zip(ids[:24], labels, strict=False)}, groups), groups)
    assert shares == [(12, 3.0)]


def test_an_estimate_is_compared_with_that_of_ten_labels_before():
    kept = Estimates()
    assert kept.of(5) == {"estimate": None, "before": None}
    for labels in range(8, 24):
        kept.add(labels, {"balanced_accuracy": {"value": labels / 100, "interval": [0.0, 1.0]}})
    kept.add(23, {"balanced_accuracy": {"value": 0.5, "interval": [0.0, 1.0]}})  # a label was changed
    found = kept.of(23)
    assert found["estimate"] == {"labels": 23, "value": 0.5, "interval": [0.0, 1.0]}
    assert (found["before"]["labels"], kept.of(12)["before"]["labels"]) == (13, 8)
    assert kept.of(24)["estimate"] is None  # not known yet
