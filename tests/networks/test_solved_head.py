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

from monai_weckd.networks import solve_head
from monai_weckd.networks.solved_head import DEFAULT_PENALTY, PENALTIES, group_folds


def draw(items, features, classes, *, seed=0, spread=1.0):
    rng = np.random.default_rng(seed)
    labels = np.arange(items) % classes
    centers = rng.standard_normal((classes, features))
    points = centers[labels] + 3 * spread * rng.standard_normal((items, features))
    return torch.from_numpy(points * rng.uniform(0.1, 5, features) + 7), torch.from_numpy(labels)


def probabilities(head, features):
    return torch.softmax(features.double() @ head.weight.T + head.bias, dim=1).numpy()


@pytest.mark.parametrize(("items", "features"), [(40, 90), (90, 12)])
@pytest.mark.parametrize("classes", [2, 3, 8])
def test_it_is_the_regression_of_scikit_learn(items, features, classes):
    points, labels = draw(items, features, classes)
    labels[labels == 1] = torch.where(
        torch.rand((labels == 1).sum(), generator=torch.Generator().manual_seed(0)) < 0.4, 0, 1
    )
    head = solve_head(points, labels, num_classes=classes)
    standardized = ((points - points.mean(0)) / points.std(0, correction=0)).numpy()
    # its binary form penalizes the difference of two weights, ours each of them
    strength = (2 if classes == 2 else 1) / head.penalty
    oracle = LogisticRegression(C=strength, class_weight="balanced", max_iter=20_000, tol=1e-12)
    expected = oracle.fit(standardized, labels).predict_proba(standardized)
    np.testing.assert_allclose(probabilities(head, points), expected, atol=2e-5)


def test_held_out_probabilities_come_from_other_groups():
    points, labels = draw(60, 20, 3)
    groups = [f"patient {place // 4}" for place in range(60)]
    head = solve_head(points, labels, groups, num_classes=3)
    folds = group_folds(labels.numpy(), groups)
    standardized = ((points - points.mean(0)) / points.std(0, correction=0)).numpy()
    for fold in range(5):
        seen, held_out = folds != fold, folds == fold
        oracle = LogisticRegression(C=1 / head.penalty, class_weight="balanced", max_iter=20_000, tol=1e-10)
        expected = oracle.fit(standardized[seen], labels[seen]).predict_proba(standardized[held_out])
        found = head.out_of_fold[torch.from_numpy(held_out)].exp().numpy()
        np.testing.assert_allclose(found, expected, atol=0.02)  # solved less finely


def test_the_penalty_has_the_least_balanced_loss_of_its_neighbors():
    points, labels = draw(80, 30, 4)
    head = solve_head(points, labels, num_classes=4)
    standardized = ((points - points.mean(0)) / points.std(0, correction=0)).numpy()
    folds = group_folds(labels.numpy(), list(map(str, range(80))))
    losses = []
    for penalty in PENALTIES:
        logs = np.zeros(80)
        for fold in range(5):
            seen, held_out = folds != fold, folds == fold
            oracle = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=20_000)
            found = oracle.fit(standardized[seen], labels[seen]).predict_proba(standardized[held_out])
            logs[held_out] = -np.log(found[np.arange(held_out.sum()), labels[held_out]])
        losses.append(np.mean([logs[labels == label].mean() for label in range(4)]))
    assert losses[PENALTIES.index(head.penalty)] <= min(losses) + 1e-2


def test_folds_keep_groups_together_and_spread_the_classes():
    rng = np.random.default_rng(0)
    groups = [f"g{number}" for number in rng.integers(0, 30, 200)]
    labels = np.array([int(group[1:]) % 3 for group in groups])
    folds = group_folds(labels, groups)
    assert len({(group, fold) for group, fold in zip(groups, folds, strict=True)}) == len(set(groups))
    counts = np.array([[np.sum((folds == fold) & (labels == label)) for label in range(3)] for fold in range(5)])
    assert (counts > 0).all()


def test_folds_do_not_depend_on_the_order_of_the_items():
    rng = np.random.default_rng(1)
    groups, labels = [f"g{number}" for number in rng.integers(0, 12, 50)], rng.integers(0, 3, 50)
    order = rng.permutation(50)
    shuffled = group_folds(labels[order], [groups[place] for place in order])
    np.testing.assert_array_equal(shuffled, group_folds(labels, groups)[order])


def test_one_label_of_each_class_is_enough():
    points, labels = draw(3, 50, 3)
    head = solve_head(points, labels, num_classes=3)
    assert head.penalty == DEFAULT_PENALTY
    assert head.out_of_fold.isnan().all()
    assert probabilities(head, points).argmax(axis=1).tolist() == [0, 1, 2]


def test_a_class_without_a_label_is_never_predicted():
    points, labels = draw(30, 10, 3)
    labels[labels == 1] = 3
    head = solve_head(points, labels, num_classes=5)
    found = probabilities(head, points)
    assert found[:, [1, 4]].max() < 1e-6
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (head.out_of_fold[:, [1, 4]] == -torch.inf).all()


def test_a_class_in_a_single_group_is_left_out_of_the_figures():
    points, labels = draw(40, 10, 2)
    labels[:4] = 2
    groups = ["one"] * 4 + [str(place) for place in range(36)]
    head = solve_head(points, labels, groups, num_classes=3)
    assert head.out_of_fold[:4].isnan().all()
    assert not head.out_of_fold[4:].isnan().any()


def test_a_constant_feature_gets_no_weight():
    points, labels = draw(30, 5, 2)
    points[:, 2] = 4.0
    assert (solve_head(points, labels, num_classes=2).weight[:, 2] == 0).all()


def test_it_refuses_what_has_no_solution():
    with pytest.raises(ValueError, match="labels: expected at least one, got none"):
        solve_head(torch.zeros(0, 3), torch.zeros(0), num_classes=2)
    points, labels = draw(6, 3, 2)
    points[4, 1] = torch.nan
    with pytest.raises(ValueError, match="row 4"):
        solve_head(points, labels, num_classes=2)


def test_heads_that_have_not_seen_a_group_answer_for_it():
    points, labels = draw(60, 20, 3)
    groups = [f"patient {place // 4}" for place in range(60)]
    labeled = torch.arange(60) % 4 < 2  # two of each group
    names = [group for group, kept in zip(groups, labeled.tolist(), strict=True) if kept]
    head = solve_head(points[labeled], labels[labeled], names, num_classes=3)
    found = torch.log_softmax(head.unseen_logits(points, groups), dim=1)
    torch.testing.assert_close(found[labeled], head.out_of_fold, atol=1e-8, rtol=1e-8)
    # the other two of a group are answered by the head of the same fold, and not by the head of all labels
    logits = points.double() @ head.weight.T + head.bias
    for place in (2, 3):
        fold = head.fold_of[groups[place]]
        expected = points[place].double() @ head.fold_weight[fold].T + head.fold_bias[fold]
        torch.testing.assert_close(head.unseen_logits(points, groups)[place], expected)
        assert not torch.allclose(expected, logits[place])


def test_groups_without_a_label_are_dealt_to_the_folds():
    points, labels = draw(60, 4, 3)
    head = solve_head(points[:20], labels[:20], [f"patient {place // 2}" for place in range(20)], num_classes=3)
    assert len(head.fold_bias) == 10
    new = [f"new {place // 2:02}" for place in range(40)]  # twenty groups of two
    found = head.unseen_logits(points[20:], new)
    for place in range(40):
        fold = place // 2 % 10
        expected = points[20 + place].double() @ head.fold_weight[fold].T + head.fold_bias[fold]
        torch.testing.assert_close(found[place].double(), expected, atol=1e-4, rtol=1e-4)


def test_where_nothing_can_be_held_out_the_head_of_all_labels_answers():
    points, _ = draw(6, 4, 3)
    head = solve_head(points[:3], torch.tensor([0, 1, 2]), num_classes=3)
    assert len(head.fold_bias) == 0
    expected = points.double() @ head.weight.T + head.bias
    torch.testing.assert_close(head.unseen_logits(points, list("abcdef")).double(), expected, atol=1e-4, rtol=1e-4)


def test_a_class_that_a_fold_misses_is_below_the_others_there():
    points, _ = draw(20, 5, 2)
    labels = torch.tensor([0, 1] * 8 + [0, 0, 2, 2])
    groups = [f"patient {place // 2}" for place in range(20)]
    head = solve_head(points, labels, groups, num_classes=3)
    fold = head.fold_of["patient 9"]
    assert (head.fold_weight[fold, 2] == 0).all()
    assert head.fold_bias[fold, 2] < -20


def shared(items, classes, *, seed=0):
    """Return shares of classes, (N, C): every third item has two or three classes."""
    rng = np.random.default_rng(seed)
    shares = np.eye(classes)[np.arange(items) % classes]
    for item in range(0, items, 3):
        shares[item] = rng.multinomial(3, np.full(classes, 1 / classes)) / 3
    return torch.from_numpy(shares)


def repeated(points, shares):
    """Return the rows of scikit-learn: each item once for each of its classes, with balanced weights."""
    rows, classes = shares.nonzero()
    balance = len(shares) / (len(np.unique(classes)) * shares.sum(axis=0))
    return points[rows], classes, shares[rows, classes] * balance[classes]


@pytest.mark.parametrize(("items", "features"), [(40, 90), (90, 12)])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_an_item_with_shares_counts_as_if_it_were_repeated_with_weights(items, features, classes):
    points, _ = draw(items, features, classes)
    shares, mean, scale = shared(items, classes), points.mean(0) + 0.1, 1.2 * points.std(0)
    head = solve_head(points, shares, num_classes=classes + 1, mean=mean, scale=scale)
    standardized = ((points - mean) / scale).numpy()
    rows, told, weights = repeated(standardized, shares.numpy())
    oracle = LogisticRegression(C=(2 if classes == 2 else 1) / head.penalty, max_iter=20_000, tol=1e-12)
    expected = oracle.fit(rows, told, sample_weight=weights).predict_proba(standardized)
    np.testing.assert_allclose(probabilities(head, points)[:, :classes], expected, atol=2e-5)


def test_held_out_shares_come_from_other_groups():
    points, _ = draw(60, 20, 3)
    shares, groups = shared(60, 3), [f"patient {place // 4}" for place in range(60)]
    head = solve_head(points, shares, groups, num_classes=3)
    standardized = ((points - points.mean(0)) / points.std(0, correction=0)).numpy()
    fold_of = np.array([head.fold_of[group] for group in groups])
    assert len(set(fold_of)) == 10
    for fold in range(10):
        rows, told, weights = repeated(standardized[fold_of != fold], shares.numpy()[fold_of != fold])
        oracle = LogisticRegression(C=1 / head.penalty, max_iter=20_000, tol=1e-10).fit(rows, told, weights)
        found = head.out_of_fold[torch.from_numpy(fold_of == fold)].exp().numpy()
        np.testing.assert_allclose(found, oracle.predict_proba(standardized[fold_of == fold]), atol=0.02)


def test_whole_shares_are_labels():
    points, labels = draw(50, 12, 3)
    one, other = (
        solve_head(points, told, num_classes=3) for told in (labels, torch.nn.functional.one_hot(labels, 3) * 1.0)
    )
    assert one.penalty == other.penalty
    np.testing.assert_allclose(one.weight, other.weight, atol=1e-7)
    np.testing.assert_allclose(one.out_of_fold, other.out_of_fold, atol=1e-7)


def test_refuses_shares_that_are_none():
    with pytest.raises(ValueError, match=r"labels: expected shares of at least 0 with the sum 1, got others\. Divide"):
        solve_head(torch.randn(3, 2), torch.ones(3, 2), num_classes=2)
