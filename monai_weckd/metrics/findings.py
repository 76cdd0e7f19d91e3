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

"""Metrics of findings, of which an image may show several: each is measured where it is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monai_weckd.metrics.classification import ReliabilityBin, percentile_interval, reliability, resampled_weights
from monai_weckd.metrics.tally import mean_defined, weighted_wins

__all__ = [
    "FindingTally",
    "finding_answers",
    "finding_bins",
    "finding_intervals",
    "finding_metrics",
    "finding_thresholds",
    "tally_findings",
]

_RANKED = ("auc", "average_precision", "f1")


@dataclass(frozen=True)
class FindingTally:
    """Sums over test items, for each of R ways to weight the items and F findings; those of different folds add up.

    Args:
        wins: weight of the correctly ranked pairs of an item with the finding and one without, (R, F).
        pairs: weight of all such pairs, (R, F).
        precision: sum over the items with the finding of the precision at their rank, (R, F); 0 without pairs.
        ranked: weight of these items, (R, F).
        hits: weight of the items with the finding that are called so, (R, F).
        called: weight of all items that are called so, (R, F); NaN without a threshold.
        present: weight of all items with the finding, (R, F).

    """

    wins: np.ndarray
    pairs: np.ndarray
    precision: np.ndarray
    ranked: np.ndarray
    hits: np.ndarray
    called: np.ndarray
    present: np.ndarray

    def each(self) -> dict[str, np.ndarray]:
        """Return each metric of each finding, (R, F); NaN where it is not defined."""
        both = self.pairs > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            return {
                "auc": np.where(both, self.wins / self.pairs, np.nan),
                "average_precision": np.where(both, self.precision / self.ranked, np.nan),
                "f1": np.where(both, 2 * self.hits / (self.called + self.present), np.nan),
            }

    def metrics(self) -> dict[str, np.ndarray]:
        """Return the mean of each metric over the findings with both outcomes, (R,); NaN without one."""
        return {f"macro_{name}": mean_defined(values, axis=1) for name, values in self.each().items()}

    @classmethod
    def total(cls, tallies: Sequence[FindingTally]) -> FindingTally:
        """Return the sum of tallies over different items; items are ranked within a tally only.

        Args:
            tallies: at least one, weighted in the same ways.

        """
        return cls(*(np.sum(part, axis=0) for part in zip(*map(astuple, tallies), strict=True)))


def tally_findings(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: Sequence[float | None] | None, weights: np.ndarray
) -> FindingTally:
    """Add up weighted items.

    Args:
        probabilities: probability of each finding, (N, F).
        labels: (N, F), 1, 0, and -1 or NaN where it is unknown.
        thresholds: see :func:`finding_metrics`.
        weights: weight of each item, (R, N).

    Raises:
        ValueError: When a shape, a probability or a label is out of range.
    """
    return _tally(*_checked(probabilities, labels, thresholds), weights)


def finding_metrics(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: Sequence[float | None] | None = None
) -> dict[str, Any]:
    """Measure the probabilities of findings against what is known.

    An unknown finding is measured nowhere. The means run over the findings that are both present and absent among the
    images. AUC and average precision agree with scikit-learn's ``roc_auc_score`` and ``average_precision_score``, F1
    with ``f1_score`` of ``probability >= threshold``. The calibration error compares the probability of a finding with
    how often it is present, in 15 bins of equal width.

    Args:
        probabilities: probability of each finding, (N, F).
        labels: (N, F), 1 where it is present, 0 where it is absent, and -1 or NaN where it is unknown.
        thresholds: probability from which a finding counts as present, F numbers; None in place of one: no F1. Default
            None: 0.5 for each.

    Returns:
        Means under ``macro_auc``, ``macro_average_precision``, ``macro_f1`` and ``macro_ece``, None where no finding
        has both outcomes; under ``findings`` a dictionary for each with ``known``, ``present``, ``auc``,
        ``average_precision``, ``f1``, ``threshold`` and ``ece``.

    Raises:
        ValueError: When a shape, a probability or a label is out of range.

    Example:
        >>> found = finding_metrics([[0.9, 0.5], [0.2, 0.4], [0.6, 0.7]], [[1, 0], [0, -1], [0, 1]])
        >>> found["macro_auc"], [one["known"] for one in found["findings"]], found["findings"][0]["auc"]
        (1.0, [3, 2], 1.0)
    """
    array, truth, limits = _checked(probabilities, labels, thresholds)
    figures = _tally(array, truth, limits, np.ones((1, len(array)))).each()
    known = truth >= 0
    each: list[dict[str, Any]] = []
    for place, limit in enumerate(limits):
        mine = known[:, place]
        bins = reliability(array[mine, place], truth[mine, place] == 1, num_bins=15)
        each.append(
            {
                "known": int(mine.sum()),
                "present": int((truth[:, place] == 1).sum()),
                **{name: _plain(figures[name][0, place]) for name in _RANKED},
                "threshold": _plain(limit),
                "ece": sum(b.count * abs(b.accuracy - b.confidence) for b in bins) / max(1, int(mine.sum())),
            }
        )
    both = [one for one in each if 0 < one["present"] < one["known"]]
    means = {name: _plain(_mean([one[name] for one in both])) for name in (*_RANKED, "ece")}
    return {**{f"macro_{name}": value for name, value in means.items()}, "findings": each}


def finding_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    thresholds: Sequence[float | None] | None = None,
    *,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate percentile bootstrap intervals of the metrics of findings by drawing groups with replacement.

    See :func:`bootstrap_intervals`; a finding that a resample lacks drops out of that resample's means, and the
    calibration error has no interval.

    Args:
        probabilities: probability of each finding, (N, F).
        labels: (N, F), 1, 0, and -1 or NaN where it is unknown.
        thresholds: see :func:`finding_metrics`.
        groups: the group of each item, length N. Defaults to each item alone.
        level: requested coverage, between 0 and 1. Defaults to 0.95.
        num_resamples: number of bootstrap resamples. Defaults to 1000.
        seed: seed of the draw. Defaults to 0.

    Returns:
        Lower and upper limit under ``macro_auc``, ``macro_average_precision`` and ``macro_f1``, and for each finding
        under ``findings``; None where there are fewer than two groups or no resample defines the metric.

    Raises:
        ValueError: When an argument is out of range.
    """
    array, truth, limits = _checked(probabilities, labels, thresholds)
    draws = resampled_weights(len(array), groups, level=level, num_resamples=num_resamples, seed=seed)
    drawn = [_tally(array, truth, limits, weights) for weights in draws]
    if not drawn:
        nothing = dict.fromkeys(_RANKED)
        return {**{f"macro_{name}": None for name in _RANKED}, "findings": [nothing for _ in limits]}
    whole = FindingTally(*(np.concatenate(parts) for parts in zip(*map(astuple, drawn), strict=True)))
    each = whole.each()
    return {
        **{name: percentile_interval(values, level=level) for name, values in whole.metrics().items()},
        "findings": [
            {name: percentile_interval(each[name][:, place], level=level) for name in _RANKED}
            for place in range(len(limits))
        ],
    }


def finding_thresholds(
    probabilities: ArrayLike, labels: ArrayLike, *, sensitivity: float | None = None
) -> list[float | None]:
    """Choose from which probability on each finding counts as present.

    Pass probabilities of images that the model has not learned from, such as out-of-fold ones. The threshold has the
    largest sensitivity plus specificity (Youden, Cancer 3:32, 1950), the lowest of several; or, of those with at least
    the sensitivity that is asked for, the largest. It lies halfway between two probabilities.

    Args:
        probabilities: probability of each finding, (N, F).
        labels: (N, F), 1, 0, and -1 or NaN where it is unknown.
        sensitivity: smallest share of the images with a finding that are to be found. Defaults to None: Youden.

    Returns:
        A threshold for each finding; None without images of both outcomes.

    Raises:
        ValueError: When ``sensitivity`` is not above 0 and at most 1, or a shape is out of range.

    Example:
        >>> finding_thresholds([[0.1], [0.4], [0.6], [0.8]], [[0], [1], [0], [1]])
        [0.25]
        >>> finding_thresholds([[0.1], [0.4], [0.6], [0.8]], [[0], [1], [0], [1]], sensitivity=0.5)
        [0.7]
    """
    if sensitivity is not None and not 0 < sensitivity <= 1:
        raise ValueError(f"sensitivity: expected a share above 0 and at most 1, got {sensitivity}. Pass e.g. 0.9.")
    array, truth, _ = _checked(probabilities, labels, None)
    return [_threshold(array[:, place], truth[:, place], sensitivity) for place in range(array.shape[1])]


def finding_bins(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> list[list[ReliabilityBin]]:
    """Compare the probabilities of each finding with how often it is present; ``accuracy`` of a bin is that share.

    Args:
        probabilities: probability of each finding, (N, F).
        labels: (N, F), 1, 0, and -1 or NaN where it is unknown.
        num_bins: number of bins over 0..1. Defaults to 15.
    """
    array, truth, _ = _checked(probabilities, labels, None)
    known = truth >= 0
    return [
        reliability(array[known[:, place], place], truth[known[:, place], place] == 1, num_bins=num_bins)
        for place in range(array.shape[1])
    ]


def _threshold(scores: np.ndarray, truth: np.ndarray, sensitivity: float | None) -> float | None:
    positive, negative = np.sort(scores[truth == 1]), np.sort(scores[truth == 0])
    if not len(positive) or not len(negative):
        return None
    values = np.unique(np.concatenate([positive, negative]))
    # halfway to the score below, so that a score a little lower than one that was seen counts as well
    limits = (np.concatenate([[2 * values[0] - values[1] if len(values) > 1 else values[0]], values[:-1]]) + values) / 2
    found = 1 - np.searchsorted(positive, limits) / len(positive)
    spared = np.searchsorted(negative, limits) / len(negative)
    if sensitivity is None:
        return float(np.clip(limits[np.argmax(found + spared)], 0, 1))
    return float(np.clip(limits[found >= sensitivity - 1e-12][-1], 0, 1))


def _tally(array: np.ndarray, truth: np.ndarray, limits: np.ndarray, weights: np.ndarray) -> FindingTally:
    found = []
    for scores, values, limit in zip(array.T, truth.T, limits, strict=True):
        known = values >= 0
        mine, shown, parts = scores[known], values[known] == 1, weights[:, known]
        total, present = parts.sum(axis=1), parts[:, shown].sum(axis=1)
        pairs = present * (total - present)
        predicted = mine >= limit  # never, for NaN
        called = parts[:, predicted].sum(axis=1) if np.isfinite(limit) else np.full(len(parts), np.nan)
        found.append(
            (
                weighted_wins(mine, shown, parts),
                pairs,
                np.where(pairs > 0, _precision(mine, shown, parts), 0),
                np.where(pairs > 0, present, 0),
                parts[:, shown & predicted].sum(axis=1),
                called,
                present,
            )
        )
    return FindingTally(*(np.stack(part, axis=1) for part in zip(*found, strict=True)))


def _precision(scores: np.ndarray, shown: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the sum over shown items of the precision at their rank, (R,); items of equal score come together."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)[: len(order)]
    hits = np.cumsum(weights[:, order] * shown[order], axis=1)[:, last]
    called = np.cumsum(weights[:, order], axis=1)[:, last]
    steps = np.diff(hits, axis=1, prepend=0)
    found: np.ndarray = np.where(called > 0, steps * hits / np.maximum(called, 1e-300), 0).sum(axis=1)
    return found


def _checked(
    probabilities: ArrayLike, labels: ArrayLike, thresholds: Sequence[float | None] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    array, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.float64)
    if array.ndim != 2 or not array.size or array.shape != truth.shape:
        raise ValueError(
            f"labels: expected probabilities and labels of one shape (N, F), got {array.shape} and {truth.shape}. "
            "Pass a row for each image."
        )
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(
            f"probabilities: expected 0 to 1, got {array.min():.4g} to {array.max():.4g}. Apply a sigmoid."
        )
    if not (np.isnan(truth) | np.isin(truth, (-1, 0, 1))).all():
        raise ValueError(
            f"labels: expected 0, 1, -1 or NaN, got {np.nanmin(truth):g} to {np.nanmax(truth):g}. Map them."
        )
    limits = [0.5] * array.shape[1] if thresholds is None else thresholds
    if len(limits) != array.shape[1]:
        raise ValueError(
            f"thresholds: expected {array.shape[1]}, one for each finding, got {len(limits)}. Pass as many."
        )
    return array, truth, np.array([np.nan if limit is None else limit for limit in limits])


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan


def _plain(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def finding_answers(
    probabilities: Sequence[float], thresholds: Sequence[float | None], min_confidence: float
) -> list[bool | None]:
    """Return for each finding whether it is present; None where the answer is less probable than asked for.

    Args:
        probabilities: of the findings, (F,).
        thresholds: from which probability on each counts as present, None for one that never does.
        min_confidence: smallest probability of an answer.

    Example::

        >>> finding_answers([0.9, 0.6, 0.1], [0.5, 0.5, None], 0.8)
        [True, None, False]

    """
    present = [limit is not None and value >= limit for value, limit in zip(probabilities, thresholds, strict=True)]
    sure = [
        (value if shown else 1 - value) >= min_confidence for value, shown in zip(probabilities, present, strict=True)
    ]
    return [shown if certain else None for shown, certain in zip(present, sure, strict=True)]
