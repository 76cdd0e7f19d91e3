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
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from monai_weckd.metrics import tally_predictions


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
        assert found["balanced_accuracy"][row] == pytest.approx(balanced_accuracy_score(truth, guess))
        assert found["accuracy"][row] == pytest.approx((truth == guess).mean())
        assert found["macro_f1"][row] == pytest.approx(f1_score(truth, guess, average="macro"))
        auc = roc_auc_score(truth, probabilities, multi_class="ovr", average="macro")
        assert found["macro_auc"][row] == pytest.approx(auc)


def test_classes_that_no_item_has_are_left_out():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1]])
    found = tally_predictions(probabilities, np.array([0, 1, 1]), np.ones((1, 3))).metrics()
    assert found["balanced_accuracy"] == pytest.approx([0.75])
    assert found["macro_auc"] == pytest.approx([0.75])
    alone = tally_predictions(probabilities, np.array([1, 1, 1]), np.ones((1, 3))).metrics()
    assert np.isnan(alone["macro_auc"][0])
    assert alone["balanced_accuracy"] == pytest.approx([1 / 3])
