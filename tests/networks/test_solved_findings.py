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
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from monai_weckd.networks import solve_findings
from monai_weckd.networks.solved_findings import _outcomes
from monai_weckd.networks.solved_head import DEFAULT_PENALTY, PENALTIES, outcome_folds


def draw(items, size, findings, *, seed=0, unknown=0.2):
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((items, size))
    logits = points @ rng.standard_normal((size, findings)) / np.sqrt(size) * 2 + rng.standard_normal(findings)
    labels = (rng.uniform(size=logits.shape) < 1 / (1 + np.exp(-logits))).astype(float)
    labels[rng.uniform(size=labels.shape) < unknown] = -1
    groups = [f"patient {number}" for number in rng.integers(0, items // 2, items)]
    return torch.from_numpy(points * rng.uniform(0.1, 5, size) + 7), torch.from_numpy(labels), groups


def standardized(points):
    return ((points - points.mean(0)) / points.std(0, correction=0)).numpy()


def folds_of(labels, groups):
    return outcome_folds(_outcomes(labels >= 0, labels > 0), groups)


def balanced(values, used):
    """Return weights by which present and absent weigh the same among the used items, and all others nothing."""
    found = np.zeros(len(values))
    for value in (0, 1):
        mine = used & (values == value)
        found[mine] = used.sum() / (2 * mine.sum())
    return found


def regression(points, values, used, penalty):
    oracle = LogisticRegression(C=1 / penalty, max_iter=20_000, tol=1e-12)
    return oracle.fit(points, values > 0, sample_weight=balanced(values, used))


@pytest.mark.parametrize(("items", "size"), [(40, 90), (120, 12)])
@pytest.mark.parametrize("findings", [1, 4])
def test_it_is_the_regressions_of_scikit_learn(items, size, findings):
    points, labels, groups = draw(items, size, findings)
    head = solve_findings(points, labels, groups)
    found = torch.sigmoid(points @ head.weight.T + head.bias).numpy()
    for finding, values in enumerate(labels.numpy().T):
        oracle = regression(standardized(points), values, values >= 0, head.penalty)
        np.testing.assert_allclose(found[:, finding], oracle.predict_proba(standardized(points))[:, 1], atol=2e-5)


@pytest.mark.parametrize("unknown", [-1.0, torch.nan])
def test_an_unknown_finding_trains_nothing(unknown):
    points, labels, groups = draw(60, 20, 3)
    expected = solve_findings(points, labels, groups)
    other = torch.where(labels < 0, unknown, labels)
    again = solve_findings(points, other, groups)
    torch.testing.assert_close(again.weight, expected.weight, rtol=0, atol=0)
    assert ((labels < 0) <= expected.out_of_fold.isnan()).all()


def test_held_out_logits_come_from_other_groups():
    points, labels, groups = draw(80, 20, 2)
    head = solve_findings(points, labels, groups)
    folds = folds_of(labels, groups)
    assert len(set(zip(groups, folds.tolist(), strict=True))) == len(set(groups))
    for fold in range(10):
        held_out = folds == fold
        for finding, values in enumerate(labels.numpy().T):
            judged = held_out & (values >= 0)
            oracle = regression(standardized(points), values, ~held_out & (values >= 0), head.penalty)
            expected = oracle.decision_function(standardized(points)[judged])
            np.testing.assert_allclose(head.out_of_fold[torch.from_numpy(judged), finding], expected, atol=0.1)
    unseen = head.unseen_logits(points, groups)
    told = ~head.out_of_fold.isnan()
    torch.testing.assert_close(unseen[told], head.out_of_fold[told], rtol=1e-6, atol=1e-6)


def test_all_findings_share_the_penalty_that_serves_them_best():
    points, labels, groups = draw(120, 40, 3)
    head = solve_findings(points, labels, groups)
    folds, losses = folds_of(labels, groups), []
    for penalty in PENALTIES:
        each = []
        for values in labels.numpy().T:
            logits = np.zeros(len(values))
            for fold in range(10):
                held_out = folds == fold
                oracle = regression(standardized(points), values, ~held_out & (values >= 0), penalty)
                logits[held_out] = oracle.predict_proba(standardized(points)[held_out])[:, 1]
            known = values >= 0
            each.append(log_loss(values[known], logits[known], sample_weight=balanced(values, known)[known]))
        losses.append(np.mean(each))
    assert losses[PENALTIES.index(head.penalty)] <= min(losses) + 1e-2


def test_a_finding_that_is_always_absent_has_no_weights_and_is_rare():
    points, labels, groups = draw(30, 10, 2, unknown=0)
    labels[:, 1] = 0
    head = solve_findings(points, labels, groups)
    assert (head.weight[1] == 0).all()
    assert head.bias[1].exp() == pytest.approx(1 / 31)
    assert head.out_of_fold[:, 1].isnan().all()
    assert not head.out_of_fold[:, 0].isnan().any()
    alone = solve_findings(points, labels[:, :1], groups)
    torch.testing.assert_close(head.weight[:1], alone.weight, rtol=1e-3, atol=1e-4)


def test_a_single_image_is_enough():
    head = solve_findings(torch.ones(1, 3), torch.tensor([[1, 0, -1]]))
    assert head.penalty == DEFAULT_PENALTY
    assert head.bias.tolist() == pytest.approx([np.log(2), -np.log(2), 0])
    assert head.out_of_fold.isnan().all()
    assert len(head.fold_bias) == 0


def test_refuses_labels_that_say_nothing_and_broken_features():
    with pytest.raises(ValueError, match="labels: expected at least one, got none"):
        solve_findings(torch.ones(2, 3), torch.full((2, 2), -1.0))
    with pytest.raises(ValueError, match="features: expected finite numbers, got others in row 1"):
        solve_findings(torch.tensor([[1.0], [torch.nan]]), torch.tensor([[1.0], [0.0]]))
