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
from sklearn.metrics import average_precision_score, f1_score, recall_score, roc_auc_score, roc_curve

from monai_weckd.metrics import finding_bins, finding_intervals, finding_metrics, finding_thresholds
from monai_weckd.metrics.classification import resampled_weights
from monai_weckd.metrics.findings import FindingTally, tally_findings


def draw(items=80, findings=3, *, seed=0, unknown=0.2, ties=True):
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(size=(items, findings))
    if ties:
        probabilities = probabilities.round(1)
    labels = (rng.uniform(size=probabilities.shape) < probabilities).astype(float)
    labels[rng.uniform(size=labels.shape) < unknown] = rng.choice([-1, np.nan])
    return probabilities, labels, [f"p{n}" for n in rng.integers(0, items // 3, items)]


@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_learn_where_unknown_findings_have_no_weight(seed):
    probabilities, labels, _ = draw(seed=seed)
    limits = [0.3, 0.5, 0.7]
    found = finding_metrics(probabilities, labels, limits)
    for place, one in enumerate(found["findings"]):
        weight = (labels[:, place] >= 0).astype(float)
        truth, scores = labels[:, place] == 1, probabilities[:, place]
        assert one["known"] == weight.sum()
        assert one["present"] == truth.sum()
        assert one["auc"] == pytest.approx(roc_auc_score(truth, scores, sample_weight=weight))
        expected = average_precision_score(truth, scores, sample_weight=weight)
        assert one["average_precision"] == pytest.approx(expected)
        assert one["f1"] == pytest.approx(f1_score(truth, scores >= limits[place], sample_weight=weight))
        known = weight > 0
        inner = np.ceil(scores * 15 - 1e-9).clip(1, 15)
        parts = [known & (inner == b) for b in range(1, 16)]
        gaps = [abs(scores[part].mean() - truth[part].mean()) * part.sum() for part in parts if part.any()]
        assert one["ece"] == pytest.approx(sum(gaps) / known.sum())
    for name in ("auc", "average_precision", "f1", "ece"):
        assert found[f"macro_{name}"] == pytest.approx(np.mean([one[name] for one in found["findings"]]))


def test_weights_are_those_of_scikit_learn():
    probabilities, labels, groups = draw()
    (weights,) = resampled_weights(80, groups, level=0.95, num_resamples=5, seed=3)
    figures = tally_findings(probabilities, labels, None, weights).each()
    for place in range(3):
        truth, scores = labels[:, place] == 1, probabilities[:, place]
        for row, weight in enumerate(weights * (labels[:, place] >= 0)):
            assert figures["auc"][row, place] == pytest.approx(roc_auc_score(truth, scores, sample_weight=weight))
            expected = average_precision_score(truth, scores, sample_weight=weight)
            assert figures["average_precision"][row, place] == pytest.approx(expected)
            assert figures["f1"][row, place] == pytest.approx(f1_score(truth, scores >= 0.5, sample_weight=weight))


def test_tallies_of_folds_rank_within_a_fold_and_count_over_all():
    folds = [draw(seed=seed)[:2] for seed in range(3)]
    limits = [[0.3, 0.5, 0.7], [0.4, 0.4, 0.4], [0.6, 0.5, 0.4]]
    ones = np.ones((1, 80))
    whole = FindingTally.total([tally_findings(*fold, own, ones) for fold, own in zip(folds, limits, strict=True)])
    each = whole.each()
    for place in range(3):
        known = [labels[:, place] >= 0 for _, labels in folds]
        truth = [labels[mine, place] == 1 for (_, labels), mine in zip(folds, known, strict=True)]
        scores = [found[mine, place] for (found, _), mine in zip(folds, known, strict=True)]
        sizes = [(~one).sum() * one.sum() for one in truth]
        expected = np.average([roc_auc_score(*pair) for pair in zip(truth, scores, strict=True)], weights=sizes)
        assert each["auc"][0, place] == pytest.approx(expected)
        own = [average_precision_score(*pair) for pair in zip(truth, scores, strict=True)]
        expected = np.average(own, weights=[one.sum() for one in truth])
        assert each["average_precision"][0, place] == pytest.approx(expected)
        called = [one >= own[place] for one, own in zip(scores, limits, strict=True)]
        assert each["f1"][0, place] == pytest.approx(f1_score(np.concatenate(truth), np.concatenate(called)))
    assert whole.metrics()["macro_auc"] == pytest.approx(each["auc"].mean())


def test_intervals_are_percentiles_over_groups():
    probabilities, labels, groups = draw(60)
    found = finding_intervals(probabilities, labels, groups=groups, num_resamples=200, seed=1)
    rng, names = np.random.default_rng(1), np.unique(groups)
    members = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    values = []
    for _ in range(200):
        items = np.concatenate([members[place] for place in rng.integers(len(names), size=len(names))])
        values.append(finding_metrics(probabilities[items], labels[items]))
    aucs = [one["findings"][1]["auc"] for one in values if one["findings"][1]["auc"] is not None]
    np.testing.assert_allclose(found["findings"][1]["auc"], np.quantile(aucs, [0.025, 0.975]))
    macro = [one["macro_auc"] for one in values]
    np.testing.assert_allclose(found["macro_auc"], np.quantile(macro, [0.025, 0.975]))
    assert "ece" not in found["findings"][0]


def test_a_finding_with_one_outcome_has_no_figures_and_is_in_no_mean():
    probabilities, labels, _ = draw(findings=2)
    expected = finding_metrics(probabilities[:, :1], labels[:, :1])["macro_auc"]
    labels[:, 1] = 0
    found = finding_metrics(probabilities, labels)
    assert found["macro_auc"] == expected
    assert [found["findings"][1][name] for name in ("auc", "average_precision", "f1")] == [None] * 3
    labels[:, 0] = -1
    assert finding_metrics(probabilities, labels)["macro_auc"] is None
    one_group = finding_intervals(probabilities, labels, groups=["p"] * 80)
    assert one_group["macro_auc"] is one_group["findings"][0]["auc"] is None


@pytest.mark.parametrize("seed", range(6))
def test_the_threshold_of_youden_is_the_best_of_all(seed):
    probabilities, labels, _ = draw(30, 1, seed=seed, ties=seed % 2 == 0)
    (limit,) = finding_thresholds(probabilities, labels)
    known = labels[:, 0] >= 0
    truth, scores = labels[known, 0] == 1, probabilities[known, 0]
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    found = recall_score(truth, scores >= limit) + recall_score(~truth, scores < limit) - 1
    assert found == pytest.approx((true - false).max())


@pytest.mark.parametrize("sensitivity", [0.5, 0.8, 0.9, 1.0])
def test_the_threshold_of_a_sensitivity_is_the_largest_that_has_it(sensitivity):
    probabilities, labels, _ = draw(50, 1, ties=False)
    (limit,) = finding_thresholds(probabilities, labels, sensitivity=sensitivity)
    positive = np.sort(probabilities[labels[:, 0] == 1, 0])
    assert (positive >= limit).mean() >= sensitivity
    assert (positive > positive[positive >= limit][0]).mean() < sensitivity


def test_a_threshold_needs_both_outcomes():
    assert finding_thresholds([[0.2, 0.3], [0.4, 0.5]], [[1, 0], [0, 0]]) == [pytest.approx(0.1), None]
    found = finding_metrics([[0.2, 0.3], [0.4, 0.5]], [[1, 0], [0, 0]], [0.3, None])
    assert found["findings"][1]["threshold"] is None


def test_bins_say_how_often_a_finding_is_present():
    (first, second) = finding_bins([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9]], [[0, 1], [1, 1], [-1, 0]], num_bins=10)
    assert [(b.count, b.accuracy) for b in first] == [(2, 0.5)]
    assert [(b.count, b.accuracy) for b in second] == [(3, pytest.approx(2 / 3))]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[0.5]], [[1, 0]]), r"labels: expected probabilities and labels of one shape \(N, F\), got \(1, 1\) and"),
        (([[1.5]], [[1]]), r"probabilities: expected 0 to 1, got 1.5 to 1.5"),
        (([[0.5]], [[2]]), r"labels: expected 0, 1, -1 or NaN, got 2 to 2"),
        (([[0.5]], [[1]], [0.1, 0.2]), r"thresholds: expected 1, one for each finding, got 2"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        finding_metrics(*arguments)
    with pytest.raises(ValueError, match="sensitivity: expected a share above 0 and at most 1, got 0"):
        finding_thresholds([[0.5]], [[1]], sensitivity=0)
