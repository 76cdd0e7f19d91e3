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

"""Strategies that choose the items to label next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from monai_weckd.selection.clustering import CHUNK, draw_apart, k_means, squared_distances
from monai_weckd.selection.context import SelectionContext, check_selection
from monai_weckd.selection.herding import draw_candidates, draw_references, herd, reach
from monai_weckd.selection.projection import embed, main_components

__all__ = ["gradient_distances", "select_items"]


def select_items(strategy: str, context: SelectionContext, *, count: int) -> np.ndarray:
    """Choose the items whose labels the next stage requests.

    - "herding": one by one, the item that adds most to the coverage of all items; each covered item counts one minus
      its margin, or 1 without a teacher. After Uncertainty Herding (Bae, Oliveira and Sutherland, ICLR 2025, arXiv
      2412.20644), for every budget from one label a class to thousands.
    - "random": each item is as likely as any other.
    - "typical": as many clusters as there will be labels; from each without a label, the largest first, the item
      nearest to its center. After TypiClust (Hacohen, Dekel and Weinshall, ICML 2022, arXiv 2202.02794).
    - "margin": the items whose two most probable classes differ least in probability; the difference is the margin.
    - "diverse": drawn one by one with a chance in proportion to one minus the margin times the squared distance to the
      nearest item that has or will have a label. Without a teacher, by distance alone.
    - "badge": drawn one by one with a chance in proportion to the squared distance between the last layer's gradients
      under the most probable class as label (Ash et al., ICLR 2020, arXiv 1906.03671).

    "herding", "margin", "diverse" and "badge" take one item from each group without a label before a second one from
    any: images of one patient teach less than images of several, and a teacher that is unsure of one image of a patient
    is unsure of the others.

    In "herding", the coverage of an item is its similarity exp(-d^2 / s) to the nearest item that has or will have a
    label. d is the distance between unit vectors of 64 principal components of standardized features. s is the median
    of d^2 to the neighbor of rank N / n, which a label has to reach if there are n labels after this stage. Where
    the paper adapts the radius to the labeled features and fits a temperature to labels, this reads no label and has no
    parameter, so the objective is the same at every stage.

    Where an item may have several findings, each has a margin, ``|2 p - 1|``, and the margin of the item is their mean:
    one minus it is twice the share of its findings that are expected to be told wrongly. All findings of a chosen item
    are requested. For "badge", the most probable label has each finding that is more probable than not.

    The choice depends on the arguments alone, and none of them is a label. "herding" takes 64 N D operations for the
    components, and 64 R (R + Q) for the gains of Q <= 2 R candidates at R references, several times where gains are
    close: up to 4,096 items, R and Q are all items; above, random ones, R = max(4,096, 2 n). It never holds an N x N
    matrix. "typical" and "diverse" compare directions of features in 32 dimensions: to choose 10,000 of 100,000
    items takes less than a minute. "badge" needs all D dimensions, and N x D operations for each item that it chooses.

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
    choose = {
        "herding": _herding,
        "random": _random,
        "typical": _typical,
        "margin": _margin,
        "diverse": _diverse,
        "badge": _badge,
    }[strategy]
    chosen = choose(context, count, np.random.default_rng([context.seed, context.stage]))
    return np.sort(chosen)


def gradient_distances(
    features: np.ndarray, probabilities: np.ndarray, *, findings: bool = False
) -> tuple[np.ndarray, Callable[[int], np.ndarray]]:
    """Return the squared length of each item's gradient, and a function to the squared distances to one of them.

    The gradient is that of the cross-entropy with the most probable class as label, by the last layer's weights: the
    outer product of probabilities minus label and features. For outer products (a b', c d') = (a, c)(b, d), so none of
    the C x D matrices is ever computed.

    Args:
        features: input of the last layer, (N, D).
        probabilities: its class probabilities, (N, C).
        findings: whether they are those of findings, of which an item may have several, default False.

    Returns:
        Squared lengths, (N,), and a function from an index to squared distances, (N,).

    """
    errors = probabilities.copy()
    if findings:
        errors -= probabilities > 0.5
    else:
        errors[np.arange(len(errors)), probabilities.argmax(axis=1)] -= 1
    norms = np.einsum("ij,ij->i", errors, errors) * np.einsum("ij,ij->i", features, features)

    def distances(index: int) -> np.ndarray:
        products = (errors @ errors[index]) * (features @ features[index])
        return np.maximum(norms + norms[index] - 2 * products, 0)

    return norms, distances


def _herding(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    labels = int(context.labeled.sum()) + count
    groups, used = _groups(context)
    references = draw_references(len(context.features), labels, rng)
    points = context.features if context.projected else main_components(context.features, references)
    return herd(
        points,
        _doubts(context),
        references=references,
        squared_radius=reach(points[references], labels),
        labeled=np.flatnonzero(context.labeled),
        candidates=draw_candidates(context.candidates, groups, used, labels=labels, rng=rng),
        count=count,
        groups=groups,
    )


def _doubts(context: SelectionContext) -> np.ndarray:
    """Return the weight of each item's coverage, (N,): one minus its margin, or 1 where nothing is in doubt."""
    nothing = np.ones(len(context.features))
    if context.probabilities is None:
        return nothing
    doubts = np.maximum(1 - _margins(context), 0)
    return doubts if doubts.any() else nothing


def _random(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.permutation(context.candidates)[:count]


def _typical(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    points = embed(context.features, rng)
    clusters = min(len(points), int(context.labeled.sum()) + count)
    cluster, distance = k_means(points, clusters, rng=rng)
    candidates = context.candidates
    nearest_first = candidates[np.lexsort((distance[candidates], cluster[candidates]))]
    members = np.bincount(cluster[candidates], minlength=clusters)
    # the place of each candidate within its cluster, after the labeled items
    place = np.arange(len(candidates)) - np.repeat(np.cumsum(members) - members, members)
    mine = cluster[nearest_first]
    place += np.bincount(cluster[context.labeled], minlength=clusters)[mine]
    return nearest_first[np.lexsort((-np.bincount(cluster, minlength=clusters)[mine], place))[:count]]


def _margin(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    candidates = context.candidates
    # items of equal margin in random order, not in that of the data list
    ordered = candidates[np.lexsort((rng.random(len(candidates)), _margins(context)[candidates]))]
    groups, used = _groups(context)
    later = np.ones(len(ordered), dtype=bool)
    later[np.unique(groups[ordered], return_index=True)[1]] = False
    later |= np.isin(groups[ordered], used)
    return ordered[np.argsort(later, kind="stable")[:count]]


def _diverse(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    candidates = context.candidates
    points = embed(context.features, rng)
    weights = np.ones(len(points)) if context.probabilities is None else np.maximum(1 - _margins(context), 0)
    groups, used = _groups(context)
    chosen = draw_apart(
        squared_distances(points[candidates]),
        weights[candidates],
        count=count,
        rng=rng,
        nearest=_distance_to(points[candidates], points[context.labeled]),
        groups=groups[candidates],
        used=used,
    )
    return candidates[chosen]


def _badge(context: SelectionContext, count: int, rng: np.random.Generator) -> np.ndarray:
    candidates = context.candidates
    groups, used = _groups(context)
    norms, distances = gradient_distances(
        context.features[candidates], _probabilities(context)[candidates], findings=context.findings
    )
    new = ~np.isin(groups[candidates], used)
    chosen = draw_apart(
        distances,
        np.ones(len(candidates)),
        count=count,
        rng=rng,
        first=int(np.lexsort((norms, new))[-1]),  # the longest gradient, as in the authors' code
        groups=groups[candidates],
        used=used,
    )
    return candidates[chosen]


def _groups(context: SelectionContext) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each item's group, (N,), and the numbers of those in which an item has a label."""
    groups = np.unique(np.asarray(context.groups), return_inverse=True)[1]
    return groups, np.unique(groups[context.labeled])


def _probabilities(context: SelectionContext) -> np.ndarray:
    if context.probabilities is None:
        raise AssertionError("a strategy that asks the teacher ran without one")
    return context.probabilities


def _margins(context: SelectionContext) -> np.ndarray:
    """Return the difference between the two largest probabilities of each item, or the mean of its findings', (N,)."""
    if context.findings:
        return np.abs(2 * _probabilities(context) - 1).mean(axis=1)
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
