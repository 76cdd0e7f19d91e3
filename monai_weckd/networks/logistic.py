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

"""Solve several logistic regressions on the same points at once, by L-BFGS."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["Problem", "SharedProblem", "logits_at", "minimize"]


class Problem:
    """Logistic regressions on the same points, each with some of the labels.

    Args:
        points: coordinates, (N, R), along axes that are orthogonal where R is the number of points.
        labels: class of each point, (N,), from 0.
        classes: number of classes.

    """

    def __init__(self, points: torch.Tensor, labels: torch.Tensor, classes: int) -> None:
        self.points = points
        self.labels = labels
        self.target = torch.nn.functional.one_hot(labels, classes).double()

    def logits(self, solutions: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Return the logits of all points, (N, F, C); minus infinity for a class without a label in a regression."""
        return logits_at(self.points, solutions).masked_fill(self.missing(kept), -torch.inf)

    def missing(self, kept: torch.Tensor) -> torch.Tensor:
        """Return which classes have no label in a regression, (F, C)."""
        return kept.double() @ self.target == 0

    def solve(
        self, kept: torch.Tensor, penalty: float, *, tolerance: float, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weights and, last, the biases of F regressions, (R + 1, F, C).

        Args:
            kept: labels that each of them sees, (F, N), bool.
            penalty: strength of the L2 penalty.
            tolerance: largest entry of the gradient times the penalty.
            start: where to begin, (R + 1, F, C), default None: zeros.

        """
        counts = kept.double() @ self.target
        weight = kept / (counts[:, self.labels] * (counts > 0).sum(dim=1, keepdim=True)).clamp(min=1)
        weight = (weight * kept.sum(dim=1, keepdim=True))[:, None] / penalty
        missing, target, own = (counts == 0)[:, :, None], self.target.T, self.labels.expand(len(kept), 1, -1)

        def losses(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # the sums over classes are fast where the items lie side by side
            logs = torch.log_softmax(logits.masked_fill(missing, -torch.inf), dim=1)
            return -(logs.gather(1, own).nan_to_num(neginf=0) * weight).sum(), (logs.exp() - target) * weight

        heads = (len(kept), len(self.target.T))
        return minimize(losses, self.points, heads, penalty, curvature=0.5, tolerance=tolerance, start=start)

    def known(self, kept: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return which points have a class that is among the labels of their own regression, (N,), bool.

        Args:
            kept: labels that each regression sees, (F, N), bool.
            place: the regression of each point that does not see its label, (N,).

        """
        return ~self.missing(kept)[place, self.labels]

    def held_out_loss(self, logs: torch.Tensor, known: torch.Tensor) -> float:
        """Return the class-balanced cross-entropy of points.

        Args:
            logs: log-probabilities, (N, C).
            known: the points that count, (N,), bool.

        """
        labels = self.labels[known]
        weight = 1 / torch.bincount(labels, minlength=self.target.shape[1])[labels]
        return float(-(logs[known, labels] * weight).sum())


class SharedProblem(Problem):
    """Logistic regressions on points that belong to several classes in part.

    A point counts as it would if it were repeated once for each of its classes, with its share as its weight.

    Args:
        points: as of :py:class:`Problem`.
        target: share of each class in each point, (N, C); each row has the sum 1.

    """

    def __init__(self, points: torch.Tensor, target: torch.Tensor) -> None:
        self.points = points
        self.target = target

    def solve(
        self, kept: torch.Tensor, penalty: float, *, tolerance: float, start: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the weights and, last, the biases of F regressions, (R + 1, F, C); see :py:meth:`Problem.solve`."""
        counts = kept.double() @ self.target
        missing = (counts == 0)[:, :, None]
        each = kept.sum(dim=1, keepdim=True) / (counts * (counts > 0).sum(dim=1, keepdim=True)) / penalty
        weight = self.target.T * each[:, :, None].masked_fill(missing, 0) * kept[:, None]
        total = weight.sum(dim=1, keepdim=True)

        def losses(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            logs = torch.log_softmax(logits.masked_fill(missing, -torch.inf), dim=1)
            return -(logs.masked_fill(missing, 0) * weight).sum(), logs.exp() * total - weight

        heads = (len(kept), len(self.target.T))
        return minimize(losses, self.points, heads, penalty, curvature=0.5, tolerance=tolerance, start=start)

    def known(self, kept: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """Return which points have only classes that are among the labels of their own regression, (N,), bool."""
        return ~(self.missing(kept)[place] & (self.target > 0)).any(dim=1)

    def held_out_loss(self, logs: torch.Tensor, known: torch.Tensor) -> float:
        """Return the class-balanced cross-entropy of points; see :py:meth:`Problem.held_out_loss`."""
        target = self.target[known]
        weight = target / target.sum(dim=0).where(target.any(dim=0), torch.ones(target.shape[1]).double())
        return float(-(logs[known].masked_fill(target == 0, 0) * weight).sum())


def logits_at(points: torch.Tensor, solutions: torch.Tensor) -> torch.Tensor:
    """Return the logits of points, (N, K, C).

    Args:
        points: coordinates, (N, R).
        solutions: weights and, last, biases of K heads, (R + 1, K, C).

    """
    found = torch.addmm(solutions[-1].flatten(), points, solutions[:-1].flatten(1))
    return found.view(len(points), *solutions.shape[1:])


def minimize(
    losses: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    points: torch.Tensor,
    heads: tuple[int, int],
    penalty: float,
    *,
    curvature: float,
    tolerance: float,
    start: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the weights and, last, the biases of K heads with C logits, (R + 1, K, C), with the least penalized loss.

    All heads are solved together by L-BFGS.

    Args:
        losses: takes logits, (K, C, N), and returns the sum of the losses and its derivative by them, both divided by
            the penalty.
        points: coordinates, (N, R), float64.
        heads: K and C.
        penalty: strength of the L2 penalty.
        curvature: an upper bound of the second derivative of an item's loss, without its weight.
        tolerance: largest entry of the gradient times the penalty.
        start: where to begin, (R + 1, K, C), default None: zeros.

    """
    # in these units the curvature is at most about 1 along each axis, so that L-BFGS needs few steps
    unit = 1 / torch.sqrt(1 + curvature * points.square().sum(dim=0) / penalty)
    units = torch.cat([unit, torch.ones(1, dtype=torch.float64)])[:, None, None]
    solution = torch.zeros((len(units), *heads), dtype=torch.float64) if start is None else start / units
    points = points * unit
    shrink = torch.cat([unit.square(), torch.zeros(1, dtype=torch.float64)])[:, None, None]

    @torch.no_grad()
    def closure() -> torch.Tensor:
        logits = torch.addmm(solution[-1].flatten()[:, None], solution[:-1].flatten(1).T, points.T)
        loss, error = losses(logits.view(*heads, -1))
        pull = shrink * solution
        solution.grad = pull.clone()
        solution.grad[:-1] += (points.T @ error.flatten(0, 1).T).view_as(pull[:-1])
        solution.grad[-1] = error.sum(dim=2)
        return 0.5 * (pull * solution).sum() + loss

    optimizer = torch.optim.LBFGS(
        [solution],
        max_iter=500,
        tolerance_grad=tolerance / penalty,
        tolerance_change=1e-15,
        history_size=10,
        line_search_fn="strong_wolfe",
    )
    optimizer.step(closure)
    return solution * units
