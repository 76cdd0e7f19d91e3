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

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from monai_weckd.engines.calibration import fit_temperature, fit_temperatures
from monai_weckd.engines.estimate import estimate_accuracy, estimate_findings, represented
from monai_weckd.metrics import finding_intervals


def world(count, classes=3, seed=0):
    """Return logits and labels that are drawn with their probabilities."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2.5, (count, classes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random((count, 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
    return torch.from_numpy(logits), torch.from_numpy(labels)


def by_item(count, name="item"):
    return [f"{name} {place}" for place in range(count)]


@pytest.mark.parametrize("classes", [2, 3, 6])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_hard_labels_do_not_lower_the_estimate(classes, temperature):
    logits, labels = world(6000, classes)
    top = logits.topk(2, dim=1).values
    hard = torch.zeros(6000, dtype=torch.bool)
    hard[(top[:, 0] - top[:, 1]).argsort()[:1500]] = True  # the least margins: a choice that sees no label
    # what the head says is off by a temperature, which the hard labels tell
    told = temperature * logits
    found = estimate_accuracy(told[hard], labels[hard], by_item(1500), told[~hard], by_item(4500, "other"))
    predicted = logits.argmax(dim=1)
    others = (predicted == labels)[~hard].double().mean()
    assert found["accuracy"]["value"] == pytest.approx(float(others), abs=0.04)
    balanced = balanced_accuracy_score(labels[~hard], predicted[~hard])
    assert found["balanced_accuracy"]["value"] == pytest.approx(balanced, abs=0.04)
    assert (predicted == labels)[hard].double().mean() < others - 0.2  # what cross-validation would say
    assert found["images"] == 4500


def test_labels_count_as_often_as_their_weights_say():
    logits, labels = world(60)
    others = world(200, seed=1)[0]
    weights = torch.arange(60) % 4 + 1
    groups = by_item(60)
    repeated = [group for group, times in zip(groups, weights.tolist(), strict=True) for _ in range(times)]
    arguments = others, by_item(200, "other")
    weighted = estimate_accuracy(logits, labels, groups, *arguments, weights=weights)
    again = estimate_accuracy(
        logits.repeat_interleave(weights, 0), labels.repeat_interleave(weights), repeated, *arguments
    )
    for name in ("accuracy", "balanced_accuracy"):
        assert weighted[name]["value"] == pytest.approx(again[name]["value"], abs=1e-9)
        # the groups are drawn, and the weights of their labels stay
        assert weighted[name]["interval"] == pytest.approx(again[name]["interval"], abs=1e-9)


def test_weights_correct_for_hard_labels_that_are_calibrated_otherwise():
    # the head is too sure of itself in a quarter of the images, of which all have a label, and few of the others
    logits, labels = world(8000)
    hard = torch.arange(8000) % 4 == 0
    told = torch.where(hard[:, None], 2 * logits, logits)
    labeled = hard | (torch.arange(8000) % 8 == 1)
    weights = torch.where(hard, 1, 6)[labeled]  # the others are six times as many as those of them with a label
    right = float((told.argmax(dim=1) == labels)[~labeled].double().mean())
    names, others = by_item(int(labeled.sum())), by_item(int((~labeled).sum()), "other")
    arguments = told[labeled], labels[labeled], names, told[~labeled], others
    weighted, plain = (estimate_accuracy(*arguments, weights=given)["accuracy"]["value"] for given in (weights, None))
    assert abs(weighted - right) < 0.75 * abs(plain - right)


def test_a_label_stands_for_the_images_that_it_is_nearest_to():
    random = np.random.default_rng(0)
    labeled, others = (torch.from_numpy(random.normal(size=(count, 5))) for count in (7, 60))
    nearest = torch.cdist(others, labeled).argmin(dim=1)
    assert represented(labeled, others).tolist() == [int((nearest == place).sum()) for place in range(7)]


def test_the_formula():
    logits, labels = world(40)
    others, _ = world(70, seed=1)
    found = estimate_accuracy(logits, labels, by_item(40), others, by_item(70, "other"))
    shares = torch.softmax(others / fit_temperature(logits, labels), dim=1).numpy()
    best = shares.argmax(axis=1)
    recalls = [shares[best == label, label].sum() / shares[:, label].sum() for label in range(3)]
    assert found["accuracy"]["value"] == pytest.approx(shares.max(axis=1).mean(), abs=1e-9)
    assert found["balanced_accuracy"]["value"] == pytest.approx(np.mean(recalls), abs=1e-9)


def test_the_interval_is_over_groups():
    logits, labels = world(200)
    others = world(8, seed=1)[0].repeat_interleave(50, dim=0)  # the images of a group are alike
    single = estimate_accuracy(logits, labels, by_item(200), others, by_item(400, "other"))
    few = estimate_accuracy(logits, labels, by_item(200), others, [f"group {place // 50}" for place in range(400)])
    widths = []
    for found in (single, few):
        low, high = found["accuracy"]["interval"]
        assert low < found["accuracy"]["value"] < high
        widths.append(high - low)
    assert widths[0] < widths[1]


def test_the_interval_is_over_the_images_without_a_label_as_well():
    # labels that are always right have the lowest temperature in every draw
    held_out, labels = 8 * torch.eye(2).repeat(20, 1), torch.arange(2).repeat(20)
    others = torch.linspace(0.1, 4, 60)[:, None] * torch.eye(2).repeat(30, 1)
    found = estimate_accuracy(held_out, labels, by_item(40), others, by_item(60, "other"))
    low, high = found["accuracy"]["interval"]
    assert low < found["accuracy"]["value"] < high


@pytest.mark.parametrize("count", [50, 200])
def test_the_interval_has_the_error_of_the_labels(count):
    # labels of which four fifths are right, at one confidence, and so many images that theirs adds nothing
    labels = torch.arange(count) % 2
    predicted = torch.where(torch.arange(count) % 10 < 8, labels, 1 - labels)
    held_out = 3.0 * torch.nn.functional.one_hot(predicted, 2).double()
    others = 3.0 * torch.nn.functional.one_hot(torch.arange(4000) % 2, 2).double()
    found = estimate_accuracy(held_out, labels, by_item(count), others, by_item(4000, "other"))["accuracy"]
    assert found["value"] == pytest.approx(0.8, abs=1e-3)
    low, high = found["interval"]
    # the drawn temperature follows the drawn labels, and what they are right beyond it is added: twice the binomial
    # error at most, and not less than once
    binomial = 2 * 1.96 * (0.8 * 0.2 / count) ** 0.5
    assert 0.75 * binomial < high - low < 2.5 * binomial


def test_labels_that_no_temperature_fits_widen_the_interval():
    # as sure as can be, and right in one half: beyond the highest temperature, which every draw then has
    held_out, labels = 100.0 * torch.eye(2).repeat(20, 1), torch.arange(2).repeat_interleave(20)
    others = 1000.0 * torch.eye(2).repeat(2000, 1)
    found = estimate_accuracy(held_out, labels, by_item(40), others, by_item(4000, "other"))["accuracy"]
    assert found["value"] == pytest.approx(1)
    assert 0.7 < found["interval"][0] < 0.95  # 1.96 times the error of forty labels, one half of them right, is 0.15


def test_temperatures_of_weighted_items_are_those_of_repeated_ones():
    logits, labels = world(30)
    weights = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (5, 30)))
    expected = [fit_temperature(logits.repeat_interleave(w, 0), labels.repeat_interleave(w)) for w in weights]
    assert fit_temperatures(logits, labels, weights).tolist() == pytest.approx(expected, rel=1e-9)


def found_labels(seed=0, items=90):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, (items, 2))
    labels[rng.uniform(size=labels.shape) < 0.2] = -1
    scores = (1 / (1 + np.exp(-rng.normal(size=labels.shape) - (labels > 0)))).round(2)
    return scores, labels, [f"g{n // 3}" for n in range(items)]


def test_the_estimate_of_findings_counts_each_label_as_often_as_it_stands_for_images():
    scores, labels, groups = found_labels()
    weights = np.random.default_rng(1).integers(1, 9, len(labels))
    found = estimate_findings(scores, labels, [0.5, 0.6], groups, weights=weights)
    own = [weights * (labels[:, f] >= 0) for f in (0, 1)]
    aucs = [roc_auc_score(labels[:, f] > 0, scores[:, f], sample_weight=own[f]) for f in (0, 1)]
    assert found["macro_auc"]["value"] == pytest.approx(np.mean(aucs))
    f1 = [f1_score(labels[:, f] > 0, scores[:, f] >= limit, sample_weight=own[f]) for f, limit in enumerate((0.5, 0.6))]
    assert found["macro_f1"]["value"] == pytest.approx(np.mean(f1))
    for figure in found.values():
        low, high = figure["interval"]
        assert low < figure["value"] < high
    # as many copies of each label say the same
    copies = [np.repeat(part, weights, axis=0) for part in (scores, labels)]
    repeated = estimate_findings(*copies, [0.5, 0.6], list(np.repeat(groups, weights)))
    for key in ("value", "interval"):
        assert repeated["macro_auc"][key] == pytest.approx(found["macro_auc"][key])


def test_the_interval_of_findings_is_that_of_a_bootstrap_over_groups():
    scores, labels, groups = found_labels()
    interval = estimate_findings(scores, labels, [0.5, 0.5], groups)["macro_auc"]["interval"]
    expected = finding_intervals(scores, labels, [0.5, 0.5], groups=groups, num_resamples=2000, seed=3)["macro_auc"]
    assert interval == pytest.approx(expected, abs=0.05)
    alone = estimate_findings(scores, labels, [0.5, 0.5], ["g"] * len(labels))
    assert alone["macro_auc"]["interval"] is None
    nothing = estimate_findings(scores, np.full_like(labels, -1), [None, None], groups)
    assert nothing["macro_auc"] == {"value": None, "interval": None}
