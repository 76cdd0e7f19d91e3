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

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.engines import SupervisedTrainer
from monai.transforms import Compose, Lambdad

from monai_weckd.data.stage_loader import training_items
from monai_weckd.losses import DistillationLoss
from monai_weckd.transforms import WithholdLabeld
from monai_weckd.utils.enums import UNLABELED


def withhold(label, *, identity="b", **options):
    return WithholdLabeld("label", ["a"], **options)({"id": identity, "label": label})["label"]


def test_one_string_in_place_of_ids_is_refused():
    with pytest.raises(TypeError, match=r"revealed: expected several ids, got 'ear_1'\. Pass a list"):
        WithholdLabeld("label", revealed="ear_1")


@pytest.mark.parametrize("image", [torch.zeros(3, 4, 4), np.zeros((3, 4, 4)), None])
def test_an_item_that_nothing_names_is_refused(image):
    with pytest.raises(
        ValueError, match=r"id: expected an id or the path of the image, got .*'image', 'label'\]\. Give"
    ):
        WithholdLabeld("label", ["a"])({"image": image, "label": 1})


@pytest.mark.parametrize("label", [True, "normal", np.uint8(1), np.array([True]), torch.tensor(1, dtype=torch.uint8)])
@pytest.mark.parametrize("identity", ["a", "b"])
def test_labels_that_cannot_be_minus_one_are_refused_even_where_revealed(label, identity):
    with pytest.raises(TypeError, match=r"label: expected a label that can be -1, got .*\. Turn class numbers into"):
        withhold(label, identity=identity)


@pytest.mark.parametrize(
    "label",
    [
        2,
        2.0,
        np.int64(2),
        np.int8(2),
        np.float32(2),
        np.array(2),
        np.array([2], dtype=np.int16),
        torch.tensor(2),
        torch.tensor([2], dtype=torch.int32),
        torch.tensor(2.0),
        MetaTensor(torch.tensor([2])),
    ],
    ids=repr,
)
def test_the_type_of_a_label_stays(label):
    hidden = withhold(label)
    assert type(hidden) is type(label)
    assert getattr(hidden, "dtype", None) == getattr(label, "dtype", None)
    assert np.shape(hidden) == np.shape(label)
    assert (np.asarray(hidden) == UNLABELED).all()
    assert withhold(label, identity="a") is label
    assert (np.asarray(label) == 2).all()


def test_an_item_without_a_label_is_unlabeled():
    assert withhold(None) == UNLABELED


def test_a_missing_key_is_an_error_unless_allowed():
    with pytest.raises(KeyError, match="label"):
        WithholdLabeld("label", ["a"])({"id": "b"})
    assert WithholdLabeld("label", ["a"], allow_missing_keys=True)({"id": "b"}) == {"id": "b"}


def test_several_labels_of_an_item_are_withheld_together():
    item = WithholdLabeld(("label", "grade"), [3])({"id": 4, "label": 1, "grade": 2})
    assert item == {"id": 4, "label": UNLABELED, "grade": UNLABELED}
    assert WithholdLabeld(("label", "grade"), [3])({"id": 3, "label": 1, "grade": 2})["grade"] == 2


@pytest.mark.parametrize("image", ["ear/1.png", Path("ear/1.png")])
def test_items_are_known_by_what_a_plan_knows_them_by(image):
    items = [{"image": image, "label": 1}, {"image": image, "label": 1, "id": 7}]
    for item, planned in zip(items, training_items(DataLoader(Dataset(items))), strict=True):
        assert WithholdLabeld("label", [planned["id"]])(item)["label"] == 1
        assert WithholdLabeld("label", ["other"])(item)["label"] == UNLABELED


def test_nothing_that_was_not_revealed_can_be_read_from_the_output():
    items = [{"id": str(index), "label": index % 3} for index in range(12)]
    shuffled = [{**item, "label": (item["label"] + 1) % 3} if int(item["id"]) > 3 else item for item in items]
    transform = WithholdLabeld("label", ["0", "1", "2", "3"])
    assert [transform(item) for item in items] == [transform(item) for item in shuffled]
    assert sum(transform(item)["label"] != UNLABELED for item in items) == 4


def test_a_pickled_copy_withholds_the_same():
    copy = pickle.loads(pickle.dumps(WithholdLabeld("label", ["a"])))
    assert [copy({"id": key, "label": 1})["label"] for key in "ab"] == [1, UNLABELED]


def final_weights(relabel):
    """Train a network in an ordinary pipeline; the labels of all but six items go through `relabel`."""
    generator = torch.Generator().manual_seed(0)
    paths = {f"{index}.png": torch.randn(3, 4, 4, generator=generator) for index in range(24)}
    items = [{"image": path, "label": place % 3} for place, path in enumerate(paths)]
    items = [item if place < 6 else {**item, "label": relabel(item["label"])} for place, item in enumerate(items)]
    transform = Compose([WithholdLabeld("label", list(paths)[:6]), Lambdad("image", paths.get)])
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    before = network[1].weight.clone()
    trainer = SupervisedTrainer(
        "cpu",
        2,
        DataLoader(Dataset(items, transform), batch_size=8, num_workers=2),
        network,
        torch.optim.SGD(network.parameters(), lr=0.5),
        DistillationLoss(),
    )
    trainer.run()
    assert not torch.equal(before, network[1].weight)
    return network[1].weight.detach()


def test_withheld_labels_change_no_bit_of_a_training():
    assert torch.equal(final_weights(lambda label: label), final_weights(lambda label: (label + 1) % 3))
