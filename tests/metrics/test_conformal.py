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

import math
from fractions import Fraction

import numpy as np
import pytest

from monai_weckd.metrics import conformal_limit, groups_needed, prediction_sets


def draw(seed, count, *, ties=False):
    """Return scores and groups of unequal sizes; the groups differ in their scores."""
    rng = np.random.default_rng(seed)
    groups = [name for name in range(count) for _ in range(rng.integers(1, 6))]
    scores = rng.beta(1 + rng.integers(1, 5, size=count)[groups], 4)
    return np.round(scores, 1) if ties else scores, [f"g{name}" for name in groups]


def limit_by_definition(scores, groups, coverage):
    """Return the quantile of the mixture of the groups' distributions and a point at infinity, in fractions."""
    names = sorted(set(groups))
    for limit in sorted(set(scores)):
        reached = Fraction(0)
        for name in names:
            own = [score for score, group in zip(scores, groups, strict=True) if group == name]
            reached += Fraction(sum(score <= limit for score in own), len(own)) / (len(names) + 1)
        if reached >= Fraction(coverage):
            return limit
    return math.inf


@pytest.mark.parametrize("coverage", ["0.5", "0.8", "0.9", "0.95"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [1, 3, 8, 9, 19, 40])
def test_the_limit_is_that_of_the_definition(count, ties, coverage):
    for seed in range(5):
        scores, groups = draw(seed, count, ties=ties)
        assert conformal_limit(scores, groups, float(coverage)) == limit_by_definition(scores, groups, coverage)


@pytest.mark.parametrize("coverage", [0.6, 0.8, 0.9])
def test_any_of_the_groups_left_out_in_turn_is_covered_on_average(coverage):
    """The theorem, exactly: given the groups, each is equally likely to be the new one."""
    for seed in range(20):
        scores, groups = draw(seed, 12)
        names = np.array(groups)
        shares = []
        for name in set(groups):
            rest = names != name
            limit = conformal_limit(scores[rest], list(names[rest]), coverage)
            shares.append((scores[~rest] <= limit).mean())
        assert np.mean(shares) >= coverage - 1e-12


def test_a_group_of_many_items_weighs_as_much_as_one_of_one():
    scores = np.array([0.9, *np.linspace(0, 0.1, 50), 0.5, 0.6])
    groups = ["a", *["b"] * 50, "c", "d"]
    assert conformal_limit(scores, groups, 0.6) == 0.6
    assert conformal_limit(scores, [str(place) for place in range(len(scores))], 0.6) < 0.1


@pytest.mark.parametrize(("coverage", "needed"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.85, 6)])
def test_fewer_groups_than_needed_have_no_limit(coverage, needed):
    assert groups_needed(coverage) == needed
    for count in range(1, needed + 3):
        scores, groups = draw(0, count)
        assert math.isfinite(conformal_limit(scores, groups, coverage)) == (count >= needed)


def test_a_set_has_the_classes_within_the_limit_and_is_never_empty():
    probabilities = np.array([[0.75, 0.25, 0.0], [0.5, 0.25, 0.25]])
    assert prediction_sets(probabilities, 0.75).tolist() == [[True, True, False], [True, True, True]]
    assert prediction_sets(probabilities, 0.1).tolist() == [[True, False, False], [True, False, False]]
    assert prediction_sets(probabilities, math.inf).all()
