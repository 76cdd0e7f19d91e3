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

from collections.abc import Callable
from math import isqrt, log

import numpy as np

from monai_weckd.splits import apportion

__all__ = ["draw", "k_means", "squared_distances"]

MAX_CLUSTERS = 500
MAX_ITERATIONS = 50
CHUNK = 1 << 22  # distances at a time: 16 MB in single precision


def k_means(points: np.ndarray, count: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide points into clusters by Lloyd's algorithm from k-means++ seeds (Arthur and Vassilvitskii, SODA 2007).

    Above 500 clusters the points are divided twice, first into the square root of that number, each of which then gets
    clusters in proportion to its points: the time then grows with N sqrt(``count``) and not with N ``count``.

    Args:
        points: finite points, (N, D).
        count: number of clusters, N at most. Where points coincide, some are empty.
        rng: source of the seeds.

    Returns:
        The cluster of each point, (N,), and the squared distance of each point to its cluster's center, (N,).

    """
    if count > MAX_CLUSTERS:
        return _divide_twice(points, count, rng)
    centers = points[_seeds(points, count, rng)]
    cluster, distance = _assign(points, centers)
    for _ in range(MAX_ITERATIONS):
        sizes = np.bincount(cluster, minlength=count)
        sums = np.stack([np.bincount(cluster, column, minlength=count) for column in points.T], axis=1)
        filled = sizes > 0  # a cluster that lost its points keeps its center
        centers[filled] = sums[filled] / sizes[filled, None]
        before, (cluster, distance) = cluster, _assign(points, centers)
        if np.array_equal(before, cluster):
            break
    return cluster, distance


def squared_distances(points: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from T indices of points to the squared distances of all points to these, (T, N).

    Args:
        points: finite points, (N, D).

    """
    norms = np.einsum("ij,ij->i", points, points)
    return lambda indices: np.maximum(norms + norms[indices, None] - 2 * (points[indices] @ points.T), 0)


def draw(weights: np.ndarray, count: int, *, rng: np.random.Generator) -> np.ndarray:
    """Draw indices, the same more than once perhaps, with probabilities in proportion to the weights.

    Args:
        weights: non-negative weights, (N,), not all zero.
        count: how many indices.
        rng: source of as many uniform numbers.

    """
    total = np.cumsum(weights, dtype=np.float64)
    # the last index with a weight, should rounding take a number to the very end
    last = np.searchsorted(total, total[-1], side="left")
    return np.minimum(np.searchsorted(total, rng.random(count) * total[-1], side="right"), last)


def _seeds(points: np.ndarray, count: int, rng: np.random.Generator) -> list[int]:
    """Choose seeds far from each other: each the best of a few draws, as the authors' own program does."""
    distances = squared_distances(points)
    chosen = [int(rng.integers(len(points)))]
    nearest = distances(np.array(chosen))[0]
    trials = 2 + int(log(count))
    while len(chosen) < count:
        drawn = draw(nearest if nearest.any() else np.ones(len(points)), trials, rng=rng)
        closer = np.minimum(nearest, distances(drawn))
        best = int(closer.sum(axis=1).argmin())
        chosen.append(int(drawn[best]))
        nearest = closer[best]
        nearest[chosen[-1]] = 0
    return chosen


def _assign(points: np.ndarray, centers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest center of each point, and the squared distance to it, some rows at a time."""
    norms = np.einsum("ij,ij->i", centers, centers)
    cluster = np.empty(len(points), dtype=np.intp)
    distance = np.empty(len(points), dtype=points.dtype)
    step = max(1, CHUNK // len(centers))
    for start in range(0, len(points), step):
        part = points[start : start + step]
        score = norms - 2 * (part @ centers.T)
        here = slice(start, start + len(part))
        cluster[here] = score.argmin(axis=1)
        best = np.take_along_axis(score, cluster[here, None], axis=1)[:, 0]
        distance[here] = np.maximum(best + np.einsum("ij,ij->i", part, part), 0)
    return cluster, distance


def _divide_twice(points: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    coarse, distance = k_means(points, isqrt(count), rng=rng)
    cluster = np.empty_like(coarse)
    sizes = np.bincount(coarse)
    shares = np.array(apportion(count, sizes.tolist()))
    for number, first in enumerate(np.cumsum(shares) - shares):
        members = np.flatnonzero(coarse == number)
        if len(members):
            part, distance[members] = k_means(points[members], int(shares[number]), rng=rng)
            cluster[members] = part + first
    return cluster, distance
