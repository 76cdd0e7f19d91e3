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

"""Solve a linear head on frozen features: balanced multinomial logistic regression, cross-validated by group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from monai_weckd.networks.logistic import Problem, SharedProblem

__all__ = [
    "SolvedHead",
    "check_features",
    "group_folds",
    "outcome_folds",
    "principal_axes",
    "solve_head",
]

# penalties, from strong to weak; scikit-learn's C is one over the penalty
PENALTIES = (10_000.0, 1_000.0, 100.0, 10.0, 1.0)
# penalty where no label can be held out, as with one label of each class
DEFAULT_PENALTY = 100.0
FOLDS = 10  # with fewer, a head of cross-validation has visibly fewer labels than the result
# stop when the largest entry of the gradient is below this share of 1 / penalty: to compare penalties, and at the end
COARSE, FINE = 3e-2, 1e-6
ABSENT = -30.0  # logit, below those of other classes, of a class without a label


@dataclass(frozen=True, eq=False)
class SolvedHead:
    """A solved linear head, and what cross-validation says about it.

    Args:
        weight: weights for features as given, (C, D), float64; they include the standardization.
        bias: (C,), float64.
        penalty: strength of the L2 penalty on the weights of standardized features.
        out_of_fold: log-probabilities of each labeled item by a head that saw no label of its group, (N, C); rows of
            NaN for items whose class no other group has.
        fold_of: fold of each group that has labels.
        fold_weight: weights of the heads of cross-validation, each of which saw no label of its fold, (F, C, D); F is 0
            where no label could be held out.
        fold_bias: (F, C).

    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    out_of_fold: torch.Tensor
    fold_of: Mapping[str, int]
    fold_weight: torch.Tensor
    fold_bias: torch.Tensor

    def unseen_logits(self, features: torch.Tensor, groups: Sequence[str]) -> torch.Tensor:
        """Return logits by heads that saw no label of an item's group, (N, C), in the precision of the features.

        Each fold's head predicts the groups of that fold. Groups without a label are dealt to the folds in turn, so
        that all predictions are from heads with as many labels as those of ``out_of_fold``. Where no label could be
        held out, the head of all labels predicts.

        Args:
            features: features of any items, (N, D).
            groups: group of each item, N names.

        """
        if not len(self.fold_bias):
            return features @ self.weight.T.to(features) + self.bias.to(features)
        weight, bias = self.fold_weight.flatten(0, 1).to(features), self.fold_bias.to(features)
        names, places = np.unique(np.asarray(groups), return_inverse=True)
        others = (name for name in names.tolist() if name not in self.fold_of)
        fold_of = {**self.fold_of, **{name: place % len(bias) for place, name in enumerate(others)}}
        fold = torch.tensor([fold_of[name] for name in names.tolist()])[places]
        logits = (features @ weight.T).view(len(features), *bias.shape)
        return logits[torch.arange(len(features)), fold] + bias[fold]


def solve_head(
    features: torch.Tensor,
    labels: torch.Tensor,
    groups: Sequence[str] | None = None,
    *,
    num_classes: int,
    mean: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
) -> SolvedHead:
    """Return the linear head that minimizes the class-balanced cross-entropy with an L2 penalty, solved by L-BFGS.

    The sum over items of ``-log p(label) N / (K N_label)``, K the number of classes that have labels, plus half the
    penalty times the squared weights, is convex: its minimum does not depend on a seed. The penalty is the one with the
    lowest class-balanced cross-entropy in cross-validation, whose folds hold whole groups. Where there are more
    features than items, the problem is solved in the coordinates of the items' principal axes, which changes nothing.

    An item whose readers differ may belong to several classes in part. It counts as it would if it were repeated once
    for each of them, with its share as its weight: N is the number of items, and N_label the sum of the shares.

    Args:
        features: features of the labeled items, (N, D).
        labels: class of each, (N,), or the share of each class in it, (N, C), whose rows have the sum 1.
        groups: group of each, N names, default None: each item is a group.
        num_classes: number of classes; one without a label gets a logit below the others.
        mean: mean of each feature, (D,), default None: that of the labeled items.
        scale: standard deviation of each feature, (D,), default None: that of the labeled items.

    Raises:
        ValueError: When there is no label, or a feature is not finite, or shares do not have the sum 1.

    Example::

        >>> features = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
        >>> head = solve_head(features, torch.tensor([0, 0, 1, 1]), num_classes=2)
        >>> (features.double() @ head.weight.T + head.bias).argmax(dim=1).tolist()
        [0, 0, 1, 1]

    """
    features = features.double()
    check_features(features, labels)
    present, told = _told(labels)
    mean = features.mean(dim=0) if mean is None else mean.double()
    scale = features.std(dim=0, correction=0) if scale is None else scale.double()
    # a constant feature carries no information
    scale = torch.where(scale > 0, scale, torch.inf)
    standard = (features - mean) / scale
    points, axes = principal_axes(standard)
    problem = Problem(points, told, len(present)) if told.ndim == 1 else SharedProblem(points, told)
    names = list(map(str, range(len(labels)))) if groups is None else list(groups)
    folds = torch.from_numpy(outcome_folds(problem.target.numpy(), names))
    numbers = torch.unique(folds, return_inverse=True)[1]
    penalty, known, start = _cross_validate(problem, numbers)
    first = None if start is None else start.mean(dim=1, keepdim=True)
    solution = problem.solve(torch.ones(1, len(labels), dtype=torch.bool), penalty, tolerance=FINE, start=first)
    solutions = solution if start is None else torch.cat([solution, start], dim=1)
    directions = solutions[:-1] if axes is None else (standard.T @ (axes @ solutions[:-1].flatten(1)))
    weight = torch.zeros(solutions.shape[1], num_classes, features.shape[1], dtype=torch.float64)
    weight[:, present] = directions.view(-1, *solutions.shape[1:]).permute(1, 2, 0) / scale
    kept = torch.ones(len(weight), len(labels), dtype=torch.bool)
    kept[1:] = numbers != torch.arange(len(weight) - 1)[:, None]
    lowest = solutions[-1].amin(dim=1, keepdim=True) + ABSENT
    bias = lowest.repeat(1, num_classes)
    bias[:, present] = lowest.where(problem.missing(kept), solutions[-1] - weight[:, present] @ mean)
    out_of_fold = torch.full((len(labels), num_classes), -torch.inf, dtype=torch.float64)
    out_of_fold[:, present] = known
    out_of_fold[known.isnan().all(dim=1)] = torch.nan
    fold_of = dict(zip(names, numbers.tolist(), strict=True))
    return SolvedHead(weight[0], bias[0], penalty, out_of_fold, fold_of, weight[1:], bias[1:])


def _told(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the classes that occur, (K,), and the place of each label among them, (N,), or their shares, (N, K)."""
    if labels.ndim == 1:
        present, index = torch.unique(labels.long(), return_inverse=True)
        return present, index
    shares = labels.double()
    if bool((shares < 0).any()) or not torch.allclose(shares.sum(dim=1), torch.ones(len(shares)).double(), atol=1e-6):
        raise ValueError("labels: expected shares of at least 0 with the sum 1, got others. Divide by their sum.")
    present = shares.any(dim=0).nonzero()[:, 0]
    return present, shares[:, present]


def group_folds(labels: np.ndarray, groups: Sequence[str], count: int = FOLDS) -> np.ndarray:
    """Divide items into folds of whole groups, with every class as evenly among the folds as the groups allow.

    Groups with many labels of a rare class come first; each goes to the fold that has the least of its classes.

    Args:
        labels: class of each item, (N,).
        groups: group of each item, N names.
        count: number of folds.

    Returns:
        Fold of each item, (N,), from 0.

    """
    classes, label = np.unique(labels, return_inverse=True)
    return outcome_folds(np.eye(len(classes))[label], groups, count)


def outcome_folds(outcomes: np.ndarray, groups: Sequence[str], count: int = FOLDS) -> np.ndarray:
    """Divide items into folds as :py:func:`group_folds` does, where an item may have several outcomes, or none.

    Args:
        outcomes: 1 for each outcome that an item has, else 0, (N, K).
        groups: group of each item, N names.
        count: number of folds.

    Returns:
        Fold of each item, (N,), from 0.

    """
    names, group = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.zeros((len(names), outcomes.shape[1]))
    np.add.at(counts, group, outcomes)
    shares = counts / counts.sum(axis=0).clip(min=1)
    held = np.zeros((count, outcomes.shape[1]))
    sizes = np.zeros(count)
    fold_of = np.zeros(len(names), dtype=np.int64)
    for place in np.lexsort((np.arange(len(names)), -shares.max(axis=1))):
        fold = np.lexsort((np.arange(count), sizes, held @ shares[place]))[0]
        held[fold] += shares[place]
        sizes[fold] += counts[place].sum()
        fold_of[place] = fold
    folds: np.ndarray = fold_of[group]
    return folds


def principal_axes(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return points, (N, D), in the coordinates of R <= N axes, and these axes as sums of points, (N, R).

    Where there are more points than features, the coordinates stay, and None stands for the axes.

    Args:
        points: (N, D).

    """
    if len(points) > points.shape[1]:
        return points, None
    values, vectors = torch.linalg.eigh(points @ points.T)
    kept = values > values[-1] * 1e-12
    lengths, vectors = values[kept].sqrt(), vectors[:, kept]
    return vectors * lengths, vectors / lengths


def _cross_validate(problem: Problem, place: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor | None]:
    """Return the penalty with the lowest class-balanced cross-entropy on held out labels.

    Args:
        problem: the problem.
        place: fold of each label, (N,), from 0 without a gap.

    Returns:
        The penalty; the log-probabilities of all labels when held out, (N, C); the solutions of the folds.

    """
    kept = place != torch.arange(int(place.max()) + 1)[:, None]
    known = problem.known(kept, place)  # the class has labels outside of the fold
    held_out = torch.full_like(problem.target, torch.nan)
    if not known.any():
        return DEFAULT_PENALTY, held_out, None
    best, chosen, start, solutions = torch.inf, DEFAULT_PENALTY, None, None
    for penalty in PENALTIES:
        start = problem.solve(kept, penalty, tolerance=COARSE, start=start)
        logs = torch.log_softmax(problem.logits(start, kept), dim=2)[torch.arange(len(place)), place]
        loss = problem.held_out_loss(logs, known)
        if loss >= best:
            break  # past the minimum: weaker penalties would take longer and overfit more
        best, chosen, held_out = loss, penalty, logs.where(known[:, None], torch.nan)
        solutions = start
    return chosen, held_out, solutions


def check_features(features: torch.Tensor, labels: torch.Tensor) -> None:
    """Refuse features that are not finite, and a set without a label.

    Args:
        features: (N, D).
        labels: one for each, (N,).

    Raises:
        ValueError: When they are such.

    """
    if not len(labels):
        raise ValueError("labels: expected at least one, got none. Label an image.")
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"features: expected finite numbers, got others in row {bad}. Look for a broken image.")
