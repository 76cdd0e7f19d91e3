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

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

import monai_weckd.metrics.classification
from monai_weckd.metrics import bootstrap_intervals, classification_metrics, confusion_counts, reliability_bins

GOOD = np.array([[0.9, 0.1], [0.4, 0.6]])


@pytest.mark.parametrize(
    ("probabilities", "labels", "error", "message"),
    [
        ([0.9, 0.1], [0], ValueError, r"probabilities: expected shape \(N, C\) .* got \(2,\)"),
        ([[1.0], [1.0]], [0, 0], ValueError, r"probabilities: expected shape \(N, C\) .* got \(2, 1\)"),
        (np.zeros((0, 2)), np.zeros(0, int), ValueError, r"probabilities: expected shape \(N, C\)"),
        ([[3.0, -1.0], [0.5, 0.5]], [0, 1], ValueError, r"probabilities: expected rows in 0..1 .* Apply a softmax"),
        ([[0.9, 0.9], [0.5, 0.5]], [0, 1], ValueError, r"row sums from 1 to 1.8"),
        ([[math.nan, 1.0], [0.5, 0.5]], [0, 1], ValueError, r"probabilities: expected rows in 0..1"),
        ([[math.inf, 1.0], [0.5, 0.5]], [0, 1], ValueError, r"probabilities: expected rows in 0..1"),
        (GOOD, [0], ValueError, r"labels: expected one label for each of the 2 rows .* got 1"),
        (GOOD, [[1, 0], [0, 1]], ValueError, r"labels: expected shape \(N,\), got \(2, 2\)\. Pass class indices"),
        (GOOD, [0, 2], ValueError, r"labels: expected class indices in 0..1, got 0..2"),
        (GOOD, [0, -1], ValueError, r"labels: expected class indices in 0..1, got -1..0\. Leave items without"),
        (GOOD, [0.0, 1.0], TypeError, r"labels: expected integer class indices, got dtype float64"),
    ],
)
@pytest.mark.parametrize("function", [classification_metrics, reliability_bins, bootstrap_intervals])
def test_arguments_are_validated(function, probabilities, labels, error, message):
    with pytest.raises(error, match=message):
        function(probabilities, labels)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"groups": ["a"]}, "groups: expected one group for each of the 2 items, got 1"),
        ({"level": 0}, "level: expected a fraction between 0 and 1, got 0"),
        ({"level": 95}, "level: expected a fraction between 0 and 1, got 95"),
        ({"num_resamples": 0}, "num_resamples: expected an integer of at least 1, got 0"),
    ],
)
def test_bootstrap_arguments_are_validated(kwargs, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(GOOD, [0, 1], **kwargs)


def test_other_arguments_are_validated():
    with pytest.raises(ValueError, match="num_bins: expected an integer of at least 1, got 0"):
        reliability_bins(GOOD, [0, 1], num_bins=0)
    with pytest.raises(ValueError, match="predicted: expected one class for each of the 2 labels, got 1"):
        confusion_counts([0, 1], [0], num_classes=2)
    with pytest.raises(ValueError, match=r"predicted: expected class indices in 0..1, got 0..2"):
        confusion_counts([0, 1], [0, 2], num_classes=2)


def make_case(seed, *, num_items, num_classes, absent=(), tied=False):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(num_classes, 0.5), size=num_items)
    if tied:  # rounded in steps of 1/4, so that scores tie and fall on the edges of bins
        probabilities = rng.multinomial(4, probabilities) / 4
    present = [index for index in range(num_classes) if index not in absent]
    right = rng.random(num_items) < 0.4
    labels = np.where(right, probabilities.argmax(1), rng.choice(present, size=num_items))
    return probabilities, np.where(np.isin(labels, present), labels, present[0])


CASES = [
    {"num_items": 200, "num_classes": 2},
    {"num_items": 150, "num_classes": 5},
    {"num_items": 150, "num_classes": 3, "tied": True},
    {"num_items": 80, "num_classes": 6, "absent": (0, 4)},
    {"num_items": 60, "num_classes": 3, "absent": (1,), "tied": True},
]


def expected_calibration_error(probabilities, labels, num_bins=15):
    total = 0.0
    for number in range(num_bins):
        lower, upper = number / num_bins, (number + 1) / num_bins
        members = [
            index for index, row in enumerate(probabilities) if lower < max(row) <= upper or (number == 0 == max(row))
        ]
        if members:
            confidence = sum(max(probabilities[index]) for index in members) / len(members)
            hits = sum(
                int(list(probabilities[index]).index(max(probabilities[index])) == labels[index]) for index in members
            )
            total += len(members) / len(labels) * abs(confidence - hits / len(members))
    return total


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_metrics_agree_with_scikit_learn(case, seed):
    probabilities, labels = make_case(seed, **case)
    predicted, present = probabilities.argmax(1), np.unique(labels)
    found = classification_metrics(probabilities, labels)
    in_truth = np.isin(predicted, present)
    recall = sklearn_metrics.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    if in_truth.all():
        assert recall == pytest.approx(sklearn_metrics.balanced_accuracy_score(labels, predicted))
    auc = [sklearn_metrics.roc_auc_score(labels == index, probabilities[:, index]) for index in present]
    assert found == pytest.approx(
        {
            "accuracy": sklearn_metrics.accuracy_score(labels, predicted),
            "balanced_accuracy": recall,
            "macro_f1": sklearn_metrics.f1_score(labels, predicted, labels=present, average="macro"),
            "macro_auc": float(np.mean(auc)),
            "ece": expected_calibration_error(probabilities, labels),
        },
        abs=1e-12,
    )
    assert all(type(value) is float for value in found.values())


def test_metrics_agree_with_the_multiclass_functions_of_scikit_learn():
    probabilities, labels = make_case(3, num_items=120, num_classes=4)
    found = classification_metrics(probabilities, labels)
    auc = sklearn_metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    balanced = sklearn_metrics.balanced_accuracy_score(labels, probabilities.argmax(1))
    assert found["macro_auc"] == pytest.approx(auc, abs=1e-12)
    assert found["balanced_accuracy"] == pytest.approx(balanced, abs=1e-12)


def test_a_single_class_has_no_auc():
    found = classification_metrics(GOOD, [0, 0])
    assert found["macro_auc"] is None
    assert found["balanced_accuracy"] == 0.5


def test_scores_that_all_tie_rank_nothing():
    assert classification_metrics(np.full((6, 2), 0.5), [0, 1, 0, 1, 1, 1])["macro_auc"] == 0.5


def test_float32_softmax_above_one_falls_into_the_last_bin():
    probabilities = np.array([[1.0000001, 0.0]], dtype=np.float32)
    (found,) = reliability_bins(probabilities, [0])
    assert (found.upper, found.count, found.accuracy) == (1.0, 1, 1.0)


def test_a_probability_on_an_edge_belongs_to_the_lower_bin():
    found = reliability_bins([[0.75, 0.25], [0.76, 0.24]], [0, 1], num_bins=4)
    assert [(item.lower, item.upper, item.count, item.accuracy) for item in found] == [
        (0.5, 0.75, 1, 1.0),
        (0.75, 1.0, 1, 0.0),
    ]


def test_confusion_counts_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 4, 100), rng.integers(0, 5, 100)
    found = confusion_counts(labels, predicted, num_classes=5)
    np.testing.assert_array_equal(found, sklearn_metrics.confusion_matrix(labels, predicted, labels=range(5)))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), num_items=st.integers(1, 12), num_classes=st.integers(2, 5))
def test_metrics_are_always_fractions(seed, num_items, num_classes):
    probabilities, labels = make_case(seed, num_items=num_items, num_classes=num_classes, tied=True)
    found = classification_metrics(probabilities, labels)
    assert all(value is None or 0 <= value <= 1 for value in found.values())
    intervals = bootstrap_intervals(probabilities, labels, num_resamples=5)
    assert all(limits is None or 0 <= limits[0] <= limits[1] <= 1 for limits in intervals.values())


def test_bootstrap_of_the_accuracy_is_binomial():
    rng = np.random.default_rng(0)
    labels = (rng.random(150) < 0.3).astype(int)  # the network always says class 0
    probabilities = np.tile([0.8, 0.2], (150, 1))
    accuracy = float((labels == 0).mean())
    found = bootstrap_intervals(probabilities, labels, level=0.9, num_resamples=2000)["accuracy"]
    expected = stats.binom.ppf([0.05, 0.95], 150, accuracy) / 150
    assert found == pytest.approx(expected, abs=1.01 / 150)


def test_bootstrap_draws_whole_groups():
    probabilities, labels = make_case(5, num_items=30, num_classes=3)
    names = [f"{index:02d}" for index in range(30)]
    alone = bootstrap_intervals(probabilities, labels, num_resamples=200)
    tripled = bootstrap_intervals(
        np.repeat(probabilities, 3, 0), np.repeat(labels, 3), groups=np.repeat(names, 3), num_resamples=200
    )
    for name, limits in alone.items():
        assert tripled[name] == pytest.approx(limits), name
    apart = bootstrap_intervals(np.repeat(probabilities, 3, 0), np.repeat(labels, 3), num_resamples=200)
    assert apart["accuracy"][1] - apart["accuracy"][0] < 0.8 * (alone["accuracy"][1] - alone["accuracy"][0])


def test_bootstrap_of_the_metrics_against_drawn_items():
    probabilities, labels = make_case(5, num_items=30, num_classes=3, tied=True)
    found = bootstrap_intervals(probabilities, labels, num_resamples=40, seed=2)
    rng = np.random.default_rng(2)
    drawn = [rng.integers(30, size=30) for _ in range(40)]
    figures = [classification_metrics(probabilities[index], labels[index]) for index in drawn]
    for name, limits in found.items():
        expected = np.quantile([figure[name] for figure in figures], [0.025, 0.975])
        assert limits == pytest.approx(expected, abs=1e-12), name


def test_bootstrap_in_parts_of_any_size(monkeypatch):
    probabilities, labels = make_case(5, num_items=30, num_classes=3)
    at_once = bootstrap_intervals(probabilities, labels, num_resamples=50)
    for weights in (1, 7 * 30):  # a resample alone, and seven, with one left for the last part
        monkeypatch.setattr(monai_weckd.metrics.classification, "_WEIGHTS_AT_ONCE", weights)
        found = bootstrap_intervals(probabilities, labels, num_resamples=50)
        for name, limits in at_once.items():
            assert found[name] == pytest.approx(limits, abs=1e-12), name


def test_bootstrap_is_seeded():
    probabilities, labels = make_case(5, num_items=30, num_classes=3)
    first, again, other = (
        bootstrap_intervals(probabilities, labels, num_resamples=50, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_bootstrap_needs_two_groups_and_two_classes():
    probabilities, labels = make_case(5, num_items=10, num_classes=3)
    assert set(bootstrap_intervals(probabilities, labels, groups=["a"] * 10).values()) == {None}
    found = bootstrap_intervals(probabilities, np.zeros(10, int), num_resamples=20)
    assert found["macro_auc"] is None
    assert found["accuracy"] is not None


def test_no_items_have_no_counts():
    none = np.zeros(0, int)
    assert confusion_counts(none, none, num_classes=2).tolist() == [[0, 0], [0, 0]]


def test_metrics_need_little():
    # neither torch nor MONAI, and nothing else of the package that could need them
    code = "import sys, monai_weckd.metrics; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"torch", "monai", "sklearn"}
    ours = {name.split(".")[1] for name in loaded if name.startswith("monai_weckd.")}
    assert "metrics" in ours
    assert ours <= {"metrics", "utils"}


def test_calibration_error_has_no_interval():
    assert "ece" not in bootstrap_intervals(GOOD, [0, 1], num_resamples=2)
