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

import numpy as np

from monai_weckd.selection.clustering import CHUNK, draw_apart, k_means, squared_distances
from monai_weckd.selection.context import SelectionContext, check_selection
from monai_weckd.selection.embedding import embed

__all__ = ["select_items"]


def select_items(strategy: str, context: SelectionContext, *, count: int) -> np.ndarray:
    """Choose the items whose labels the next stage asks for.

    - "random": each item is as likely as any other.
    - "typical": as many clusters as there will be labels; from each without a label, the largest first, the item
      nearest to its center. After TypiClust (Hacohen, Dekel and Weinshall, ICML 2022, arXiv 2202.02794).
    - "margin": the items whose two most probable classes differ least.
    - "diverse": drawn with a chance in proportion to the squared distance to the nearest item with a label, times one
      minus the margin, first from groups without a label.
    - "badge": drawn as k-means++ draws its seeds, by distances between gradients of the last layer under the most
      probable class as label (Ash et al., ICLR 2020, arXiv 1906.03671).
    - "auto": "typical" as long as there is no teacher, then "diverse".

    The choice is a function of the arguments. None of these is a label.

    Args:
        strategy: one of the above.
        context: features, probabilities, groups and masks of all training items.
        count: how many items, at least 1.

    Returns:
        Distinct indices of rows of the features, ascending, (``count``,).

    Raises:
        ValueError: When ``strategy`` is unknown, the context is not in order, "margin" or "badge" have no
            probabilities, or there are fewer than ``count`` items to ask for.

    Example::

        >>> features = np.array([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]], dtype=np.float32)
        >>> nobody, all_items = np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
        >>> context = SelectionContext(features, None, ["a", "a", "b", "b"], nobody, all_items, seed=0, stage=1)
        >>> [context.groups[i] for i in select_items("typical", context, count=2)]
        ['a', 'b']

    """
    check_selection(strategy, context, count=count)
    if strategy == "auto":
        strategy = "typical" if context.probabilities is None else "diverse"
    choose = {"random": _random, "typical": _typical, "margin": _margin, "diverse": _diverse, "badge": _badge}[strategy]
    chosen = choose(context, count, np.random.default_rng([context.seed, context.stage]))
    return np.sort(chosen)


def _random(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(context.candidates)[:count]


def _typical(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    points = embed(context.features, rng)
    clusters = min(len(points), int(context.labelled.sum()) + count)
    cluster, distance = k_means(points, clusters, rng=rng)
    candidates = context.candidates
    nearest_first = candidates[np.lexsort((distance[candidates], cluster[candidates]))]
    members = np.bincount(cluster[candidates], minlength=clusters)
    # the place of each candidate within its cluster, behind those that have a label
    place = np.arange(len(candidates)) - np.repeat(np.cumsum(members) - members, members)
    mine = cluster[nearest_first]
    place += np.bincount(cluster[context.labelled], minlength=clusters)[mine]
    return nearest_first[np.lexsort((-np.bincount(cluster, minlength=clusters)[mine], place))[:count]]


def _margin(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    candidates = context.candidates
    margins = _margins(context)[candidates]
    # items of equal margin in random order, not in that of the data list
    return candidates[np.lexsort((rng.random(len(candidates)), margins))[:count]]


def _diverse(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    candidates = context.candidates
    points = embed(context.features, rng)
    weights = np.ones(len(points)) if context.probabilities is None else np.maximum(1 - _margins(context), 0)
    groups = np.unique(np.asarray(context.groups), return_inverse=True)[1]
    chosen = draw_apart(
        squared_distances(points[candidates]),
        weights[candidates],
        count=count,
        rng=rng,
        nearest=_distance_to(points[candidates], points[context.labelled]),
        groups=groups[candidates],
        used=np.unique(groups[context.labelled]),
    )
    return candidates[chosen]


def _badge(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    candidates = context.candidates
    points, probabilities = context.features[candidates], _probabilities(context)[candidates]
    errors = probabilities.copy()
    errors[np.arange(len(errors)), probabilities.argmax(axis=1)] -= 1
    # |a x b|^2 = |a|^2 |b|^2 and (a x b, c x d) = (a, c) (b, d): no gradient of C x D numbers is ever written down
    norms = np.einsum("ij,ij->i", errors, errors) * np.einsum("ij,ij->i", points, points)

    def distances(index: int) -> np.ndarray:
        products = (errors @ errors[index]) * (points @ points[index])
        return np.maximum(norms + norms[index] - 2 * products, 0)

    first = int(norms.argmax())  # as the authors' program begins
    return candidates[draw_apart(distances, np.ones(len(points)), count=count, rng=rng, first=first)]


def _probabilities(context: SelectionContext) -> np.ndarray:
    if context.probabilities is None:
        raise AssertionError("a strategy that asks the teacher ran without one")
    return context.probabilities


def _margins(context: SelectionContext) -> np.ndarray:
    """Return the difference between the two largest probabilities of each item, (N,)."""
    ordered = np.sort(_probabilities(context), axis=1)
    return ordered[:, -1] - (ordered[:, -2] if ordered.shape[1] > 1 else 0)


def _distance_to(points: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """Return the squared distance of each point to the nearest of the others, (N,), or None if there is none."""
    if not len(others):
        return None
    norms = np.einsum("ij,ij->i", others, others)
    step = max(1, CHUNK // len(others))
    parts = [points[start : start + step] for start in range(0, len(points), step)]
    nearest = [(norms - 2 * (part @ others.T)).min(axis=1) + np.einsum("ij,ij->i", part, part) for part in parts]
    return np.maximum(np.concatenate(nearest), 0)
