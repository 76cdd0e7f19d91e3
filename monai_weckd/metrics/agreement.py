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

"""How well several readers agree: Cohen's and Fleiss' kappa with intervals over groups."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np

from monai_weckd.metrics.classification import percentile_interval, resampled_weights

__all__ = ["agreement", "cohen_kappa", "fleiss_kappa"]


def cohen_kappa(first: np.ndarray, second: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return Cohen's kappa of two readers: how far they agree beyond chance, given how often each says what.

    kappa = (p_o - p_e) / (1 - p_e), Cohen, "A coefficient of agreement for nominal scales", 1960.

    Args:
        first: what one reader says of N items, integers from 0, (N,).
        second: what the other one says, (N,).
        weights: how often each item counts, (R, N), default None: once.

    Returns:
        Shape (R,); (1,) without weights. NaN where both say the same of everything, so that chance explains it all.

    Example::

        >>> cohen_kappa(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])).tolist()
        [0.5]

    """
    ones, others = (np.eye(max(first.max(), second.max()) + 1)[reader] for reader in (first, second))
    weights = np.ones((1, len(first))) if weights is None else weights
    total = weights.sum(axis=1)
    observed = weights @ (first == second) / total
    expected = ((weights @ ones) * (weights @ others)).sum(axis=1) / total**2
    return _beyond_chance(observed, expected)


def fleiss_kappa(counts: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Return Fleiss' kappa of any readers, each item having as many readings.

    Fleiss, "Measuring nominal scale agreement among many raters", 1971.

    Args:
        counts: number of readings of each item by what they say, (N, K).
        weights: how often each item counts, (R, N), default None: once.

    Returns:
        Shape (R,); (1,) without weights. NaN where all readings are the same.

    Raises:
        ValueError: When items have fewer than two readings, or not as many as others.

    Example::

        >>> fleiss_kappa(np.array([[2, 0], [1, 1], [0, 2], [0, 2]])).round(4).tolist()
        [0.4667]

    """
    readings = counts.sum(axis=1)
    number = readings[0] if len(readings) else 0
    if number < 2 or (readings != number).any():
        raise ValueError(
            f"counts: expected as many readings of each item, two or more, got {sorted(set(readings.tolist()))}. "
            "Take the first two."
        )
    weights = np.ones((1, len(counts))) if weights is None else weights
    total = weights.sum(axis=1)
    alike = ((counts**2).sum(axis=1) - number) / (number * (number - 1))
    shares = weights @ counts / (total[:, None] * number)
    return _beyond_chance(weights @ alike / total, (shares**2).sum(axis=1))


def _beyond_chance(observed: np.ndarray, expected: np.ndarray) -> np.ndarray:
    kappa = np.full(len(observed), np.nan)
    np.divide(observed - expected, 1 - expected, out=kappa, where=expected < 1 - 1e-12)
    return kappa


def agreement(
    readings: Sequence[Mapping[str, str]], groups: Sequence[str], *, num_resamples: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Return how well the first two readers of each item agree, as JSON-compatible data.

    Intervals of 95 % are percentiles over resampled groups, since items of a patient resemble each other.

    Args:
        readings: for each item what each reader says, the first reader first; two or more.
        groups: group of each item.
        num_resamples: number of resamples, default 1000.
        seed: seed of the resamples, default 0.

    Returns:
        ``images``, the share that ``agree``, ``fleiss``, and in ``cohen`` each pair of ``readers`` with its ``images``.
        A kappa is ``{"kappa", "low", "high"}``; None where it is undefined.

    """
    pairs = [list(item.items())[:2] for item in readings]
    known = {text: place for place, text in enumerate(sorted({text for pair in pairs for _, text in pair}))}
    said = np.array([[known[text] for _, text in pair] for pair in pairs]).reshape(-1, 2)
    counts = np.stack([(said == place).sum(axis=1) for place in known.values()], axis=1) if pairs else said
    fleiss = _with_interval(lambda weights: fleiss_kappa(counts, weights), groups, num_resamples, seed)
    names = sorted({name for pair in pairs for name, _ in pair})
    cohen = []
    for one, other in combinations(names, 2):
        rows = [row for row, pair in enumerate(pairs) if {one, other} == {name for name, _ in pair}]
        if not rows:
            continue
        both = np.array([[known[dict(pairs[row])[name]] for name in (one, other)] for row in rows]).T
        found = _with_interval(
            partial(cohen_kappa, *both),
            [groups[row] for row in rows],
            num_resamples,
            seed,
        )
        cohen.append({"readers": [one, other], "images": len(rows), **found})
    agree = float((said[:, 0] == said[:, 1]).mean()) if pairs else None
    return {"images": len(pairs), "agree": agree, "fleiss": fleiss, "cohen": cohen}


def _with_interval(
    measure: Callable[[np.ndarray], np.ndarray], groups: Sequence[str], num_resamples: int, seed: int
) -> dict[str, float | None]:
    """Return a kappa and its interval; ``measure`` takes how often each item counts, (R, N)."""
    if not groups:
        return {"kappa": None, "low": None, "high": None}
    kappa = float(measure(np.ones((1, len(groups))))[0])
    parts = resampled_weights(len(groups), groups, level=0.95, num_resamples=num_resamples, seed=seed)
    values = [measure(weights) for weights in parts]
    interval = percentile_interval(np.concatenate(values), level=0.95) if values and np.isfinite(kappa) else None
    low, high = interval or (None, None)
    return {"kappa": kappa if np.isfinite(kappa) else None, "low": low, "high": high}
