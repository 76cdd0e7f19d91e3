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

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from monai_weckd.plan.splits import assign_split, divide_epochs, draw_shards, longest_stage
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


def test_assign_split_proportions():
    splits = [assign_split(str(i), seed=3, val_fraction=0.15, test_fraction=0.25) for i in range(20_000)]
    shares = {name: splits.count(name) / len(splits) for name in ("test", "val", "train")}
    # four standard errors of a binomial share
    assert shares == pytest.approx({"test": 0.25, "val": 0.15, "train": 0.6}, abs=0.014)


def test_a_larger_fraction_moves_groups_in_one_direction_only():
    for i in range(300):
        small, large = (assign_split(str(i), seed=0, val_fraction=0.1, test_fraction=f) for f in (0.2, 0.3))
        assert small != "test" or large == "test"


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
    shards = draw_shards({key: [key] for key in keys}, num_shards=3, size=4, seed=5)
    assert shards == [tuple(sorted(order[i : i + 4])) for i in (0, 4, 8)]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 4), st.integers(1, 20), st.integers(0, 9))
def test_stratified_shards_of_items(labels, num_shards, size, seed):
    labels = {str(i): label for i, label in enumerate(labels)}
    shards = draw_shards({key: [key] for key in labels}, labels, num_shards=num_shards, size=size, seed=seed)
    left = dict(labels)
    for shard in shards:
        classes = sorted(set(left.values()))
        counts = [list(left.values()).count(c) for c in classes]
        assert [sum(labels[key] == c for key in shard) for c in classes] == apportion(size, counts)
        for key in shard:
            del left[key]  # a KeyError here is an item in two shards


def test_a_class_with_an_item_for_each_shard_gets_into_each():
    labels = {str(i): 0 for i in range(54)} | {f"r{i}": 1 for i in range(3)} | {f"s{i}": 2 for i in range(3)}
    for shard in draw_shards({key: [key] for key in labels}, labels, num_shards=3, size=20, seed=1):
        assert [sum(labels[key] == c for key in shard) for c in (0, 1, 2)] == [18, 1, 1]


def test_groups_are_taken_whole_until_the_quota_of_their_majority_class():
    units = {f"g{i}": [f"g{i}-{j}" for j in range(3)] for i in range(8)}
    labels = {key: int(group[1]) % 2 for group, keys in units.items() for key in keys}
    labels["g0-2"] = 1  # one of three: the group still counts for class 0
    for shard in draw_shards(units, labels, num_shards=2, size=4, seed=0):
        groups = {key[:2] for key in shard}
        assert sorted(shard) == sorted(key for group in groups for key in units[group])
        # two labels of each class are wanted, a group of three is taken
        assert sorted(int(group[1]) % 2 for group in groups) == [0, 1]


def test_majority_tie_goes_to_the_first_class():
    units = {"tie": ["a", "b"], "one": ["c", "d"]}
    labels = {"a": 1, "b": 0, "c": 1, "d": 1}
    # two classes of one group each: both groups are needed for one label of each class
    assert draw_shards(units, labels, num_shards=1, size=2, seed=0) == [("a", "b", "c", "d")]
    # one class: one group has the two labels
    assert draw_shards(units, {**labels, "b": 1}, num_shards=1, size=2, seed=0) in ([("a", "b")], [("c", "d")])


def test_file_names_that_are_no_utf8():
    assert 0 <= hash_fraction(0, "split", b"k\xe4se.png".decode(errors="surrogateescape")) < 1
