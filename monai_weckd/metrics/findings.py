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
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from monai_weckd.metrics.classification import ReliabilityBin, percentile_interval, reliability, resampled_weights
from monai_weckd.metrics.tally import mean_defined, weighted_wins

__all__ = ["finding_bins", "finding_intervals", "finding_metrics", "finding_thresholds"]

_RANKED = ("auc", "average_precision", "f1")


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
    figures = _figures(array, truth, limits, np.ones((1, len(array))))
    known = truth >= 0
    each: list[dict[str, Any]] = []
    for place, limit in enumerate(limits):
        mine = known[:, place]
        bins = reliability(array[mine, place], truth[mine, place] == 1, num_bins=15)
        each.append(
            {
                "known": int(mine.sum()),
                "present": int((truth[:, place] == 1).sum()),
                **{name: _plain(figures[name][place, 0]) for name in _RANKED},
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
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in _RANKED}
    for weights in resampled_weights(len(array), groups, level=level, num_resamples=num_resamples, seed=seed):
        for name, values in _figures(array, truth, limits, weights).items():
            drawn[name].append(values)
    if not drawn["auc"]:
        nothing = dict.fromkeys(_RANKED)
        return {**{f"macro_{name}": None for name in _RANKED}, "findings": [nothing for _ in limits]}
    whole = {name: np.concatenate(parts, axis=1) for name, parts in drawn.items()}
    defined = np.isfinite(whole["auc"])
    means = {name: mean_defined(np.where(defined, values, np.nan), axis=0) for name, values in whole.items()}
    return {
        **{f"macro_{name}": percentile_interval(values, level=level) for name, values in means.items()},
        "findings": [
            {name: percentile_interval(whole[name][place], level=level) for name in _RANKED}
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


def _figures(array: np.ndarray, truth: np.ndarray, limits: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return each metric of each finding for R ways to weight the items, (F, R); NaN where it is not defined."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in _RANKED}
    for scores, values, limit in zip(array.T, truth.T, limits, strict=True):
        known = values >= 0
        mine, shown, parts = scores[known], values[known] == 1, weights[:, known]
        total, present = parts.sum(axis=1), parts[:, shown].sum(axis=1)
        pairs = present * (total - present)
        predicted = mine >= limit  # never, for NaN
        hits, called = parts[:, shown & predicted].sum(axis=1), parts[:, predicted].sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found["auc"].append(np.where(pairs > 0, weighted_wins(mine, shown, parts) / pairs, np.nan))
            found["average_precision"].append(np.where(pairs > 0, _average_precision(mine, shown, parts), np.nan))
            f1 = 2 * hits / (called + present)
        found["f1"].append(np.where((pairs > 0) & np.isfinite(limit), f1, np.nan))
    return {name: np.stack(values) for name, values in found.items()}


def _average_precision(scores: np.ndarray, shown: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the mean of the precision over the steps of the recall, (R,); items of equal score come together."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)[: len(order)]
    hits = np.cumsum(weights[:, order] * shown[order], axis=1)[:, last]
    called = np.cumsum(weights[:, order], axis=1)[:, last]
    steps = np.diff(hits, axis=1, prepend=0)
    return np.where(called > 0, steps * hits / np.maximum(called, 1e-300), 0).sum(axis=1) / weights[:, shown].sum(
        axis=1
    )


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
