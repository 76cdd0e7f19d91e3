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

import dataclasses

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from monai_weckd.selection import SelectionContext, herding, select_items
from monai_weckd.selection.herding import draw_candidates, draw_references, herd, reach
from monai_weckd.selection.projection import COMPONENTS, main_components

CLEAR = 1e-3  # relative: single precision moves gains by less than a tenth of it


def make(size, *, seed=0, dimensions=12, groups=None, labeled=(), guided=True):
    """Return a context of random features of different scales, without equal items."""
    rng = np.random.default_rng(seed)
    return SelectionContext(
        features=(rng.standard_normal((size, dimensions)) * 10.0 ** rng.uniform(-2, 2, dimensions)).astype(np.float32),
        probabilities=rng.dirichlet(np.ones(3), size).astype(np.float32) if guided else None,
        groups=[str(i) for i in range(size)] if groups is None else groups,
        labeled=np.isin(np.arange(size), labeled),
        askable=np.ones(size, dtype=bool),
        seed=seed,
        stage=2,
    )


def unit_components(features, kept):
    """Return the oracle's points, by singular values in double precision."""
    features = features.astype(np.float64)
    standard = (features - features.mean(axis=0)) / features.std(axis=0)
    left, values, _ = np.linalg.svd(standard, full_matrices=False)
    points = (left * values)[:, :kept]
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def brute_force(context, count):
    """Return the choice by the definition, and the smallest relative lead of a chosen item over the next best."""
    squared = cdist(*[unit_components(context.features, COMPONENTS)] * 2, "sqeuclidean")
    size = len(squared)
    rank = min(size // (int(context.labeled.sum()) + count), size - 1)  # 0 is the item itself
    similarity = np.exp(-squared / np.median(np.sort(squared, axis=1)[:, rank]))
    weights = np.ones(size)
    if context.probabilities is not None:
        ordered = np.sort(context.probabilities.astype(np.float64), axis=1)
        weights = 1 - (ordered[:, -1] - ordered[:, -2])
    known, lead = list(np.flatnonzero(context.labeled)), np.inf
    for _ in range(count):
        used = {context.groups[i] for i in known}
        left = [i for i in range(size) if i not in known and context.askable[i]]
        left = [i for i in left if context.groups[i] not in used] or left

        def coverage(items):
            return weights @ similarity[:, items].max(axis=1, initial=0)

        gains = np.array([coverage([*known, i]) - coverage(known) for i in left])
        best, *others = np.sort(gains)[::-1]
        lead = min(lead, (best - others[0]) / best if others else np.inf)
        known.append(left[int(gains.argmax())])
    return sorted(known[int(context.labeled.sum()) :]), lead


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("labeled", [(), (3, 17)])
def test_the_choice_is_that_of_the_definition(guided, grouped, labeled):
    clear = 0
    for seed in range(12):
        groups = [str(i // 4) for i in range(30)] if grouped else None
        context = make(30, seed=seed, groups=groups, labeled=labeled, guided=guided)
        for count in (1, 4, 9):
            expected, lead = brute_force(context, count)
            if lead > CLEAR:
                clear += 1
                assert select_items("herding", context, count=count).tolist() == expected
    assert clear > 18


def test_lazy_gains_choose_what_all_gains_choose(monkeypatch):
    context = make(200, seed=1, groups=[str(i // 3) for i in range(200)], labeled=range(5))
    expected = select_items("herding", context, count=60)
    monkeypatch.setattr(herding, "FIRST_BATCH", 200)  # all gains anew at each step
    assert np.array_equal(select_items("herding", context, count=60), expected)
    monkeypatch.setattr(herding, "CHUNK", 1)  # one item at a time
    assert np.array_equal(select_items("herding", context, count=60), expected)


def test_the_first_label_stands_for_the_most_items():
    rng = np.random.default_rng(0)
    sizes = (30, 20, 10)
    blob = np.repeat(np.arange(3), sizes)
    features = (10 * np.eye(3)[blob] + rng.normal(0, 0.3, (60, 3))).astype(np.float32)
    context = dataclasses.replace(make(60, guided=False), features=features)
    assert sorted(blob[select_items("herding", context, count=3)]) == [0, 1, 2]
    # a teacher that is unsure of the smallest only
    unsure = np.where(blob[:, None] == 2, 0.5, [1.0, 0.0]).astype(np.float32)
    guided = dataclasses.replace(context, probabilities=unsure, labeled=np.isin(np.arange(60), (0, 30)))
    assert blob[select_items("herding", guided, count=1)] == [2]


@pytest.mark.parametrize("guided", [False, True])
def test_the_scales_of_features_do_not_matter(guided):
    context = make(80, labeled=range(4), guided=guided)
    scales = 2.0 ** np.random.default_rng(0).integers(-20, 20, context.features.shape[1])  # exact in binary
    other = dataclasses.replace(context, features=(context.features * scales).astype(np.float32))
    for count in (1, 10, 40):
        expected = select_items("herding", context, count=count)
        assert np.array_equal(select_items("herding", other, count=count), expected)


def test_a_teacher_that_is_sure_of_everything_leaves_coverage():
    context = make(50, labeled=range(3))
    sure = dataclasses.replace(context, probabilities=np.eye(3, dtype=np.float32)[np.arange(50) % 3])
    blank = dataclasses.replace(context, probabilities=None)
    expected = select_items("herding", blank, count=9)
    assert np.array_equal(select_items("herding", sure, count=9), expected)


@pytest.mark.parametrize("features", [np.ones((20, 5)), np.full((20, 3), 0.1), np.zeros((20, 70)), np.eye(20)[:, :1]])
def test_equal_items_are_chosen_without_preference_for_the_first(features):
    context = dataclasses.replace(make(20), features=features.astype(np.float32))
    draws = [select_items("herding", dataclasses.replace(context, seed=seed), count=6) for seed in range(20)]
    assert all(len(np.unique(draw)) == 6 for draw in draws)
    assert len({tuple(draw) for draw in draws}) > 10


def test_copies_of_an_item_are_not_chosen_before_others():
    features = np.repeat(np.random.default_rng(0).standard_normal((8, 6)), 5, axis=0).astype(np.float32)
    context = dataclasses.replace(make(40, guided=False), features=features)
    assert sorted(select_items("herding", context, count=8) // 5) == list(range(8))


def test_components_are_those_of_singular_values():
    features = make(90, dimensions=30).features
    points = main_components(features, np.arange(90))
    np.testing.assert_allclose(points @ points.T, (lambda u: u @ u.T)(unit_components(features, 64)), atol=1e-4)


def test_a_constant_feature_counts_for_nothing():
    features = make(40).features
    wide = np.column_stack([features, np.full(40, 0.1, dtype=np.float32), np.full(40, 3e38, dtype=np.float32)])
    points, others = main_components(features, np.arange(40)), main_components(wide, np.arange(40))
    np.testing.assert_allclose(others @ others.T, points @ points.T, atol=1e-5)


@pytest.mark.parametrize(("labels", "rank"), [(1, 49), (2, 25), (7, 7), (50, 1)])
def test_a_label_reaches_its_share_of_the_items(labels, rank):
    points = np.random.default_rng(0).standard_normal((50, 5))
    expected = np.median(np.sort(cdist(points, points, "sqeuclidean"), axis=1)[:, rank])
    assert reach(points, labels) == pytest.approx(expected)
    assert reach(np.ones((4, 2)), 2) > 0


def test_above_a_number_of_items_a_subset_stands_for_all(monkeypatch):
    monkeypatch.setattr(herding, "REFERENCES", 300)
    rng = np.random.default_rng(0)
    assert np.array_equal(draw_references(300, 10, rng), np.arange(300))
    some = draw_references(5000, 10, rng)
    assert len(np.unique(some)) == len(some) == 300
    assert len(draw_references(5000, 400, rng)) == 800  # many labels need more
    # each blob is covered as by all items
    blob = rng.integers(0, 6, 5000)
    features = (10 * np.eye(6)[blob] + rng.normal(0, 0.3, (5000, 6))).astype(np.float32)
    context = dataclasses.replace(make(5000, guided=False), features=features)
    assert sorted(blob[select_items("herding", context, count=6)]) == list(range(6))


def test_a_subset_of_candidates_keeps_new_groups(monkeypatch):
    monkeypatch.setattr(herding, "REFERENCES", 10)
    groups = np.repeat(np.arange(15), 40)
    for seed in range(5):
        some = draw_candidates(np.arange(600), groups, np.array([4, 5]), labels=2, rng=np.random.default_rng(seed))
        assert len(np.unique(some)) == len(some) == 20
        assert set(range(15)) - {4, 5} <= set(groups[some])


def test_labeled_points_cover_before_the_first_choice():
    points = np.array([[0.0], [1.0], [5.0]])
    chosen = herd(
        points,
        np.ones(3),
        references=np.arange(3),
        squared_radius=1.0,
        labeled=np.array([1]),
        candidates=np.array([0, 2]),
        count=2,
        groups=np.arange(3),
    )
    assert chosen.tolist() == [2, 0]
