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
from sklearn.metrics import accuracy_score, balanced_accuracy_score, confusion_matrix, f1_score, roc_auc_score

from monai_weckd.metrics import Tally, classification_metrics, tally_predictions
from monai_weckd.metrics.tally import confusion

NAMES = ("accuracy", "balanced_accuracy", "macro_f1", "macro_auc")


def test_weighted_sums_give_the_metrics_of_repeated_items():
    rng = np.random.default_rng(1)
    labels = np.array([0, 1, 2, 3] * 10)
    scores = np.exp(rng.normal(size=(40, 4)).round(1) + np.eye(4)[labels])
    rows = scores / scores.sum(1, keepdims=True)
    weights = rng.integers(0, 4, size=(5, 40))
    found = tally_predictions(rows, labels, weights).metrics()
    for row, count in enumerate(weights):
        index = np.repeat(np.arange(40), count)
        truth, probabilities = labels[index], rows[index]
        guess = probabilities.argmax(1)
        expected = (
            accuracy_score(truth, guess),
            balanced_accuracy_score(truth, guess),
            f1_score(truth, guess, average="macro"),
            roc_auc_score(truth, probabilities, multi_class="ovr", average="macro"),
        )
        assert [found[name][row] for name in NAMES] == pytest.approx(expected, abs=1e-12)


def test_classes_that_no_item_has_are_left_out():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    found = tally_predictions(probabilities, np.array([0, 1, 1]), np.ones((1, 3))).metrics()
    assert found["balanced_accuracy"] == pytest.approx([0.75])
    assert found["macro_auc"] == pytest.approx([0.75])
    alone = tally_predictions(probabilities, np.array([1, 1, 1]), np.ones((1, 3))).metrics()
    assert np.isnan(alone["macro_auc"][0])
    assert alone["balanced_accuracy"] == pytest.approx([1 / 3])


@pytest.mark.parametrize("tied", [False, True])
def test_fractional_weights_against_scikit_learn(tied):
    rng = np.random.default_rng(2)
    labels, rows = np.arange(50) % 3, rng.dirichlet(np.ones(3), size=50)
    if tied:
        rows = rng.multinomial(4, rows) / 4
    weights, guess = rng.random((4, 50)), rows.argmax(1)
    found = tally_predictions(rows, labels, weights).metrics()
    for row, weight in enumerate(weights):
        auc = [roc_auc_score(labels == c, rows[:, c], sample_weight=weight) for c in range(3)]
        expected = (
            accuracy_score(labels, guess, sample_weight=weight),
            balanced_accuracy_score(labels, guess, sample_weight=weight),
            f1_score(labels, guess, average="macro", sample_weight=weight),
            np.mean(auc),
        )
        assert [found[name][row] for name in NAMES] == pytest.approx(expected, abs=1e-12)


def test_confusion_against_scikit_learn():
    rng = np.random.default_rng(3)
    labels, guess, weights = rng.integers(0, 4, 60), rng.integers(0, 5, 60), rng.random((2, 60))
    found = confusion(labels, guess, weights, num_classes=5)
    for row, weight in enumerate(weights):
        expected = confusion_matrix(labels, guess, labels=range(5), sample_weight=weight)
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-12)


def test_total_pairs_items_within_a_part_only():
    # in each part the positive is above the negative; across the parts it is not
    low, high = np.array([[0.9, 0.1], [0.8, 0.2]]), np.array([[0.4, 0.6], [0.3, 0.7]])
    labels, ones = np.array([0, 1]), np.ones((1, 2))
    total = Tally.total([tally_predictions(rows, labels, ones) for rows in (low, high)]).metrics()
    together = classification_metrics(np.vstack([low, high]), np.tile(labels, 2))
    assert total["macro_auc"] == pytest.approx([1.0])
    assert together["macro_auc"] == pytest.approx(0.75)
    assert total["accuracy"] == pytest.approx([together["accuracy"]])
