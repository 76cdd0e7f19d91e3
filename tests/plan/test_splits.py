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

import hashlib
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from monai_weckd.plan.splits import divide_epochs, draw_shards, longest_stage
from monai_weckd.utils.draws import apportion, hash_fraction

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("max_epochs", "stage_epochs", "message"),
    [
        (2, None, r"max_epochs: expected at least one for each of 3 stages, got 2. Raise it"),
        (6, [1, 2], r"stage_epochs: expected 3 positive numbers that add up to max_epochs=6, got \[1, 2\]"),
        (6, [1, 2, 4], r"stage_epochs: expected 3 positive numbers"),
        (6, [0, 2, 4], r"stage_epochs: expected 3 positive numbers"),
    ],
)
def test_divide_epochs_validation(max_epochs, stage_epochs, message):
    with pytest.raises(ValueError, match=message):
        divide_epochs(max_epochs, 3, stage_epochs)


def test_longest_stage():
    assert [longest_stage(epochs, 3) for epochs in (9, 10, 11)] == [3, 4, 4]
    assert longest_stage(6, 3, [1, 3, 2]) == 3
    with pytest.raises(ValueError, match="max_epochs: expected at least one for each of 3 stages, got 2"):
        longest_stage(2, 3)


def test_divide_epochs():
    assert divide_epochs(9, 3) == (3, 3, 3)
    assert divide_epochs(10, 3) == (3, 3, 4)
    assert divide_epochs(6, 3, [1, 2, 3]) == (1, 2, 3)


@given(st.integers(), st.text())
def test_hash_fraction_is_sha256(seed, key):
    key = key.encode(errors="ignore").decode()
    digest = hashlib.sha256(f"{seed}\0split\0{key}".encode()).digest()
    exact = Fraction(int.from_bytes(digest, "big"), 2**256)
    assert 0 <= exact - Fraction(hash_fraction(seed, "split", key)) < Fraction(1, 2**53)


def test_hash_fraction_is_uniform_and_independent_of_purpose_and_seed():
    draws = np.array([[hash_fraction(s, p, str(i)) for i in range(4000)] for s, p in ((0, "a"), (0, "b"), (1, "a"))])
    assert all(kstest(draw, "uniform").pvalue > 1e-3 for draw in draws)
    assert np.abs(np.corrcoef(draws) - np.eye(3)).max() < 0.06


def test_hash_fraction_stays_below_one(monkeypatch):
    monkeypatch.setattr("monai_weckd.utils.draws.draw_digest", lambda *_: b"\xff" * 32)
    assert hash_fraction(0, "split", "a") < 1


def test_apportion_known():
    # the textbook example of Hamilton's method (the Alabama paradox): one place more costs the smallest its second
    assert apportion(10, [60, 60, 20]) == [4, 4, 2]
    assert apportion(11, [60, 60, 20]) == [5, 5, 1]
    assert apportion(3, [1, 1, 1, 1]) == [1, 1, 1, 0]
    assert apportion(4, [1, 100, 1, 1]) == [1, 1, 1, 1]
    assert apportion(5, [3, 0]) == [3, 0]
    assert apportion(0, [3, 2]) == [0, 0]
    assert apportion(2, [0, 0]) == [0, 0]


@given(st.integers(0, 100), COUNTS)
def test_apportion(total, counts):
    quotas = apportion(total, counts)
    present = sum(count > 0 for count in counts)
    assert sum(quotas) == min(total, sum(counts))
    assert all(0 <= quota <= count for quota, count in zip(quotas, counts, strict=True))
    shares = [Fraction(min(total, sum(counts)) * count, sum(counts) or 1) for count in counts]
    if total >= present:
        assert all(quota > 0 for quota, count in zip(quotas, counts, strict=True) if count)
    if total < present or all(share >= 1 for share, count in zip(shares, counts, strict=True) if count):
        assert all(abs(quota - share) < 1 for quota, share in zip(quotas, shares, strict=True))
        # who was rounded up has no smaller remainder than who was rounded down
        up = [share % 1 for quota, share in zip(quotas, shares, strict=True) if quota > share]
        down = [share % 1 for quota, share in zip(quotas, shares, strict=True) if quota < share]
        assert not up or not down or min(up) >= max(down)


def test_unstratified_shards_are_slices_of_the_hash_order():
    keys = [f"k{i}" for i in range(30)]
    order = sorted(keys, key=lambda key: hashlib.sha256(f"5\0shard\0{key}".encode()).hexdigest())
    shards = draw_shards({key: [key] for key in keys}, sizes=[4, 4, 4], seed=5)
    assert shards == [tuple(sorted(order[i : i + 4])) for i in (0, 4, 8)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 20), st.integers(0, 9))
def test_stratified_shards_of_items(labels, num_shards, size, seed):
    labels = {str(i): label for i, label in enumerate(labels)}
    shards = draw_shards({key: [key] for key in labels}, labels, sizes=[size] * num_shards, seed=seed)
    left = dict(labels)
    for shard in shards:
        classes = sorted(set(left.values()))
        counts = [list(left.values()).count(c) for c in classes]
        assert [sum(labels[key] == c for key in shard) for c in classes] == apportion(size, counts)
        for key in shard:
            del left[key]  # a KeyError here is an item in two shards


def test_a_class_with_an_item_for_each_shard_gets_into_each():
    labels = {str(i): 0 for i in range(54)} | {f"r{i}": 1 for i in range(3)} | {f"s{i}": 2 for i in range(3)}
    for shard in draw_shards({key: [key] for key in labels}, labels, sizes=[20, 20, 20], seed=1):
        assert [sum(labels[key] == c for key in shard) for c in (0, 1, 2)] == [18, 1, 1]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(1, 20), st.integers(0, 9), st.booleans())
def test_groups_come_as_close_to_the_size_as_they_can(lengths, size, seed, stratify):
    units = {f"g{i}": [f"g{i}-{j}" for j in range(length)] for i, length in enumerate(lengths)}
    labels = {key: 0 for keys in units.values() for key in keys} if stratify else None
    [shard] = draw_shards(units, labels, sizes=[size], seed=seed)
    sums = {sum(part) for number in range(len(lengths) + 1) for part in combinations(lengths, number)}
    best = max(total for total in sums if total <= size)
    assert len(shard) == (best or min(lengths))
    assert set(shard) == {key for group in {key.split("-")[0] for key in shard} for key in units[group]}


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=8, max_size=14),
    st.integers(4, 12),
    st.integers(1, 3),
    st.integers(0, 9),
)
def test_stratified_groups_keep_to_the_size_and_lose_no_class_that_has_room(groups, size, number, seed):
    units = {f"g{i}": [f"g{i}-{j}" for j in range(length)] for i, (length, _) in enumerate(groups)}
    labels = {key: groups[int(group[1:])][1] for group, keys in units.items() for key in keys}
    shards = draw_shards(units, labels, sizes=[size] * number, seed=seed)
    assert len(set(sum(shards, ()))) == sum(map(len, shards))
    assert all(len(shard) <= size for shard in shards)
    first = shards[0]
    assert size - len(first) < 4 or len(first) == len(labels)
    smallest = {label: min(length for length, other in groups if other == label) for _, label in groups}
    if sum(smallest.values()) <= size:
        assert {labels[key] for key in first} == smallest.keys()


def test_groups_meet_the_quotas_of_the_classes():
    units = {f"g{i}": [f"g{i}-{j}" for j in range(3)] for i in range(20)}
    labels = {key: int(group[1:]) % 2 for group, keys in units.items() for key in keys}
    labels["g0-2"] = 1  # one of three: the group still counts for class 0
    for shard in draw_shards(units, labels, sizes=[12, 12], seed=0):
        groups = {key.split("-")[0] for key in shard}
        assert sorted(int(group[1:]) % 2 for group in groups) == [0, 0, 1, 1]


def test_majority_tie_goes_to_the_first_class():
    units = {"tie": ["a", "b"], "one": ["c", "d"]}
    labels = {"a": 1, "b": 0, "c": 1, "d": 1}
    for seed in range(9):
        # two classes of one group each: both groups are needed for labels of each class
        assert draw_shards(units, labels, sizes=[4], seed=seed) == [("a", "b", "c", "d")]
        # one class: either group has the two labels
        assert draw_shards(units, {**labels, "b": 1}, sizes=[2], seed=seed) in ([("a", "b")], [("c", "d")])


@given(st.lists(st.integers(0, 9), min_size=2, max_size=5), st.integers(1, 5), st.integers(0, 9))
def test_shards_of_ascending_sizes_have_every_class_that_has_labels_enough(spare, num_shards, seed):
    labels = {f"{c}-{i}": c for c, more in enumerate(spare) for i in range(num_shards + more)}
    sizes = [(len(labels) + shard) // num_shards for shard in range(num_shards)]
    for shard in draw_shards({key: [key] for key in labels}, labels, sizes=sizes, seed=seed):
        assert {labels[key] for key in shard} == set(range(len(spare)))


def test_file_names_that_are_no_utf8():
    assert 0 <= hash_fraction(0, "split", b"k\xe4se.png".decode(errors="surrogateescape")) < 1
