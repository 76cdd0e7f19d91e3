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

import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_weckd.compare.folds import cross_validation_splits, given_fold_splits
from monai_weckd.plan.label_kind import LabelKind


def make_items(sizes, *, classes=2, unlabeled=0):
    """Return items of groups of the given sizes, of one class each in turn, and unlabeled items, half in old groups."""
    items = [
        {"id": f"g{g}-{n}", "group": f"g{g}", "label": g % classes} for g, size in enumerate(sizes) for n in range(size)
    ]
    return items + [
        {"id": f"u{n}", "group": f"g{n}" if n % 2 and n < len(sizes) else f"u{n}", "label": -1}
        for n in range(unlabeled)
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds, repeats: expected at least 2 folds and 1 repeat, got 1 and 1"),
        ({"repeats": 0}, "folds, repeats: expected at least 2 folds and 1 repeat, got 5 and 0"),
        ({"val_labels": -1}, "val_labels: expected 0 or more, got -1. Pass 0 for no validation"),
        ({"folds": 11}, r"folds: expected at least 11 groups of every class, got 10 of 0. Pass fewer folds"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        cross_validation_splits(make_items([2] * 20), **options)


def test_too_few_groups_of_a_class():
    with pytest.raises(ValueError, match="expected at least 4 groups of every class, got 3 of 'ill'"):
        cross_validation_splits(make_items([4] * 7), folds=2, kind=LabelKind(("well", "ill")))
    with pytest.raises(ValueError, match="items: expected labels of two classes or more, got 1"):
        cross_validation_splits(make_items([4] * 9, classes=1), folds=2)


def test_a_class_that_cannot_be_everywhere():
    with pytest.raises(ValueError, match=r"expected every class in each part of every fold, got none such in 100"):
        cross_validation_splits(make_items([3] * 12), folds=3, val_labels=1000)


def test_as_few_groups_as_there_may_be():
    for folds, groups in ((2, 4), (3, 3), (5, 5)):
        assert len(cross_validation_splits(make_items([2] * 2 * groups), folds=folds)) == folds
        with pytest.raises(ValueError, match=f"expected at least {groups} groups of every class, got {groups - 1}"):
            cross_validation_splits(make_items([2] * 2 * (groups - 1)), folds=folds)


@pytest.mark.parametrize("folds", [2, 3, 5])
def test_without_validation_each_fold_tests_or_trains(folds):
    items = make_items([2] * 2 * folds)
    splits = cross_validation_splits(items, folds=folds, val_labels=0)
    assert [set(split.split_of.values()) for split in splits] == [{"train", "test"}] * folds
    tested = Counter(key for split in splits for key, part in split.split_of.items() if part == "test")
    assert tested == Counter(item["id"] for item in items)
    with pytest.raises(ValueError, match=f"at least {folds} groups .* got {folds - 1} of 0.*: training and test need"):
        cross_validation_splits(make_items([2] * 2 * (folds - 1)), folds=folds, val_labels=0)


def test_scikit_learn_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.model_selection", None)
    with pytest.raises(ImportError, match=r"scikit-learn: expected for compare, .* Install monai-weckd\[compare\]"):
        cross_validation_splits(make_items([2] * 20))


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=18, max_size=40),
    classes=st.integers(2, 3),
    folds=st.integers(2, 5),
    repeats=st.integers(1, 2),
    unlabeled=st.integers(0, 9),
    fraction=st.floats(0.05, 0.4),
)
def test_no_group_is_parted_and_every_item_is_tested_once(sizes, classes, folds, repeats, unlabeled, fraction):
    items = make_items(sizes, classes=classes, unlabeled=unlabeled)
    options = {"folds": folds, "repeats": repeats, "label_fraction": fraction}
    splits = cross_validation_splits(items, **options)
    assert [(split.repeat, split.fold) for split in splits] == [(r, f) for r in range(repeats) for f in range(folds)]
    group_of = {item["id"]: item["group"] for item in items}
    label_of = {item["id"]: item["label"] for item in items}
    tested = Counter()
    for split in splits:
        assert split.split_of.keys() == group_of.keys()
        home = {}
        for key, part in split.split_of.items():
            assert home.setdefault(group_of[key], part) == part
        for part in ("train", "val", "test"):
            found = {label_of[key] for key, where in split.split_of.items() if where == part}
            assert found >= set(range(classes))
        tested.update((split.repeat, key) for key, where in split.split_of.items() if where == "test")
    labeled = [key for key, label in label_of.items() if label >= 0]
    assert all(tested[r, key] == 1 for r in range(repeats) for key in labeled)
    # a pure function of its arguments, whatever the order of the items
    assert cross_validation_splits(items, **options) == splits


def test_unlabeled_items_follow_their_group():
    items = make_items([3] * 20, unlabeled=8)
    for split in cross_validation_splits(items, folds=4):
        for item in items[-8:]:
            mates = {split.split_of[f"{item['group']}-0"]} if item["group"].startswith("g") else {"train"}
            assert {split.split_of[item["id"]]} == mates


@pytest.mark.parametrize(("val_labels", "expected"), [(None, 20), (8, 8), (2, 2)])
def test_validation_is_no_larger_than_a_shard(val_labels, expected):
    items = make_items([1] * 270)
    for split in cross_validation_splits(items, folds=5, label_fraction=0.1, val_labels=val_labels):
        counts = Counter(split.split_of.values())
        assert counts["val"] == expected
        assert counts["test"] == 54
        if val_labels is None:
            assert counts["val"] == round(0.1 * counts["train"])


def test_large_groups_exceed_validation_only_where_a_class_needs_it():
    # groups of nine, four items wanted: the smallest group of each class it is
    items = make_items([9, 9, 9, 5] * 5)
    for split in cross_validation_splits(items, folds=2, val_labels=4):
        groups = Counter(key.partition("-")[0] for key, part in split.split_of.items() if part == "val")
        assert len(groups) == 2
        assert sorted(groups.values()) == [5, 9]


def test_repeats_differ():
    first, second = (
        {key for key, part in split.split_of.items() if part == "test"}
        for split in cross_validation_splits(make_items([2] * 40), folds=2, repeats=2)
        if split.fold == 0
    )
    assert first != second


def make_found(groups=40, *, findings=3, seed=0, unknown=0.2):
    """Return items of groups of one to three with findings, some of them unknown."""
    rng = np.random.default_rng(seed)
    items = []
    for group in range(groups):
        for number in range(rng.integers(1, 4)):
            label = (rng.uniform(size=findings) < 0.35).astype(np.float32)
            label[rng.uniform(size=findings) < unknown] = -1
            items.append({"id": f"g{group}-{number}", "group": f"g{group}", "label": label})
    return items


FOUND = LabelKind(("effusion", "mass", "nodule"), findings=True)


@pytest.mark.parametrize("seed", range(3))
def test_each_part_has_every_finding_present_and_absent_and_in_proportion(seed):
    items = make_found(60, seed=seed)
    splits = cross_validation_splits(items, folds=5, label_fraction=0.15, kind=FOUND)
    shares = {part: [] for part in ("train", "test")}
    for split in splits:
        home = {}
        for item in items:
            part = split.split_of[item["id"]]
            assert home.setdefault(item["group"], part) == part
        for part in ("train", "val", "test"):
            rows = np.stack([item["label"] for item in items if split.split_of[item["id"]] == part])
            assert ((rows == 1).any(axis=0) & (rows == 0).any(axis=0)).all()
            if part in shares:
                shares[part].append((rows == 1).sum(axis=0) / (rows >= 0).sum(axis=0))
        counts = Counter(split.split_of.values())
        assert counts["val"] <= 0.25 * counts["train"]
    tested = Counter(key for split in splits for key, part in split.split_of.items() if part == "test")
    assert set(tested.values()) == {1}
    assert np.std(shares["test"], axis=0).max() < 0.12
    assert cross_validation_splits(items, folds=5, label_fraction=0.15, kind=FOUND) == splits


def test_a_finding_that_cannot_be_in_every_part_is_named():
    items = make_found()
    for number, item in enumerate(items):
        item["label"][1] = number < 2
    with pytest.raises(ValueError, match=r"folds: expected at least 5 groups of every finding, got [12] of 'mass=1'"):
        cross_validation_splits(items, folds=5, kind=FOUND)
    folds = {item["id"]: str(int(item["group"][1:]) % 3) for item in items}
    with pytest.raises(ValueError, match=r"fold 0: expected labels of every finding in .*, got none of \['mass=1'"):
        given_fold_splits(items, folds, kind=FOUND)
