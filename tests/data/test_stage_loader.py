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

from functools import partial

import monai
import numpy as np
import pytest
import torch
from monai.data import Dataset, ThreadDataLoader
from monai.transforms import Compose, RandGaussianNoised
from stage_items import make_data
from torch.utils.data import DataLoader

from monai_weckd.data.stage_loader import check_loader, stage_loader, training_items


def test_args_validation():
    with pytest.raises(TypeError, match="train_data_loader: expected a DataLoader over a MONAI dataset"):
        training_items([1, 2])
    with pytest.raises(TypeError, match="train_data_loader: expected a DataLoader over a MONAI dataset"):
        training_items(DataLoader(torch.zeros(3)))
    loader = DataLoader(Dataset(make_data()), batch_sampler=[[0], [1]])
    with pytest.raises(ValueError, match="train_data_loader: expected a batch_size, got None"):
        stage_loader(loader, labels={0: 1}, pool=[], pool_ratio=0, num_batches=1, seed=0, stage=1)


def test_items_without_id_or_group_are_known_by_their_image():
    items = training_items(
        DataLoader(Dataset([{"image": "a.png", "label": 1}, {"image": "b.png", "id": 3, "group": ""}]))
    )
    assert [(item["id"], item["group"]) for item in items] == [("a.png", "a.png"), ("3", "3")]


def test_workers_give_the_batches_of_a_single_process():
    transform = Compose([RandGaussianNoised("image", prob=1.0)])
    stage = {"labels": {0: 1, 1: 0, 2: 1}, "pool": [4, 5], "pool_ratio": 1, "num_batches": 5, "seed": 3, "stage": 1}
    alone, helped = (
        [(batch["image"], batch["label"]) for batch in stage_loader(loader, **stage)]
        for loader in (DataLoader(Dataset(make_data(), transform), batch_size=3, num_workers=n) for n in (0, 2))
    )
    for (image, label), (other_image, other_label) in zip(alone, helped, strict=True):
        assert torch.equal(image, other_image)
        assert torch.equal(label, other_label)
    assert alone[0][1].tolist()[3:] == [-1, -1, -1]


def test_drawing_leaves_the_global_generators_alone():
    np.random.seed(0)
    torch.manual_seed(0)
    before = (np.random.get_state()[1].copy(), torch.get_rng_state())
    loader = DataLoader(Dataset(make_data()), batch_size=2)
    list(stage_loader(loader, labels={0: 1, 1: 0}, pool=[], pool_ratio=0, num_batches=4, seed=0, stage=1))
    assert (np.random.get_state()[1] == before[0]).all()
    assert torch.equal(torch.get_rng_state(), before[1])


@pytest.mark.parametrize("item", [[torch.zeros(3, 2, 2), 1], (torch.zeros(3, 2, 2), 1), "a.png", 7])
def test_items_that_are_no_dictionaries_are_refused(item):
    with pytest.raises(TypeError, match=r"^train_data_loader: expected dictionaries with .* as item 1") as error:
        training_items(DataLoader(Dataset([make_data()[0], item])))
    assert "\n" not in str(error.value)


class Pairs(Dataset):
    def __getitem__(self, index):
        return self.data[index]["image"], self.data[index]["label"]


def test_a_dataset_that_makes_pairs_of_its_dictionaries_is_refused_at_the_first_item():
    loader = DataLoader(Pairs(make_data()), batch_size=2)
    with pytest.raises(TypeError, match=r"^train_data_loader: expected dictionaries with .*, got tuple as item"):
        next(iter(stage_loader(loader, labels={0: 1}, pool=[], pool_ratio=0, num_batches=1, seed=0, stage=1)))


STAGE = {"labels": {0: 1, 1: 0, 2: 1}, "pool": [], "pool_ratio": 0, "num_batches": 2, "seed": 3, "stage": 1}


@pytest.mark.parametrize(
    ("option", "value"),
    [("persistent_workers", True), ("worker_init_fn", print), ("prefetch_factor", 3), ("timeout", 20)],
)
def test_what_a_user_sets_for_workers_holds_in_a_stage(option, value):
    loader = stage_loader(DataLoader(Dataset(make_data()), batch_size=2, num_workers=1, **{option: value}), **STAGE)
    assert getattr(loader, option) == value
    assert loader.num_workers == 1


@pytest.mark.parametrize(
    "options",
    [
        {"drop_last": True},
        {"shuffle": True},
        {"shuffle": True, "generator": torch.Generator().manual_seed(1)},
        {"shuffle": True, "generator": torch.Generator().manual_seed(2), "drop_last": True},
    ],
)
def test_order_and_size_of_batches_are_those_of_the_stage(options):
    plain, other = (
        [batch["index"].tolist() for batch in stage_loader(loader, **STAGE)]
        for loader in (DataLoader(Dataset(make_data()), batch_size=2, **each) for each in ({}, options))
    )
    assert plain == other
    assert [len(indices) for indices in plain] == [2, 2]


class Mixed(DataLoader):
    """A loader that does something to a batch."""

    def __iter__(self):
        yield from ({**batch, "image": batch["image"].flip(0)} for batch in super().__iter__())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Mixed, "train_data_loader: expected the batches of a DataLoader, got Mixed with an __iter__ of its own"),
        (partial(ThreadDataLoader, repeats=2), "repeats: expected 1, got 2"),
        (
            partial(ThreadDataLoader, num_workers=1, use_thread_workers=True),
            "use_thread_workers: expected False, got True",
        ),
    ],
)
def test_a_loader_that_makes_batches_in_its_own_way_is_refused(make, message):
    with pytest.raises(TypeError, match=message):
        check_loader(make(Dataset(make_data()), batch_size=4))


@pytest.mark.parametrize("kind", [monai.data.DataLoader, ThreadDataLoader])
def test_loaders_of_monai_are_taken(kind):
    check_loader(kind(Dataset(make_data()), batch_size=4))
