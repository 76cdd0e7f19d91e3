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
from ignite.engine import Events
from monai.data import CacheDataset, Dataset, MetaTensor, PersistentDataset
from monai.transforms import (
    AsDiscreted,
    Compose,
    CopyItemsd,
    Lambda,
    Lambdad,
    MapLabelValued,
    RandCropByPosNegLabeld,
)
from stock_chains import CLASSES, TABLE, build, make_items

from monai_weckd.data.blind import listed_copies

GENERATOR = np.random.default_rng(0)


def noise():
    """Return noise that no seed of PyTorch or NumPy repeats."""
    return torch.from_numpy(GENERATOR.normal(size=3))


def tag_image(item):
    return {**item, "image": MetaTensor(item["image"], meta={"truth": item["label"]})}


def nest(item):
    return {**item, "report": {"finding": [f"class {item['label']}"]}}


@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (CopyItemsd("label", names="target"), "target"),
        (Compose([CopyItemsd("label", names="onehot"), AsDiscreted("onehot", to_onehot=3)]), "onehot"),
        (Lambda(lambda item: {**item, "soft": torch.eye(3)[item["label"]] * 0.9}), "soft"),
        (Lambda(tag_image), "image.meta.truth"),
        (Lambda(nest), "report.finding.0"),
        # a transform that knows the labels needs none from the item
        (Lambda(lambda item: {**item, "target": TABLE[item["id"]]}), "target"),
        (Lambda(lambda item: {**item, "target": torch.eye(3)[TABLE[item["id"]]]}), "target"),
        (Lambda(lambda item: {**item, "report": {"label": TABLE[item["id"]]}}), "report.label"),
        (Lambda(lambda item: {**item, "soft": (5 * torch.eye(3)[item["label"]] + noise()).softmax(0)}), "soft"),
    ],
)
@pytest.mark.parametrize("kind", [Dataset, partial(CacheDataset, progress=False)])
def test_a_copy_that_a_transform_makes_keeps_pool_images_out(transform, name, kind, caplog):
    trainer, seen = build(kind(make_items(), transform), chain={"pool_ratio": 2}), set()
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: seen.update(engine.state.batch["id"]))
    trainer.run()
    assert seen <= {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    assert f"under 'label' alone, got it in {name} too" in caplog.text


@pytest.mark.parametrize(
    "listed",
    [
        lambda label: {"target": label},
        lambda label: {"name": CLASSES[label]},
        lambda label: {"soft": [0.1 + 0.7 * (label == place) for place in range(3)]},
        lambda label: {"meta": {"truth": torch.tensor(label)}},
        lambda label: {"report": {"label": label, "id": 7}},
    ],
)
def test_a_copy_in_the_data_list_keeps_pool_images_out(listed, caplog):
    data = [{**item, **listed(item["label"])} for item in make_items()]
    trainer, seen = build(Dataset(data), chain={"pool_ratio": 2}), set()
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: seen.update(engine.state.batch["id"]))
    trainer.run()
    assert seen <= {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    assert "under 'label' alone" in caplog.text


class OwnTargets(torch.utils.data.Dataset):
    """A dataset that keeps its targets beside its items."""

    def __init__(self):
        self.data = make_items()
        self.targets = [item["label"] for item in self.data]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return {**self.data[index], "target": self.targets[index]}


def test_targets_that_a_dataset_keeps_keep_pool_images_out(caplog):
    trainer, seen = build(OwnTargets(), chain={"pool_ratio": 2}), set()
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: seen.update(engine.state.batch["id"]))
    trainer.run()
    assert seen <= {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    assert "under 'label' alone, got it in target too" in caplog.text


@pytest.mark.parametrize("kind", [Dataset, partial(CacheDataset, progress=False)])
def test_each_part_of_an_item_has_its_label_or_none(kind):
    """A transform such as RandCropByPosNegLabeld makes a list of an item."""
    crop = RandCropByPosNegLabeld("image", label_key="image", spatial_size=(6, 6), num_samples=2)
    parts = Lambda(lambda item: [item, item]) if kind is not Dataset else crop
    loader = monai.data.DataLoader(kind(make_items(), parts), batch_size=8)
    trainer, found = build(loader=loader, chain={"pool_ratio": 2, "views": 2, "teacher_cache": True}), []

    @trainer.on(Events.GET_BATCH_COMPLETED)
    def look(engine):
        batch, revealed = engine.state.batch, engine.state.chain.plan.stages[engine.state.stage - 1].labeled
        labels = [TABLE[key] if key in revealed else -1 for key in batch["id"]]
        found.append((len(labels), batch["label"].tolist() == labels, len(set(batch["view"].tolist()))))

    trainer.run()
    assert found == [(16, True, 16)] * 4 + [(48, True, 48)] * 4


@pytest.mark.parametrize("kind", [Dataset, CacheDataset, PersistentDataset])
def test_no_transform_sees_a_withheld_label(kind, tmp_path):
    """The cache of a dataset has been filled with all labels before the chain begins; its own items say nothing."""
    seen = {}

    def look(item):
        seen.setdefault(item["id"], set()).add(int(item["label"]))
        return item

    options = {Dataset: {}, CacheDataset: {"progress": False}, PersistentDataset: {"cache_dir": tmp_path}}[kind]
    dataset = kind(make_items(), Compose([Lambdad("image", lambda image: image * 2), look]), **options)
    trainer = build(dataset, chain={"pool_ratio": 2}, max_epochs=8)
    for index in range(len(dataset)):
        dataset[index]
    seen.clear()
    trainer.run()
    revealed = {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    # labels that are made up for the first item only show where its label goes
    assert all(seen[key] == {-1} for key in set(seen) - revealed - {"i0"})
    assert len(set(seen) - revealed) > 10


def test_an_ordinary_pipeline_has_its_pool_images(caplog):
    trainer, shapes = build(chain={"pool_ratio": 2}), []
    trainer.add_event_handler(
        Events.GET_BATCH_COMPLETED, lambda engine: shapes.append(int(engine.state.batch["label"].eq(-1).sum()))
    )
    trainer.run()
    assert shapes == [0] * 4 + [16] * 4
    assert "under 'label' alone" not in caplog.text


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Lambdad("label", lambda label: 2 - label), lambda label: 2 - label),
        (
            Compose([Lambdad("label", np.array), MapLabelValued("label", [0, 1, 2], [1, 1, 0], dtype=np.int64)]),
            lambda label: [1, 1, 0][label],
        ),
        (Lambdad("label", lambda label: torch.tensor([label])), lambda label: label),
        (Lambdad("label", lambda label: ["a", "b", "c"].index("abc"[label])), lambda label: label),
    ],
)
def test_labels_pass_through_the_transforms(transform, expected):
    trainer, found = build(Dataset(make_items(), transform), chain={"pool_ratio": 1}), {}
    trainer.add_event_handler(
        Events.GET_BATCH_COMPLETED,
        lambda engine: found.update(zip(engine.state.batch["id"], engine.state.batch["label"].tolist(), strict=True)),
    )
    trainer.run()
    known = {item["id"]: expected(item["label"]) for item in make_items()}
    final = set(trainer.state.chain.plan.stages[-1].labeled)
    assert all(label in (known[key], -1) for key, label in found.items())
    assert all(found[key] == known[key] for key in final & set(found))


def test_a_key_that_says_the_same_as_one_finding_is_a_copy():
    labels = {n: (n % 2, (n // 2) % 2) for n in range(8)}
    items = [{"image": n, "mass": f"is {labels[n][1]}", "age": 30 + n % 3} for n in range(8)]
    assert listed_copies(items, labels, 2) == ("mass",)
