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
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from monai_weckd.selection import clustering
from monai_weckd.selection.clustering import draw_apart, k_means, squared_distances


class Fixed:
    """A generator whose numbers are given."""

    def __init__(self, *numbers):
        self.numbers = numbers

    def random(self, count):
        assert count == len(self.numbers)
        return np.array(self.numbers)


def on_a_line(*places):
    return squared_distances(np.array(places, dtype=np.float64)[:, None])


def test_squared_distances():
    points = np.random.default_rng(0).standard_normal((20, 5))
    exact = ((points[:, None] - points[None]) ** 2).sum(axis=-1)
    distances = squared_distances(points)
    np.testing.assert_allclose([distances(index) for index in range(20)], exact, atol=1e-12)
    assert min(distances(index).min() for index in range(20)) >= 0


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        # the first by weight: shares of 1/4, 1/4, 1/2, 0
        ((0.0,), [0]),
        ((0.2499,), [0]),
        ((0.25,), [1]),
        ((0.5,), [2]),
        ((1 - 2**-53,), [2]),
        # after the point at 0, weights times squared distances are 0, 1, 2 x 9, 0
        ((0.0, 0.99 / 19), [0, 1]),
        ((0.0, 1.01 / 19), [0, 2]),
        # after those at 0 and 3, 0, 1, 0, 0; then the rest is as good as the next: only the point without a weight
        ((0.0, 0.5, 0.9, 0.5), [0, 2, 1, 3]),
    ],
)
def test_chances_are_weight_times_squared_distance(numbers, expected):
    weights = np.array([1, 1, 2, 0])
    assert draw_apart(on_a_line(0, 1, 3, 9), weights, count=len(numbers), rng=Fixed(*numbers)) == expected


def test_what_was_drawn_earlier_counts():
    # squared distances to a point at 4: 16, 9, 1
    nearest = np.array([16.0, 9.0, 1.0])
    for number, expected in ((15.9 / 26, 0), (16.1 / 26, 1), (25.1 / 26, 2)):
        drawn = draw_apart(on_a_line(0, 1, 3), np.ones(3), count=1, rng=Fixed(number), nearest=nearest)
        assert drawn == [expected]


def test_the_first_point_may_be_given():
    assert draw_apart(on_a_line(0, 1, 3), np.ones(3), count=2, rng=Fixed(0.9, 0.0), first=2) == [2, 0]
    assert draw_apart(on_a_line(5, 5, 5), np.ones(3), count=3, rng=Fixed(0.9, 0.9, 0.9), first=2) == [2, 1, 0]


def test_groups_without_a_point_come_first():
    groups = np.array([0, 0, 0, 1, 1, 2])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        drawn = draw_apart(on_a_line(0, 50, 99, 1, 2, 3), np.ones(6), count=6, rng=rng, groups=groups)
        assert sorted(groups[drawn[:3]]) == [0, 1, 2]
        assert sorted(drawn) == list(range(6))
        drawn = draw_apart(
            on_a_line(0, 50, 99, 1, 2, 3), np.ones(6), count=2, rng=rng, groups=groups, used=np.array([0])
        )
        assert sorted(groups[drawn]) == [1, 2]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 2**32), st.data())
def test_drawn_points_are_distinct(places, seed, data):
    count = data.draw(st.integers(1, len(places)))
    weights = np.array(data.draw(st.lists(st.integers(0, 2), min_size=len(places), max_size=len(places))))
    drawn = draw_apart(on_a_line(*places), weights, count=count, rng=np.random.default_rng(seed))
    assert len(set(drawn)) == count
    assert set(drawn) <= set(range(len(places)))


@pytest.mark.parametrize(("clusters", "seed"), [(1, 0), (3, 1), (8, 2), (40, 3)])
def test_k_means_is_scikit_learns_from_the_same_seeds(clusters, seed):
    points = np.random.default_rng(seed).standard_normal((300, 4))
    cluster, distance = k_means(points, clusters, rng=np.random.default_rng(seed))
    seeds = draw_apart(squared_distances(points), np.ones(300), count=clusters, rng=np.random.default_rng(seed))
    theirs = KMeans(clusters, init=points[seeds], n_init=1, tol=0, max_iter=clustering.MAX_ITERATIONS).fit(points)
    assert len(np.unique(cluster)) == clusters
    np.testing.assert_allclose(distance, theirs.transform(points).min(axis=1) ** 2, rtol=1e-6, atol=1e-9)


def test_clusters_keep_to_the_blobs_also_when_divided_twice(monkeypatch):
    monkeypatch.setattr(clustering, "MAX_CLUSTERS", 8)
    at_once, assign = [], clustering._assign
    monkeypatch.setattr(
        clustering, "_assign", lambda part, centers: at_once.append(len(centers)) or assign(part, centers)
    )
    points, _ = make_blobs(600, centers=12, n_features=5, cluster_std=0.3, random_state=0)
    cluster, distance = k_means(points.astype(np.float32), 60, rng=np.random.default_rng(0))
    assert max(at_once) <= 8
    assert cluster.max() < 60
    assert len(np.unique(cluster)) > 50
    once = KMeans(60, n_init=1, random_state=0).fit(points).inertia_
    assert distance.sum() < 1.3 * once
    within = sum(((points[cluster == n] - points[cluster == n].mean(axis=0)) ** 2).sum() for n in np.unique(cluster))
    assert distance.sum() == pytest.approx(within, rel=0.05)


@pytest.mark.parametrize("clusters", [1, 5, 20])
def test_points_that_coincide(clusters):
    cluster, distance = k_means(np.ones((20, 3), dtype=np.float32), clusters, rng=np.random.default_rng(0))
    assert cluster.max() < clusters
    assert not distance.any()


def test_distances_in_parts_are_those_at_once(monkeypatch):
    # far apart, so that no rounding moves a point from one cluster to another
    points, _ = make_blobs(200, centers=7, n_features=6, cluster_std=0.3, random_state=0)
    points = points.astype(np.float32)
    _, distance = k_means(points, 7, rng=np.random.default_rng(1))
    monkeypatch.setattr(clustering, "CHUNK", 50)
    _, in_parts = k_means(points, 7, rng=np.random.default_rng(1))
    np.testing.assert_allclose(in_parts, distance, atol=1e-5)
