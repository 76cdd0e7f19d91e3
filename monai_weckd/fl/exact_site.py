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

"""What a site computes for the exact head: sums over its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_weckd.fl.exact import PENALTIES, TEMPERATURES, Sums, heads, label_counts, standardization
from monai_weckd.networks import StandardizedLinear

__all__ = ["ExactSite"]


class ExactSite:
    """What a site computes on its own images. Only sums leave it, and it keeps nothing between the rounds.

    Args:
        features: features of all training images, with a label or not, (N, D).
        labels: class of each, -1 without a label, (N,).
        groups: group of each, N names. All images of a group must be at one site.
        num_classes: number of classes, C, the same at all sites; a site may lack some, or labels altogether.
        bounded: whether the head bounds the standardized features, as a
            :py:class:`~monai_weckd.networks.StandardizedLinear` does, default True. A ``torch.nn.Linear`` does not.

    Raises:
        ValueError: When a feature is not finite, or a label is out of range.

    """

    def __init__(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        groups: Sequence[str],
        *,
        num_classes: int,
        bounded: bool = True,
    ) -> None:
        _check(features, labels, groups, num_classes)
        self._bounded = bounded
        self._features, self._labels = features.double(), labels.long()
        self._groups = np.unique(np.asarray(list(groups), dtype=object).astype(str), return_inverse=True)[1]
        self._classes = num_classes

    def moments(self) -> Sums:
        """Return the sums of the first round.

        Returns:
            ``images``, their number, (1,), and how many have ``bounded`` features, (1,): all or none; ``sum`` and
            ``squares`` of each feature over all images, (D,); ``labels`` of each class, (C,); ``groups`` with a label
            of each class, (C,); all float64.

        """
        known = self._labels >= 0
        pairs = np.unique(np.stack([self._groups, self._labels.numpy()])[:, known.numpy()], axis=1)
        images = torch.tensor([float(len(self._labels))], dtype=torch.float64)
        return {
            **{"images": images, "bounded": images * self._bounded},
            "sum": self._features.sum(dim=0),
            "squares": self._features.square().sum(dim=0),
            "labels": self._count(self._labels[known]),
            "groups": self._count(torch.from_numpy(pairs[1])),
        }

    def products(self, moments: Sums) -> Sums:
        """Return the sums of the second round, over labeled images with weights that balance the classes.

        Args:
            moments: sums of the first round over all sites.

        Returns:
            ``gram``, products of inputs, of which the last is 1, (D + 1, D + 1); ``cross``, products of inputs and
            classes, (D + 1, C).

        """
        rows, target, _ = self._weighted(moments)
        return {"gram": rows.T @ rows, "cross": rows.T @ target}

    def held_out(self, moments: Sums, products: Sums) -> Sums:
        """Return the sums of the third round: how well heads that saw no label of a group predict the group.

        A head without a group follows from the head with it: ``y - p = (1 - H)^-1 (y - f)`` for the group's labels y,
        the predictions f and p with and without it, and its block H of the hat matrix. The weights of the labels and
        the standardization stay. Labels of classes that no other group has are left out.

        Args:
            moments: sums of the first round over all sites.
            products: sums of the second round over all sites.

        Returns:
            ``errors``, the weighted sum of squared errors with each penalty, (P,); ``surprise``, the sum of
            ``-log p(label)`` at each temperature, (P, T); ``confusion``, labels of a class (rows) that were predicted
            as another (columns), (P, C, C).

        """
        rows, target, weight = self._weighted(moments)
        known = self._labels >= 0
        labels, groups = self._labels[known], self._groups[known.numpy()]
        judged = (moments["groups"] > 1)[labels]
        parts = [torch.from_numpy(np.flatnonzero(groups == group)) for group in np.unique(groups)]
        parts = [part for part in parts if judged[part].any()]
        errors = [_errors(rows, target, parts, *head) for head in heads(products, PENALTIES)]
        # to their own scale, where a label is 1
        scores = [(target - error) / weight.sqrt()[:, None] for error in errors]
        return {
            "errors": torch.stack([error[judged].square().sum() for error in errors]),
            "surprise": torch.stack([_surprise(score[judged], labels[judged]) for score in scores]),
            "confusion": torch.stack([self._confusion(score[judged], labels[judged]) for score in scores]),
        }

    def _count(self, labels: torch.Tensor) -> torch.Tensor:
        return torch.bincount(labels, minlength=self._classes).double()

    def _weighted(self, moments: Sums) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return inputs, (N, D + 1), and classes, (N, C), of the labels, times the roots of their weights, (N,)."""
        known = self._labels >= 0
        labels, counts = self._labels[known], label_counts(moments)
        weight = (counts.sum() / (counts.count_nonzero() * counts.clamp(min=1)))[labels]
        inputs = self._inputs(self._features[known], *standardization(moments))
        target = torch.nn.functional.one_hot(labels, self._classes).double()
        root = weight.sqrt()[:, None]
        return torch.cat([inputs, torch.ones_like(root)], dim=1) * root, target * root, weight

    def _inputs(self, features: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        if not self._bounded:
            return torch.where(deviation > 0, (features - mean) / deviation, 0)
        layer = StandardizedLinear(features.shape[1], 1).double()
        layer.fit(mean, deviation)
        return layer.standardize(features)

    def _confusion(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pairs = labels * self._classes + scores.argmax(dim=1)
        return torch.bincount(pairs, minlength=self._classes**2).double().view(self._classes, -1)


def _errors(
    rows: torch.Tensor,
    target: torch.Tensor,
    parts: Sequence[torch.Tensor],
    factor: torch.Tensor,
    solution: torch.Tensor,
) -> torch.Tensor:
    """Return the errors of heads that saw no label of a group, (N, C), times the roots of the weights."""
    errors = target - rows @ solution
    half = torch.linalg.solve_triangular(factor, rows.T, upper=False).T
    for part in parts:
        left = torch.eye(len(part), dtype=torch.float64) - half[part] @ half[part].T
        errors[part] = torch.linalg.solve(left, errors[part])
    return errors


def _surprise(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logs = (torch.log_softmax(scores / temperature, dim=1) for temperature in TEMPERATURES)
    return torch.stack([-one.gather(1, labels[:, None]).sum() for one in logs])


def _check(features: torch.Tensor, labels: torch.Tensor, groups: Sequence[str], num_classes: int) -> None:
    sizes = len(features), len(labels), len(groups)
    if len(set(sizes)) > 1:
        raise ValueError(f"labels: expected as many features, labels and groups, got {sizes}. Pass one for each image.")
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"features: expected finite numbers, got others in row {bad}. Look for a broken image.")
    if len(labels) and not (int(labels.min()) >= -1 and int(labels.max()) < num_classes):
        raise ValueError(
            f"labels: expected classes from 0 to {num_classes - 1}, or -1, got {int(labels.min())} to "
            f"{int(labels.max())}. Pass num_classes of all sites."
        )
