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

"""Greedy maximization of kernel coverage."""

from __future__ import annotations

import numpy as np

__all__ = ["draw_candidates", "draw_references", "herd", "reach"]

# with 4,096 references, the standard error of the covered share is below 0.8 points
REFERENCES, REFERENCES_PER_LABEL = 4096, 2
CANDIDATES_PER_REFERENCE = 2
CHUNK = 1 << 19  # similarities at a time: 2 MB in single precision, which stay in the cache
FIRST_BATCH = 32  # candidates whose gain is computed anew at first
SMALLEST_REACH = 1e-5  # squared distances of unit vectors in single precision are exact to about 1e-6


def draw_references(size: int, labels: int, rng: np.random.Generator) -> np.ndarray:
    """Return the indices of the items that stand for all: every item, or above 4,096 a random subset, ascending.

    Args:
        size: number of items.
        labels: number of labels after the stage; above 2,048 there are two references for each.
        rng: source of the subset.

    """
    wanted = max(REFERENCES, REFERENCES_PER_LABEL * labels)
    return np.arange(size) if size <= wanted else np.sort(rng.choice(size, wanted, replace=False))


def draw_candidates(
    candidates: np.ndarray, groups: np.ndarray, used: np.ndarray, *, labels: int, rng: np.random.Generator
) -> np.ndarray:
    """Return the candidates in random order; of more than 8,192, a subset with as many unlabeled groups as possible.

    Args:
        candidates: indices of the items that may be chosen.
        groups: number of each item's group, (N,).
        used: numbers of the groups with a label.
        labels: number of labels after the stage; above 2,048 there are four candidates for each.
        rng: source of the order.

    """
    shuffled = rng.permutation(candidates)
    first = np.zeros(len(shuffled), dtype=bool)
    first[np.unique(groups[shuffled], return_index=True)[1]] = True
    first &= ~np.isin(groups[shuffled], used)
    wanted = CANDIDATES_PER_REFERENCE * max(REFERENCES, REFERENCES_PER_LABEL * labels)
    return shuffled[np.sort(np.argsort(~first, kind="stable")[:wanted])]


def reach(points: np.ndarray, labels: int) -> float:
    """Return the squared distance within which a label has to stand for others.

    If n labels stand for equally many of N items each, a label reaches its neighbor of rank N / n. The result is the
    median over all points of the squared distance to that neighbor. It shrinks as labels grow, without a parameter.

    Args:
        points: finite points, (N, D).
        labels: number of labels, N at most.

    """
    rank = min(max(1, len(points) // labels), len(points) - 1)
    distances = [
        np.partition(_squared_distances(points[part], points), rank, axis=1)[:, rank]
        for part in _parts(np.arange(len(points)), len(points))
    ]
    return max(float(np.median(np.concatenate(distances))), SMALLEST_REACH)


def herd(
    points: np.ndarray,
    weights: np.ndarray,
    *,
    references: np.ndarray,
    squared_radius: float,
    labeled: np.ndarray,
    candidates: np.ndarray,
    count: int,
    groups: np.ndarray,
) -> np.ndarray:
    """Choose points one by one, each the one that adds most to the weighted coverage of the references.

    The coverage of a point is its similarity exp(-d^2 / ``squared_radius``) to the nearest labeled or chosen point. As
    long as there are candidates in groups without a labeled or chosen point, only these are considered.

    Gains never grow when a point is chosen, so an old gain is an upper bound, and only gains near the top are computed
    anew (Minoux 1978). The first gains take N x R x D operations, for R references, and no more than 2 MB at a time.

    Args:
        points: finite points, (N, D).
        weights: non-negative weights, (N,).
        references: indices of the points whose coverage counts, (R,).
        squared_radius: squared distance at which similarity is 1 / e, above 0.
        labeled: indices of the points that cover before the first choice.
        candidates: distinct indices of the points to choose from; of several with equal gain, the first is chosen.
        count: how many, at most as many as candidates.
        groups: number of each point's group, (N,).

    Returns:
        Chosen indices in the order of choice, (``count``,).

    """
    targets, importance = points[references], weights[references].astype(points.dtype)
    covered = np.zeros(len(references), dtype=points.dtype)

    def gains(places: np.ndarray) -> np.ndarray:
        found = [
            np.maximum(_similarity(points[part], targets, squared_radius) - covered, 0) @ importance
            for part in _parts(candidates[places], len(references))
        ]
        return np.concatenate(found)

    for part in _parts(labeled, len(references)):
        np.maximum(covered, _similarity(points[part], targets, squared_radius).max(axis=0), out=covered)
    bounds = gains(np.arange(len(candidates)))
    computed = np.zeros(len(candidates), dtype=np.intp)
    left = np.ones(len(candidates), dtype=bool)
    fresh = ~np.isin(groups[candidates], groups[labeled])
    chosen = np.empty(count, dtype=np.intp)
    for step in range(count):
        allowed = np.flatnonzero(left & fresh) if (left & fresh).any() else np.flatnonzero(left)
        batch = FIRST_BATCH
        while computed[best := allowed[bounds[allowed].argmax()]] < step:
            top = allowed[np.argpartition(-bounds[allowed], min(batch, len(allowed)) - 1)[:batch]]
            old = top[computed[top] < step]
            bounds[old], computed[old] = gains(old), step
            batch *= 2
        chosen[step] = candidates[best]
        left[best] = False
        fresh &= groups[candidates] != groups[chosen[step]]
        np.maximum(covered, _similarity(points[chosen[step : step + 1]], targets, squared_radius)[0], out=covered)
    return chosen


def _parts(indices: np.ndarray, width: int) -> list[np.ndarray]:
    """Divide indices so that a part has no more than ``CHUNK`` similarities to ``width`` points."""
    step = max(1, CHUNK // width)
    return [indices[start : start + step] for start in range(0, len(indices), step)]


def _squared_distances(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    found = points @ (-2 * others.T)
    found += np.einsum("ij,ij->i", points, points)[:, None]
    found += np.einsum("ij,ij->i", others, others)
    return np.maximum(found, 0, out=found)


def _similarity(points: np.ndarray, others: np.ndarray, squared_radius: float) -> np.ndarray:
    found = _squared_distances(points, others)
    found *= -1 / squared_radius
    return np.exp(found, out=found)
