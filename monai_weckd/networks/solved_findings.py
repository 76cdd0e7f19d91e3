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

"""Solve the head of several findings on frozen features: a logistic regression for each, with one penalty for all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_weckd.networks.logistic import logits_at, minimize
from monai_weckd.networks.solved_head import (
    COARSE,
    DEFAULT_PENALTY,
    FINE,
    PENALTIES,
    SolvedHead,
    check_features,
    outcome_folds,
    principal_axes,
)

__all__ = ["solve_findings"]


def solve_findings(
    features: torch.Tensor,
    labels: torch.Tensor,
    groups: Sequence[str] | None = None,
    *,
    mean: torch.Tensor | None = None,
    scale: torch.Tensor | None = None,
) -> SolvedHead:
    """Return the linear head of several findings that minimizes their balanced log losses with an L2 penalty.

    Each finding is a logistic regression of its own, on the images in which it is known. Its loss is the sum over these
    images of ``-log p(label) N / (2 N_label)``, so that present and absent weigh the same, plus half the penalty times
    the squared weights. **All findings share the penalty**: the one with the least mean over findings of the balanced
    log loss in cross-validation, whose folds hold whole groups. So a finding with few labels borrows the strength that
    serves the others, as in multi-task learning with a common prior. All regressions are solved together by L-BFGS.

    Args:
        features: features of the labeled items, (N, D).
        labels: (N, F), 1 where a finding is present, 0 where it is absent, and -1 or NaN where it is unknown.
        groups: group of each, N names, default None: each item is a group.
        mean: mean of each feature, (D,), default None: that of the labeled items.
        scale: standard deviation of each feature, (D,), default None: that of the labeled items.

    Returns:
        The head, with a logit for each finding. ``out_of_fold`` has the logits of heads that saw no label of an item's
        group, (N, F), NaN where the finding is unknown, or the labels of the other folds lack one of its outcomes. A
        finding with one outcome alone has no weights; its logit says how often that was seen, with one of each added.

    Raises:
        ValueError: When nothing is known, or a feature is not finite.

    Example::

        >>> features = torch.tensor([[0.0, 1.0], [0.1, 0.9], [1.0, 0.0], [0.9, 0.1]])
        >>> labels = torch.tensor([[0, 1], [0, -1], [1, 0], [1, 0]])
        >>> head = solve_findings(features, labels)
        >>> (features.double() @ head.weight.T + head.bias > 0).int().tolist()
        [[0, 1], [0, 1], [1, 0], [1, 0]]

    """
    features, values = features.double(), labels.double()
    known, present = values >= 0, values > 0  # NaN is neither
    check_features(features, values[known])
    mean = features.mean(dim=0) if mean is None else mean.double()
    scale = features.std(dim=0, correction=0) if scale is None else scale.double()
    scale = torch.where(scale > 0, scale, torch.inf)  # a constant feature carries no information
    standard = (features - mean) / scale
    points, axes = principal_axes(standard)
    names = list(map(str, range(len(values)))) if groups is None else list(groups)
    folds = torch.from_numpy(outcome_folds(_outcomes(known, present), names))
    place = torch.unique(folds, return_inverse=True)[1]
    problem = _Regressions(points, known, present)
    penalty, held_out, start = _cross_validate(problem, place)
    everything = torch.ones(1, len(values), dtype=torch.bool)
    first = None if start is None else start.mean(dim=1, keepdim=True)
    solution = problem.solve(everything, penalty, tolerance=FINE, start=first)
    solutions = solution if start is None else torch.cat([solution, start], dim=1)
    kept = torch.cat([everything, place != torch.arange(solutions.shape[1] - 1)[:, None]])
    directions = solutions[:-1] if axes is None else standard.T @ (axes @ solutions[:-1].flatten(1))
    weight = directions.view(-1, *solutions.shape[1:]).permute(1, 2, 0) / scale
    bias = torch.where(problem.solvable(kept), solutions[-1] - weight @ mean, problem.shares(kept))
    fold_of = dict(zip(names, place.tolist(), strict=True))
    return SolvedHead(weight[0], bias[0], penalty, held_out, fold_of, weight[1:], bias[1:])


class _Regressions:
    """Logistic regressions of F findings on the same points, each with some of the images.

    Args:
        points: coordinates, (N, R).
        known: whether a finding is known, (N, F).
        present: whether it is present, (N, F).

    """

    def __init__(self, points: torch.Tensor, known: torch.Tensor, present: torch.Tensor) -> None:
        self.points = points
        self.known, self.present = known.double(), present.double()

    def counts(self, kept: torch.Tensor) -> torch.Tensor:
        """Return how often each finding is absent and present among some images, (K, F, 2).

        Args:
            kept: images of each of K heads, (K, N), bool.

        """
        present = kept.double() @ self.present
        return torch.stack([kept.double() @ self.known - present, present], dim=2)

    def solvable(self, kept: torch.Tensor) -> torch.Tensor:
        """Return whether some images show a finding and others do not, (K, F)."""
        return (self.counts(kept) > 0).all(dim=2)

    def shares(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the logit of how often each finding is present, (K, F), with one image of each outcome added."""
        absent, present = self.counts(kept).unbind(dim=2)
        return ((present + 1) / (absent + 1)).log()

    def balance(self, kept: torch.Tensor) -> torch.Tensor:
        """Return the weight of each image in each regression, (K, F, N); 0 where it is unknown or nothing is solved."""
        counts = self.counts(kept)
        of_outcome = counts.sum(dim=2, keepdim=True) / (2 * counts.clamp(min=1))
        used = kept[:, None] * self.known.T * self.solvable(kept)[:, :, None]
        return used * torch.where(self.present.T > 0, of_outcome[..., 1:], of_outcome[..., :1])

    def logits(self, solutions: torch.Tensor) -> torch.Tensor:
        """Return the logits of all points, (N, K, F)."""
        return logits_at(self.points, solutions)

    def solve(
        self, kept: torch.Tensor, penalty: float, *, tolerance: float, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weights and, last, the biases of K heads, (R + 1, K, F).

        Args:
            kept: images that each of them sees, (K, N), bool.
            penalty: strength of the L2 penalty.
            tolerance: largest entry of the gradient times the penalty.
            start: where to begin, (R + 1, K, F), default None: zeros.

        """
        weight = self.balance(kept) / penalty
        present = self.present.T

        def losses(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            each = torch.nn.functional.softplus(logits) - present * logits
            return (each * weight).sum(), (torch.sigmoid(logits) - present) * weight

        heads = (len(kept), len(present))
        return minimize(losses, self.points, heads, penalty, curvature=0.25, tolerance=tolerance, start=start)


def _cross_validate(problem: _Regressions, place: torch.Tensor) -> tuple[float, torch.Tensor, torch.Tensor | None]:
    """Return the penalty with the least mean over findings of the balanced log loss on held out labels.

    Args:
        problem: the problem.
        place: fold of each image, (N,), from 0 without a gap.

    Returns:
        The penalty; the logits of all labels when held out, (N, F); the solutions of the folds.

    """
    kept = place != torch.arange(int(place.max()) + 1)[:, None]
    judged = problem.known.bool() & problem.solvable(kept)[place]
    nothing = torch.full_like(problem.known, torch.nan)
    if not judged.any():
        return DEFAULT_PENALTY, nothing, None
    best, chosen, start, solutions, held_out = torch.inf, DEFAULT_PENALTY, None, None, nothing
    counts = torch.stack([(judged * (problem.present == value)).sum(dim=0) for value in (0, 1)])
    weight = judged / torch.where(problem.present > 0, counts[1], counts[0]).clamp(min=1)
    for penalty in PENALTIES:
        start = problem.solve(kept, penalty, tolerance=COARSE, start=start)
        logits = problem.logits(start)[torch.arange(len(place)), place]
        losses = torch.nn.functional.softplus(logits) - problem.present * logits
        loss = float((losses * weight).sum())
        if loss >= best:
            break  # past the minimum: weaker penalties would take longer and overfit more
        best, chosen, held_out, solutions = loss, penalty, logits.where(judged, torch.nan), start
    return chosen, held_out, solutions


def _outcomes(known: torch.Tensor, present: torch.Tensor) -> np.ndarray:
    """Return which outcomes each image has, (N, 2 F): absent and present of each finding, as 0 and 1."""
    found: np.ndarray = torch.cat([known & ~present, present], dim=1).numpy().astype(float)
    return found
