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

import random
from collections import Counter
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_weckd.plan.assignment import assign_groups
from monai_weckd.plan.checks import PlanError

CLASSES = ("a", "b", "c")
PARTS = (
    {"train": 1.0},
    {"train": 0.8, "val": 0.2},
    {"train": 0.75, "test": 0.25},
    {"train": 0.6, "val": 0.15, "test": 0.25},
    {"train": 0.8, "val": 0.0, "test": 0.2},
)
GROUPS = st.lists(st.dictionaries(st.integers(0, 2), st.integers(1, 9), min_size=1), max_size=7)


def named(groups):
    return {f"g{place}": labels for place, labels in enumerate(groups)}


def is_complete(counts, home, parts):
    return all(any(home[g] == part and label in counts[g] for g in counts) for part in parts for label in range(3))


def some_split_exists(counts, parts, fixed):
    """Try all assignments."""
    choices = [[fixed[group]] if group in fixed else list(parts) for group in counts]
    return any(is_complete(counts, dict(zip(counts, homes, strict=True)), parts) for homes in product(*choices))


@given(GROUPS, st.sampled_from(PARTS), st.integers(0, 2**40), st.data())
@settings(max_examples=400)
def test_a_split_is_found_exactly_where_one_exists(groups, parts, seed, data):
    counts = named(groups)
    fixed = (
        data.draw(st.dictionaries(st.sampled_from(sorted(counts)), st.sampled_from(sorted(parts)))) if counts else {}
    )
    if some_split_exists(counts, parts, fixed):
        home = assign_groups(counts, CLASSES, parts, seed=seed, fixed=fixed)
        assert home.keys() == counts.keys()
        assert home.items() >= fixed.items()
        assert is_complete(counts, home, parts)
    else:
        with pytest.raises(PlanError, match=r"^class(es| '[abc]'): expected "):
            assign_groups(counts, CLASSES, parts, seed=seed, fixed=fixed)


def test_both_outcomes_occur_among_random_groups():
    # otherwise the test above would compare nothing
    rng = random.Random(0)
    found = Counter(
        some_split_exists(
            named([{rng.randrange(3): 1, rng.randrange(3): 1} for _ in range(6)]), PARTS[rng.randrange(5)], {}
        )
        for _ in range(60)
    )
    assert min(found[True], found[False]) > 5


@pytest.mark.parametrize("seed", range(50))
def test_three_groups_of_a_class_suffice_from_any_seed(seed):
    counts = named([{0: 5}] * 40 + [{1: 5}] * 20 + [{2: 5}] * 3)
    home = assign_groups(counts, CLASSES, PARTS[3], seed=seed)
    assert sorted(home[f"g{place}"] for place in (60, 61, 62)) == ["test", "train", "val"]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6)), min_size=40, max_size=90), st.integers(0, 99))
def test_sizes_come_close_to_the_fractions_in_each_class(groups, seed):
    counts = named([{label: size} for label, size in groups] + [{label: 6} for label in (0, 1, 2) for _ in range(20)])
    home = assign_groups(counts, CLASSES, PARTS[3], seed=seed)
    found, totals = Counter(), Counter()
    for group, labels in counts.items():
        for label, number in labels.items():
            found[label, home[group]] += number
            totals[label] += number
    for (label, part), number in found.items():
        # a part never exceeds its share by more than the group that completes it
        assert number <= PARTS[3][part] * totals[label] + 6
        assert number >= PARTS[3][part] * totals[label] - 12


def test_a_large_group_trains_where_a_small_one_can_be_held_out():
    counts = named([{0: 60, 1: 60, 2: 60}] + [{0: 2, 1: 2, 2: 2}] * 6)
    for seed in range(20):
        assert assign_groups(counts, CLASSES, PARTS[3], seed=seed)["g0"] == "train"


def test_the_seed_decides_among_equal_groups_and_the_order_does_not():
    counts = named([{place % 3: 2, (place + 1) % 3: 1} for place in range(60)])
    splits = [assign_groups(counts, CLASSES, PARTS[3], seed=seed) for seed in range(5)]
    assert len({tuple(home.items()) for home in splits}) == 5
    turned = {group: dict(reversed(labels.items())) for group, labels in reversed(counts.items())}
    assert [assign_groups(turned, CLASSES, PARTS[3], seed=seed) for seed in range(5)] == splits


@pytest.mark.parametrize(
    ("counts", "parts", "fixed", "message"),
    [
        (
            [{0: 1}] * 3 + [{1: 1}] * 3 + [{2: 9}] * 2,
            PARTS[3],
            {},
            "class 'c': expected labeled images in 3 groups or more, for train, val and test, got 2. "
            "Label another patient, or pass val_fraction=0.",
        ),
        (
            [{0: 1}] * 3 + [{1: 1}] * 3 + [{2: 9}],
            PARTS[3],
            {},
            "class 'c': expected labeled images in 3 groups or more, for train, val and test, got 1. "
            "Label another patient, or pass val_fraction=0 and test_fraction=0.",
        ),
        (
            [{0: 1}] * 2 + [{1: 1}] * 2 + [{2: 9}],
            PARTS[2],
            {},
            "class 'c': expected labeled images in 2 groups or more, for train and test, got 1. "
            "Label another patient, or pass test_fraction=0.",
        ),
        (
            [{0: 1}] * 3 + [{1: 1}] * 3 + [{2: 9}] * 3,
            PARTS[3],
            {"g6": "train", "g7": "train"},
            "class 'c': expected labeled images in 2 new groups or more, for val and test, got 1. "
            "Label another patient, or pass val_fraction=0.",
        ),
        (
            # a and b share a group, and so do b and c, and c and a: whoever trains leaves two of them
            [{0: 1, 1: 1}, {1: 1, 2: 1}, {2: 1, 0: 1}],
            PARTS[1],
            {},
            "classes: expected an assignment of groups that gives train and val every class, got none, "
            "though each class alone has groups enough. Label another patient, or pass val_fraction=0.",
        ),
        (
            [{0: 1, 1: 1}, {1: 1, 2: 1}, {2: 1, 0: 1}],
            PARTS[2],
            {},
            "classes: expected an assignment of groups that gives train and test every class, got none, "
            "though each class alone has groups enough. Label another patient, or pass test_fraction=0.",
        ),
    ],
)
def test_what_is_missing_is_named(counts, parts, fixed, message):
    with pytest.raises(PlanError) as error:
        assign_groups(named(counts), CLASSES, parts, seed=0, fixed=fixed)
    assert str(error.value) == message


def test_all_scarce_classes_are_named():
    with pytest.raises(PlanError) as error:
        assign_groups(named([{0: 1}] * 3 + [{1: 1}] * 2), CLASSES, PARTS[3], seed=0)
    assert [problem.split(":")[0] for problem in error.value.problems] == ["class 'b'", "class 'c'"]


def test_the_search_is_bounded(monkeypatch):
    monkeypatch.setattr("monai_weckd.plan.assignment._MOST_STEPS", 8)
    with pytest.raises(PlanError, match=r"^classes: expected a split with every class .* within 8 steps of search"):
        assign_groups(named([{0: 1}] * 9 + [{1: 1}] * 9 + [{2: 1}] * 9), CLASSES, PARTS[3], seed=0)
