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

"""k-means clustering and k-means++ sampling."""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

import numpy as np

from monai_weckd.utils.draws import apportion

__all__ = ["draw_apart", "k_means", "squared_distances"]

MAX_CLUSTERS = 500
MAX_ITERATIONS = 50
CHUNK = 1 << 22  # distances at a time: 16 MB in single precision


def k_means(points: np.ndarray, count: int, *, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Divide points into clusters by Lloyd's algorithm from k-means++ seeds (Arthur and Vassilvitskii, SODA 2007).

    Above 500 clusters, the points are divided twice: first into sqrt(``count``) coarse clusters, then each of these
    into clusters in proportion to its points. The time then grows with N sqrt(``count``), not with N ``count``.

    Args:
        points: finite points, (N, D).
        count: number of clusters, N at most. Where points coincide, some are empty.
        rng: source of the seeds.

    Returns:
        The cluster of each point, (N,), and the squared distance of each point to its cluster's center, (N,).

    """
    if count > MAX_CLUSTERS:
        return _divide_twice(points, count, rng)
    seeds = draw_apart(squared_distances(points), np.ones(len(points)), count=count, rng=rng)
    centers = points[seeds]
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


def squared_distances(points: np.ndarray) -> Callable[[int], np.ndarray]:
    """Return a function from the index of a point to the squared distances of all points to it, (N,).

    Args:
        points: finite points, (N, D).

    """
    norms = np.einsum("ij,ij->i", points, points)
    return lambda index: np.maximum(norms + norms[index] - 2 * (points @ points[index]), 0)


def draw_apart(
    distances: Callable[[int], np.ndarray],
    weights: np.ndarray,
    *,
    count: int,
    rng: np.random.Generator,
    first: int | None = None,
    nearest: np.ndarray | None = None,
    groups: np.ndarray | None = None,
    used: np.ndarray | None = None,
) -> list[int]:
    """Draw distinct points, each with a chance that grows with its squared distance to those drawn before it.

    This is the seeding of k-means++ (Arthur and Vassilvitskii, SODA 2007) with a weight for each point. As long as
    there are groups without a drawn point, only their points are considered.

    Args:
        distances: function from an index to the squared distances of all points to that point, (N,).
        weights: non-negative weights, (N,).
        count: number of points, N at most.
        rng: source of one uniform number for each.
        first: index of the first point, default None: it is drawn too.
        nearest: squared distance of each point to the nearest point drawn earlier, (N,), default None: there is none.
        groups: number of the group of each point, (N,), default None: groups do not matter.
        used: numbers of the groups from which points were drawn earlier, default None: none.

    """
    left = np.ones(len(weights), dtype=bool)
    fresh = left.copy() if groups is None or used is None else ~np.isin(groups, used)
    chosen: list[int] = []
    for number in rng.random(count):
        if first is not None and not chosen:
            index = first
        else:
            allowed = left & fresh
            allowed = allowed if allowed.any() else left
            index = _draw(allowed * (weights if nearest is None else weights * nearest), allowed, number)
        apart = distances(index)
        nearest = apart if nearest is None else np.minimum(nearest, apart)
        chosen.append(index)
        left[index] = False
        if groups is not None:
            fresh &= groups != groups[index]
    return chosen


def _draw(chances: np.ndarray, allowed: np.ndarray, number: float) -> int:
    """Return the index that a number from [0, 1) falls on when each has a share in proportion to its chance."""
    # if all remaining points coincide with drawn ones or have no weight, each is equally good
    total = np.cumsum(chances if chances.any() else allowed, dtype=np.float64)
    # if rounding moves the number to the very end, take the last index with a chance
    last = np.searchsorted(total, total[-1], side="left")
    return int(min(np.searchsorted(total, number * total[-1], side="right"), last))


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
