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

"""Weighted sums over items from which metrics are computed, additive over folds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Tally", "confusion", "mean_defined", "tally_predictions", "weighted_wins"]


@dataclass(frozen=True)
class Tally:
    """Sums over test items, for each of R ways to weight the items; tallies of different folds can be added.

    Args:
        counts: weight by label and predicted class, shape (R, C, C).
        wins: weight of the correctly ranked pairs of an item of a class and an item of another, shape (R, C).
        pairs: weight of all such pairs, shape (R, C).

    """

    counts: np.ndarray
    wins: np.ndarray
    pairs: np.ndarray

    def metrics(self) -> dict[str, np.ndarray]:
        """Return each metric for each way to weight, shape (R,); NaN where it is not defined."""
        right, truth = np.diagonal(self.counts, axis1=1, axis2=2), self.counts.sum(2)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.where(truth > 0, right / truth, np.nan)
            f1 = np.where(truth > 0, 2 * right / (truth + self.counts.sum(1)), np.nan)
            auc = np.where(self.pairs > 0, self.wins / self.pairs, np.nan)
            accuracy = right.sum(1) / truth.sum(1)
        means = {"balanced_accuracy": recall, "macro_f1": f1, "macro_auc": auc}
        return {"accuracy": accuracy, **{name: mean_defined(values, axis=1) for name, values in means.items()}}

    @classmethod
    def total(cls, tallies: Sequence[Tally]) -> Tally:
        """Return the sum of tallies over different items.

        Args:
            tallies: at least one, weighted in the same ways.

        """
        parts = [(tally.counts, tally.wins, tally.pairs) for tally in tallies]
        return cls(*(np.sum(part, axis=0) for part in zip(*parts, strict=True)))


def tally_predictions(probabilities: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> Tally:
    """Add up weighted items.

    Args:
        probabilities: class probabilities, shape (N, C).
        labels: class indices, shape (N,).
        weights: weight of each item, shape (R, N).

    """
    classes = probabilities.shape[1]
    counts = confusion(labels, probabilities.argmax(1), weights, num_classes=classes)
    wins = np.stack([weighted_wins(probabilities[:, c], labels == c, weights) for c in range(classes)], axis=1)
    truth = counts.sum(2)
    return Tally(counts, wins, truth * (truth.sum(1, keepdims=True) - truth))


def confusion(labels: np.ndarray, predicted: np.ndarray, weights: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Add up weights by true class (row) and predicted class (column).

    Args:
        labels: true class indices, shape (N,).
        predicted: predicted class indices, shape (N,).
        weights: weight of each item, shape (R, N).
        num_classes: number of classes C.

    Returns:
        Sums of weights, shape (R, C, C).

    """
    place = labels * num_classes + predicted
    sums = [np.bincount(place, row, minlength=num_classes**2) for row in weights]
    return np.reshape(sums, (len(weights), num_classes, num_classes))


def weighted_wins(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the Mann-Whitney statistic for each row of weights, (R,): a tie is half a win.

    Args:
        scores: score of each item, (N,).
        positive: whether it should rank above the others, (N,).
        weights: weight of each item, (R, N).

    """
    order = np.argsort(scores)
    above, negative = order[positive[order]], order[~positive[order]]
    # for each k, the weight of the k negatives with the lowest scores
    beaten = np.zeros((len(weights), len(negative) + 1))
    np.cumsum(weights[:, negative], axis=1, out=beaten[:, 1:])
    below, up_to = (np.searchsorted(scores[negative], scores[above], side) for side in ("left", "right"))
    return np.einsum("rp,rp->r", weights[:, above], beaten[:, below] + beaten[:, up_to]) / 2


def mean_defined(values: np.ndarray, *, axis: int) -> np.ndarray:
    """Return the mean of the finite values, or NaN if there are none.

    Args:
        values: the numbers.
        axis: the axis to average over.

    """
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis) / defined.sum(axis)
