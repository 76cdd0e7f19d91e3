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
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from skactiveml.base import SkactivemlClassifier
from skactiveml.pool import Badge, TypiClust, uncertainty_scores
from sklearn.datasets import make_blobs

from monai_weckd.selection import STRATEGIES, SelectionContext, select_items
from monai_weckd.selection.strategies import gradient_distances


def make(size, *, seed=0, dimensions=4, classes=3, groups=None, labeled=(), closed=(), **changes):
    """Return a context of random features and probabilities."""
    rng = np.random.default_rng(seed)
    mask = np.zeros(size, dtype=bool)
    mask[list(labeled)] = True
    askable = np.ones(size, dtype=bool)
    askable[list(closed)] = False
    settings = {
        "features": rng.standard_normal((size, dimensions)).astype(np.float32),
        "probabilities": rng.dirichlet(np.ones(classes), size).astype(np.float32),
        "groups": [str(i) for i in range(size)] if groups is None else groups,
        "labeled": mask,
        "askable": askable,
        "seed": seed,
        "stage": 2,
    }
    return SelectionContext(**{**settings, **changes})


@st.composite
def contexts(draw):
    size = draw(st.integers(2, 30))
    indices = st.sets(st.integers(0, size - 1), max_size=size // 2)
    context = make(
        size,
        seed=draw(st.integers(0, 1000)),
        dimensions=draw(st.integers(1, 40)),
        classes=draw(st.integers(1, 4)),
        groups=draw(st.lists(st.sampled_from("abcd"), min_size=size, max_size=size)),
        labeled=draw(indices),
        closed=draw(st.sets(st.integers(0, size - 1), max_size=size // 3)),
    )
    if draw(st.booleans()):  # frames of a film that stands still
        context.features[1:] = context.features[0]
    if draw(st.booleans()):  # a teacher that is sure of everything
        context.probabilities[:] = np.eye(context.probabilities.shape[1], dtype=np.float32)[0]
    return context


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(contexts(), st.data())
def test_choices_are_distinct_askable_ascending_and_the_same_again(strategy, context, data):
    left = int((context.askable & ~context.labeled).sum())
    if left == 0:
        return
    count = data.draw(st.integers(1, left))
    before = dataclasses.replace(context, features=context.features.copy(), probabilities=context.probabilities.copy())
    np.random.seed(data.draw(st.integers(0, 9)))
    state = np.random.get_state()[1].copy()
    chosen = select_items(strategy, context, count=count)
    assert np.array_equal(np.random.get_state()[1], state)
    assert chosen.shape == (count,)
    assert chosen.dtype.kind == "i"
    assert (np.diff(chosen) > 0).all()
    assert context.askable[chosen].all()
    assert not context.labeled[chosen].any()
    assert np.array_equal(chosen, select_items(strategy, before, count=count))
    assert np.array_equal(context.features, before.features)
    assert np.array_equal(context.probabilities, before.probabilities)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_that_is_left_may_be_asked_for(strategy):
    context = make(20, labeled=range(5), closed=range(15, 20))
    assert select_items(strategy, context, count=10).tolist() == list(range(5, 15))


@pytest.mark.parametrize("strategy", ["random", "diverse", "badge"])
def test_seed_and_stage_change_the_draw(strategy):
    context = make(200)
    draws = {
        tuple(select_items(strategy, dataclasses.replace(context, seed=seed, stage=stage), count=20))
        for seed in (0, 1)
        for stage in (2, 3)
    }
    assert len(draws) == 4


def test_random_gives_each_item_the_same_chance():
    context = make(12, labeled=[0], closed=[11])
    counts = np.zeros(12)
    for seed in range(600):
        counts[select_items("random", dataclasses.replace(context, seed=seed), count=3)] += 1
    assert not counts[[0, 11]].any()
    assert chisquare(counts[1:11]).pvalue > 1e-3


def test_random_looks_at_nothing():
    first, second = make(50, seed=0), dataclasses.replace(make(50, seed=1), seed=0, probabilities=None)
    assert np.array_equal(select_items("random", first, count=9), select_items("random", second, count=9))


@given(st.integers(0, 1000), st.integers(1, 20), st.integers(2, 6))
def test_margin_is_scikit_activemls(seed, count, classes):
    context = make(30, seed=seed, classes=classes, labeled=range(5))
    scores = uncertainty_scores(context.probabilities[5:], method="margin_sampling")
    chosen = select_items("margin", context, count=count)
    np.testing.assert_allclose(np.sort(scores[chosen - 5])[::-1], np.sort(scores)[::-1][:count], atol=1e-6)


def test_margin_asks_for_the_least_certain_of_each_new_group():
    probabilities = np.array([[0.5, 0.5], [0.6, 0.4], [0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])
    context = make(5, probabilities=probabilities, groups=["a", "a", "b", "b", "c"])
    for labeled, expected in (((), [0, 4, 3, 1]), ((1,), [4, 3, 0, 2]), ((2, 4), [0, 1, 3])):
        context = dataclasses.replace(context, labeled=np.isin(np.arange(5), labeled))
        for count in range(1, len(expected) + 1):
            assert select_items("margin", context, count=count).tolist() == sorted(expected[:count])


def test_equal_margins_leave_no_preference_for_the_first_items():
    context = make(40, probabilities=np.full((40, 2), 0.5))
    counts = np.zeros(40)
    for seed in range(400):
        counts[select_items("margin", dataclasses.replace(context, seed=seed), count=10)] += 1
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("strategy", ["herding", "margin", "badge"])
def test_the_order_of_the_items_does_not_matter(strategy):
    context = make(60, seed=3, labeled=range(10))
    order = np.random.default_rng(0).permutation(60)
    other = dataclasses.replace(
        context,
        **{name: getattr(context, name)[order] for name in ("features", "probabilities", "labeled", "askable")},
        groups=[context.groups[i] for i in order],
    )
    count = 1 if strategy == "badge" else 12  # after its first item badge draws
    expected = select_items(strategy, context, count=count)
    assert np.array_equal(np.sort(order[select_items(strategy, other, count=count)]), expected)


def blobs(seed, labeled=(), sizes=(40, 30, 22, 15, 9)):
    """Return a context of blobs in different directions, and the blob of each item."""
    centers = 10 * np.eye(len(sizes))
    features, blob = make_blobs(list(sizes), centers=centers, cluster_std=0.3, shuffle=True, random_state=seed)
    mask = np.zeros(len(blob), dtype=bool)
    mask[[int(np.flatnonzero(blob == number)[0]) for number in labeled]] = True
    return make(len(blob), seed=seed, features=features.astype(np.float32), labeled=np.flatnonzero(mask)), blob


@pytest.mark.parametrize(("labeled", "count"), [((), 5), ((1, 3), 3), ((0,), 4)])
def test_typical_covers_the_clusters_that_typiclust_covers(labeled, count):
    for seed in range(5):
        context, blob = blobs(seed, labeled)
        chosen = select_items("typical", context, count=count)
        answers = np.where(context.labeled, 1.0, np.nan)
        theirs = TypiClust(random_state=seed, k=20).query(context.features, answers, batch_size=count)
        assert sorted(blob[chosen]) == sorted(blob[theirs])
        assert sorted(blob[chosen]) == [number for number in range(5) if number not in labeled]


def test_typical_takes_the_item_nearest_to_the_center():
    context, blob = blobs(0)
    chosen = select_items("typical", context, count=5)
    directions = context.features / np.linalg.norm(context.features, axis=1, keepdims=True)
    for number in range(5):
        members = np.flatnonzero(blob == number)
        distance = np.linalg.norm(directions[members] - directions[members].mean(axis=0), axis=1)
        assert distance[np.isin(members, chosen)] == pytest.approx(distance.min(), rel=1e-4)


def test_typical_prefers_large_clusters():
    for seed in range(8):
        context, blob = blobs(seed)
        # with two labels in one blob, five clusters have four without a label for three questions
        twice = dataclasses.replace(context, labeled=np.isin(np.arange(len(blob)), np.flatnonzero(blob == 3)[:2]))
        assert sorted(blob[select_items("typical", twice, count=3)]) == [0, 1, 2]


def test_typical_passes_over_what_cannot_be_asked_for():
    context, blob = blobs(0)
    nearest = select_items("typical", context, count=5)
    others = select_items("typical", dataclasses.replace(context, askable=~np.isin(range(len(blob)), nearest)), count=5)
    assert not set(others) & set(nearest)
    assert sorted(blob[others]) == [0, 1, 2, 3, 4]


def test_diverse_draws_by_distance_and_margin():
    context = make(8, dimensions=3, classes=2, labeled=[0, 1], closed=[7])
    directions = context.features / np.linalg.norm(context.features.astype(float), axis=1, keepdims=True)
    distance = ((directions[:, None] - directions[None, :2]) ** 2).sum(axis=-1).min(axis=1)
    chance = (distance * (1 - np.abs(context.probabilities[:, 0] - context.probabilities[:, 1])))[2:7]
    counts = np.zeros(8)
    for seed in range(2000):
        counts[select_items("diverse", dataclasses.replace(context, seed=seed), count=1)] += 1
    assert counts[2:7].sum() == 2000
    assert chisquare(counts[2:7], 2000 * chance / chance.sum()).pvalue > 1e-3


def test_diverse_without_a_teacher_draws_by_distance_alone():
    context = make(30, probabilities=None, stage=1)
    sure = dataclasses.replace(context, probabilities=np.full((30, 2), 0.5))
    assert np.array_equal(select_items("diverse", context, count=9), select_items("diverse", sure, count=9))


@pytest.mark.parametrize("strategy", ["herding", "margin", "diverse", "badge"])
@given(st.lists(st.sampled_from("abcdef"), min_size=12, max_size=30), st.integers(0, 1000), st.data())
def test_new_groups_come_first(strategy, groups, seed, data):
    labeled = data.draw(st.sets(st.integers(0, 5), max_size=3))
    context = make(len(groups), seed=seed, groups=groups, labeled=labeled)
    count = data.draw(st.integers(1, len(groups) - len(labeled)))
    chosen = [groups[i] for i in select_items(strategy, context, count=count)]
    new = set(groups) - {groups[i] for i in labeled}
    assert len(set(chosen) & new) == min(count, len(new))


class GivenProbabilities(SkactivemlClassifier):
    """A classifier that has its probabilities from elsewhere."""

    def __init__(self, given=None, classes=None, missing_label=np.nan, cost_matrix=None, random_state=None):
        super().__init__(classes=classes, missing_label=missing_label, cost_matrix=cost_matrix)
        self.given = given
        self.random_state = random_state

    def fit(self, X, y, sample_weight=None):  # noqa: N803
        return self

    def predict_proba(self, X):  # noqa: N803
        return self.given


@pytest.mark.parametrize("seed", range(5))
def test_badge_has_the_chances_of_scikit_activemls(seed):
    context = make(40, seed=seed, dimensions=7, classes=4)
    features, probabilities = context.features.astype(float), context.probabilities.astype(float)
    classifier = GivenProbabilities(probabilities, classes=range(4))
    path, chances = Badge(random_state=seed).query(
        features, np.full(40, np.nan), classifier, fit_clf=False, batch_size=8, return_utilities=True
    )
    norms, distances = gradient_distances(features, probabilities)
    np.testing.assert_allclose(norms / norms.sum(), chances[0])
    assert chances[0][select_items("badge", context, count=1)] == pytest.approx(chances[0].max())
    # it counts the origin among the points drawn earlier, which neither the paper nor the authors' program does
    nearest = norms
    for step in range(1, 8):
        nearest = np.minimum(nearest, distances(path[step - 1]))
        left = np.setdiff1d(np.arange(40), path[:step])
        np.testing.assert_allclose((nearest / nearest.sum())[left], chances[step][left], atol=1e-12)


def test_badge_continues_by_distance_between_gradients():
    context = make(6, dimensions=2, classes=3)
    errors = context.probabilities - np.eye(3)[context.probabilities.argmax(axis=1)]
    gradients = np.einsum("nc,nd->ncd", errors, context.features).reshape(6, 6)
    first = int((gradients**2).sum(axis=1).argmax())
    chance = ((gradients - gradients[first]) ** 2).sum(axis=1)
    counts = np.zeros(6)
    for seed in range(2000):
        counts[select_items("badge", dataclasses.replace(context, seed=seed), count=2)] += 1
    assert counts[first] == 2000
    others = np.arange(6) != first
    assert chisquare(counts[others], 2000 * chance[others] / chance[others].sum()).pvalue > 1e-3


def test_the_margin_of_several_findings_is_the_mean_of_theirs():
    features = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    # the first is unsure of one finding of three, the second of two; the third is sure of all, the fourth of none
    probabilities = np.array([[0.5, 0.0, 1.0], [0.5, 0.5, 1.0], [0.0, 0.0, 1.0], [0.5, 0.4, 0.6]])
    nobody, everybody = np.zeros(4, dtype=bool), np.ones(4, dtype=bool)
    context = SelectionContext(features, probabilities, list("abcd"), nobody, everybody, seed=0, stage=1, findings=True)
    for count, expected in ((1, [3]), (2, [1, 3]), (3, [0, 1, 3])):
        assert select_items("margin", context, count=count).tolist() == expected


def test_the_gradients_of_several_findings_are_those_of_their_most_probable_values():
    rng = np.random.default_rng(0)
    features, probabilities = rng.standard_normal((6, 4)), rng.uniform(size=(6, 3))
    norms, distances = gradient_distances(features, probabilities, findings=True)
    errors = probabilities - (probabilities > 0.5)
    gradients = np.einsum("nc,nd->ncd", errors, features).reshape(6, -1)
    np.testing.assert_allclose(norms, (gradients**2).sum(axis=1))
    np.testing.assert_allclose(distances(2), ((gradients - gradients[2]) ** 2).sum(axis=1), atol=1e-12)
