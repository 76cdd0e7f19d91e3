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

"""Metrics of class probabilities, reliability bins and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from monai_weckd.metrics.tally import confusion, tally_predictions

__all__ = [
    "ReliabilityBin",
    "bootstrap_intervals",
    "classification_metrics",
    "confusion_counts",
    "percentile_interval",
    "reliability",
    "reliability_bins",
    "resampled_weights",
]

# number of item weights in memory at once during resampling
_WEIGHTS_AT_ONCE = 2**22


@dataclass(frozen=True)
class ReliabilityBin:
    """One bin of a reliability diagram that holds at least one item.

    Args:
        lower: lower edge of the bin, exclusive (the first bin includes 0).
        upper: upper edge of the bin, inclusive.
        count: number of items whose top probability lies in the bin.
        confidence: mean top probability of these items.
        accuracy: fraction of these items whose predicted class is right.
    """

    lower: float
    upper: float
    count: int
    confidence: float
    accuracy: float


def classification_metrics(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float | None]:
    """Measure a classifier's probabilities against the true classes.

    A class without an item in ``labels`` has neither recall nor AUC; the macro averages run over the classes that are
    present. They agree with scikit-learn's ``balanced_accuracy_score``, ``f1_score(average="macro")`` over the classes
    present, and ``roc_auc_score(multi_class="ovr", average="macro")``. The calibration error is that of
    Guo et al. (ICML 2017, eq. 3) with 15 bins.

    Args:
        probabilities: class probabilities, shape (N, C) with C >= 2; each row sums to 1.
        labels: class indices in 0..C-1, shape (N,).

    Returns:
        Python floats under ``accuracy``, ``balanced_accuracy``, ``macro_f1``, ``macro_auc`` and ``ece``.
        ``macro_auc`` is None when ``labels`` holds a single class: there is nothing to rank it against.

    Raises:
        TypeError: When ``labels`` does not hold integers.
        ValueError: When a shape, a probability or a label is out of range.

    Example:
        >>> metrics = classification_metrics([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], [0, 1, 1, 1])
        >>> {name: round(value, 3) for name, value in metrics.items()}
        {'accuracy': 0.75, 'balanced_accuracy': 0.833, 'macro_f1': 0.733, 'macro_auc': 1.0, 'ece': 0.35}
    """
    array, truth = _checked(probabilities, labels)
    bins = _reliability(array, truth, num_bins=15)
    error = sum(item.count * abs(item.accuracy - item.confidence) for item in bins) / len(truth)
    return {**_hits_and_ranks(array, truth), "ece": float(error)}


def confusion_counts(labels: ArrayLike, predicted: ArrayLike, *, num_classes: int) -> np.ndarray:
    """Count how often each true class (row) was given each predicted class (column).

    Args:
        labels: true class indices, shape (N,).
        predicted: predicted class indices, shape (N,).
        num_classes: number of classes C.

    Returns:
        Integer counts, shape (C, C).

    Raises:
        TypeError: When ``labels`` or ``predicted`` does not hold integers.
        ValueError: When the lengths differ or an index is outside 0..C-1.

    Example:
        >>> confusion_counts([0, 0, 1], [0, 1, 1], num_classes=2).tolist()
        [[1, 1], [0, 1]]
    """
    truth = _class_indices(labels, name="labels", num_classes=num_classes)
    guess = _class_indices(predicted, name="predicted", num_classes=num_classes)
    if truth.shape != guess.shape:
        raise ValueError(
            f"predicted: expected one class for each of the {len(truth)} labels, got {len(guess)}. Pass equal lengths."
        )
    return confusion(truth, guess, np.ones((1, len(truth))), num_classes=num_classes)[0].astype(np.int64)


def reliability_bins(probabilities: ArrayLike, labels: ArrayLike, *, num_bins: int = 15) -> list[ReliabilityBin]:
    """Compare top probabilities with accuracies in bins of equal width; bins without an item are left out.

    Args:
        probabilities: class probabilities, shape (N, C) with C >= 2; each row sums to 1.
        labels: class indices in 0..C-1, shape (N,).
        num_bins: number of bins over 0..1. Defaults to 15.

    Returns:
        The bins that hold items, from the lowest probability to the highest.

    Raises:
        TypeError: When ``labels`` does not hold integers.
        ValueError: When ``num_bins`` is less than 1, or a shape, a probability or a label is out of range.

    Example:
        >>> reliability_bins([[0.75, 0.25], [0.0, 1.0]], [0, 0], num_bins=2)
        [ReliabilityBin(lower=0.5, upper=1.0, count=2, confidence=0.875, accuracy=0.5)]
    """
    if num_bins < 1:
        raise ValueError(f"num_bins: expected an integer of at least 1, got {num_bins}. The usual choice is 15.")
    return _reliability(*_checked(probabilities, labels), num_bins=num_bins)


def bootstrap_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    *,
    groups: Sequence[str] | None = None,
    level: float = 0.95,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """Estimate percentile bootstrap intervals of the metrics by drawing groups with replacement.

    Items of one group (patient, ear, smear) are alike, so drawing single items would make the intervals too narrow
    (Field and Welsh, J. R. Statist. Soc. B 69, 2007). A class that a resample misses drops out of its macro averages.
    ``ece`` has no interval: the binned error grows with the noise of a sample, and a resample adds more noise, so the
    percentiles would be too high.

    Args:
        probabilities: class probabilities, shape (N, C) with C >= 2; each row sums to 1.
        labels: class indices in 0..C-1, shape (N,).
        groups: the group of each item, length N. Defaults to each item alone.
        level: requested coverage, between 0 and 1. Defaults to 0.95.
        num_resamples: number of bootstrap resamples. Defaults to 1000.
        seed: seed of the draw. Defaults to 0.

    Returns:
        Lower and upper limit under the keys of :func:`classification_metrics`, without ``ece``. A value is None when
        there are fewer than two groups or no resample defines the metric.

    Raises:
        TypeError: When ``labels`` does not hold integers.
        ValueError: When a shape, a probability, a label, ``level`` or ``num_resamples`` is out of range.

    Example:
        >>> intervals = bootstrap_intervals([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3], [0.2, 0.8]], [0, 1, 1, 1])
        >>> intervals["accuracy"]
        (0.25, 1.0)
    """
    array, truth = _checked(probabilities, labels)
    draws = resampled_weights(len(truth), groups, level=level, num_resamples=num_resamples, seed=seed)
    resampled = [tally_predictions(array, truth, weights).metrics() for weights in draws]
    if not resampled:
        return dict.fromkeys(_hits_and_ranks(array, truth))
    return {
        name: percentile_interval(np.concatenate([metrics[name] for metrics in resampled]), level=level)
        for name in resampled[0]
    }


def resampled_weights(
    count: int, groups: Sequence[str] | None, *, level: float, num_resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Yield how often each item is in each of some bootstrap resamples of groups, (R, N); nothing with one group.

    Args:
        count: number of items N.
        groups: the group of each item, length N; None: each item alone.
        level: requested coverage, which is checked.
        num_resamples: number of bootstrap resamples, over all parts.
        seed: seed of the draw.

    Raises:
        ValueError: When an argument is out of range.
    """
    if not 0 < level < 1:
        raise ValueError(f"level: expected a fraction between 0 and 1, got {level}. The usual choice is 0.95.")
    if num_resamples < 1:
        raise ValueError(f"num_resamples: expected an integer of at least 1, got {num_resamples}. Use 1000 or more.")
    names = list(range(count)) if groups is None else list(groups)
    if len(names) != count:
        raise ValueError(
            f"groups: expected one group for each of the {count} items, got {len(names)}. Pass equal lengths."
        )
    _, membership = np.unique(names, return_inverse=True)
    number = membership.max() + 1
    if number < 2:
        return
    rng = np.random.default_rng(seed)
    step = max(1, _WEIGHTS_AT_ONCE // count)
    for start in range(0, num_resamples, step):
        draws = [rng.integers(number, size=number) for _ in range(min(step, num_resamples - start))]
        times = np.stack([np.bincount(draw, minlength=number) for draw in draws])
        yield times[:, membership]


def percentile_interval(values: np.ndarray, *, level: float) -> tuple[float, float] | None:
    """Return the limits between which most of the finite values lie; None if there are none.

    Args:
        values: values of resamples.
        level: share of them between the limits.
    """
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    lower, upper = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def _hits_and_ranks(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    metrics = tally_predictions(probabilities, labels, np.ones((1, len(labels)))).metrics()
    return {name: float(value) if np.isfinite(value) else None for name, (value,) in metrics.items()}


def _reliability(probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int) -> list[ReliabilityBin]:
    return reliability(probabilities.max(1), probabilities.argmax(1) == labels, num_bins=num_bins)


def reliability(confidence: np.ndarray, correct: np.ndarray, *, num_bins: int) -> list[ReliabilityBin]:
    """Compare probabilities with how often what they are of is so, in bins of equal width that hold items.

    Args:
        confidence: probability of each item, (N,).
        correct: whether it is so, (N,).
        num_bins: number of bins over 0..1.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    # Clipped because a float32 softmax may exceed 1 by a rounding error.
    positions = np.clip(np.digitize(confidence, edges, right=True) - 1, 0, num_bins - 1)
    return [
        ReliabilityBin(
            lower=float(edges[position]),
            upper=float(edges[position + 1]),
            count=int((positions == position).sum()),
            confidence=float(confidence[positions == position].mean()),
            accuracy=float(correct[positions == position].mean()),
        )
        for position in np.unique(positions)
    ]


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(probabilities, dtype=np.float64)
    if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
        raise ValueError(
            f"probabilities: expected shape (N, C) with N >= 1 and C >= 2, got {array.shape}. Pass one row per item."
        )
    # Half precision sums to 1 within about 0.01 only; logits miss it by far more. The negation also catches NaN.
    if not (array.min() >= 0 and np.abs(array.sum(1) - 1).max() <= 0.01):
        raise ValueError(
            f"probabilities: expected rows in 0..1 that sum to 1, got values from {array.min():.4g} to"
            f" {array.max():.4g} and row sums from {array.sum(1).min():.4g} to {array.sum(1).max():.4g}."
            " Apply a softmax to the network's output."
        )
    truth = _class_indices(labels, name="labels", num_classes=array.shape[1])
    if len(truth) != len(array):
        raise ValueError(
            f"labels: expected one label for each of the {len(array)} rows of probabilities, got {len(truth)}."
            " Pass equal lengths."
        )
    return array, truth


def _class_indices(values: ArrayLike, *, name: str, num_classes: int) -> np.ndarray:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name}: expected shape (N,), got {array.shape}. Pass class indices, not one-hot vectors.")
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"{name}: expected integer class indices, got dtype {array.dtype}. Convert them first.")
    if len(array) and not (array.min() >= 0 and array.max() < num_classes):
        raise ValueError(
            f"{name}: expected class indices in 0..{num_classes - 1}, got {array.min()}..{array.max()}."
            " Leave items without a label out."
        )
    return array.astype(np.int64)
