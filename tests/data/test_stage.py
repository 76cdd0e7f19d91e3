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

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import CacheDataset, Dataset
from monai.transforms import Compose, RandGaussianNoised
from stage_items import make_data

from monai_weckd.data import StageBatchSampler, StageDataset

OPTIONS = {"batch_size": 4, "num_batches": 10, "seed": 0, "stage": 1}


def test_args_validation():
    with pytest.raises(ValueError, match="labeled: expected at least one item, got none"):
        StageBatchSampler([], **OPTIONS)
    with pytest.raises(ValueError, match="pool_ratio: expected 0 where the pool is empty, got 2"):
        StageBatchSampler([1], pool_ratio=2, **OPTIONS)
    with pytest.raises(ValueError, match="views: expected a number from 0 up, got -1"):
        StageBatchSampler([1], views=-1, **OPTIONS)
    with pytest.raises(ValueError, match="batch_size: expected at least one for each of 8 processes, got 4"):
        StageBatchSampler([1], world_size=8, **OPTIONS)


@given(
    size=st.integers(1, 30), batch_size=st.integers(1, 16), num_batches=st.integers(1, 20), seed=st.integers(0, 2**32)
)
def test_every_item_comes_once_per_pass(size, batch_size, num_batches, seed):
    sampler = StageBatchSampler(range(size), batch_size=batch_size, num_batches=num_batches, seed=seed, stage=1)
    drawn = [index for batch in sampler for index, _ in batch]
    assert len(drawn) == batch_size * num_batches
    for start in range(0, len(drawn) - size + 1, size):
        assert Counter(drawn[start : start + size]) == Counter(range(size))


@given(start=st.integers(0, 10), pool_ratio=st.integers(0, 2))
def test_a_batch_does_not_depend_on_where_the_sampler_began(start, pool_ratio):
    options = {**OPTIONS, "pool_ratio": pool_ratio}
    whole = list(StageBatchSampler([1, 2, 3], range(10, 17), **options))
    tail = StageBatchSampler([1, 2, 3], range(10, 17), start=start, **options)
    assert list(tail) == whole[start:]
    assert len(tail) == len(whole[start:])


def test_batches_are_slices_of_a_row_of_shuffled_passes():
    sampler = StageBatchSampler([3, 1, 2], range(10, 15), pool_ratio=2, **OPTIONS)
    rows = [
        np.concatenate([np.random.default_rng([0, 1, stream, visit]).permutation(part) for visit in range(30)])
        for stream, part in enumerate(([3, 1, 2], range(10, 15)))
    ]
    for number, batch in enumerate(sampler):
        expected = [*rows[0][4 * number : 4 * number + 4], *rows[1][8 * number : 8 * number + 8]]
        assert [index for index, _ in batch] == expected


def test_a_pass_is_shuffled_once(monkeypatch):
    seeds, make = [], np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda seed: seeds.append(tuple(seed)) or make(seed))
    list(StageBatchSampler([1, 2], range(10, 110), pool_ratio=1, **{**OPTIONS, "num_batches": 50}))
    # 200 of a shard of 2 and 200 of a pool of 100
    assert len(seeds) == len(set(seeds)) == 100 + 2


def test_seed_and_stage_change_order_and_views():
    base = list(StageBatchSampler(range(50), **OPTIONS))
    for change in ({"seed": 1}, {"stage": 2}):
        other = list(StageBatchSampler(range(50), **{**OPTIONS, **change}))
        assert [[i for i, _ in batch] for batch in base] != [[i for i, _ in batch] for batch in other]
        assert not {view for batch in base for _, view in batch} & {view for batch in other for _, view in batch}


def test_ranks_share_a_batch_without_loss_or_repetition():
    whole = list(StageBatchSampler(range(9), range(20, 40), pool_ratio=1, **OPTIONS))
    parts = [
        list(StageBatchSampler(range(9), range(20, 40), pool_ratio=1, rank=r, world_size=2, **OPTIONS)) for r in (0, 1)
    ]
    for batch, even, odd in zip(whole, *parts, strict=True):
        assert sorted(even + odd) == sorted(batch)
        assert len(even) == len(odd)


def test_pool_items_come_from_the_pool():
    for batch in StageBatchSampler([0, 1], [5, 6, 7], pool_ratio=2, **OPTIONS):
        indices = [index for index, _ in batch]
        assert set(indices[:4]) <= {0, 1}
        assert set(indices[4:]) <= {5, 6, 7}
        assert len(indices) == 12


def test_labels_come_from_the_oracle_alone():
    dataset = StageDataset(Dataset(make_data()), {0: 1, 3: 0})
    assert [dataset[(index, 0)]["label"] for index in range(7)] == [1, -1, -1, 0, -1, -1, -1]


@pytest.mark.parametrize("kind", [Dataset, CacheDataset])
def test_a_view_is_a_function_of_its_seed(kind):
    transform = Compose([RandGaussianNoised("image", prob=1.0)])
    options = {"progress": False} if kind is CacheDataset else {}
    dataset = StageDataset(kind(make_data(), transform, **options), {})
    first = dataset[(2, 7)]["image"]
    dataset[(3, 8)]
    assert torch.equal(first, dataset[(2, 7)]["image"])
    assert not torch.equal(first, dataset[(2, 9)]["image"])


def views_by_item(**options):
    sampler = StageBatchSampler([2, 5, 9], [11, 12], **{**OPTIONS, "pool_ratio": 1, "num_batches": 30, **options})
    found = {}
    for batch in sampler:
        for index, view in batch:
            found.setdefault(index, []).append(view)
    return found


def test_every_visit_has_a_view_of_its_own():
    found = views_by_item()
    assert set(found) == {2, 5, 9, 11, 12}
    everything = [view for views in found.values() for view in views]
    assert len(set(everything)) == len(everything) == 240


@pytest.mark.parametrize("views", [1, 3])
def test_fixed_views_return_in_turn(views):
    for index, seeds in views_by_item(views=views).items():
        assert len(set(seeds)) == views
        assert seeds == [seeds[visit % views] for visit in range(len(seeds))]
        assert set(seeds) == set(views_by_item()[index][:views])


def test_views_depend_on_seed_stage_and_item():
    seen = [tuple(views_by_item(seed=seed, stage=stage, views=1)[2]) for seed in (0, 1) for stage in (1, 2)]
    assert len(set(seen)) == 4
