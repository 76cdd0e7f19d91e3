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

import numpy as np
import pytest
import torch
from monai.data import Dataset
from monai.transforms import Compose, Lambdad, RandGaussianNoised
from PIL import Image

from monai_weckd.data import ByteCacheDataset, StageDataset
from monai_weckd.data.embedding import wrapped_images
from monai_weckd.handlers import FrozenBackbone
from monai_weckd.networks import PooledClassifier


def make_network(seed=0):
    torch.manual_seed(seed)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    network[1].weight.data /= 255  # the images go up to there
    return network


def load(path):
    return torch.from_numpy(np.array(Image.open(path))).movedim(-1, 0).float()


load.recipe = "reads an RGB picture"


@pytest.fixture
def items(tmp_path):
    random, items = np.random.default_rng(0), []
    for number in range(7):
        path = tmp_path / f"{number}.png"
        Image.fromarray(random.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(path)
        items.append({"image": str(path), "label": number % 2, "id": path.name})
    return items


@pytest.fixture
def cached(items):
    return ByteCacheDataset(items, [Lambdad("image", load)], value_range=(0, 255))


@pytest.fixture
def calls(monkeypatch):
    """Count the images of which embeddings are computed."""
    counts, compute = [], FrozenBackbone.embeddings

    def count(self, batches):
        found = compute(self, batches)
        counts.append(len(found))
        return found

    monkeypatch.setattr(FrozenBackbone, "embeddings", count)
    return counts


def test_refuses_random_transforms_that_it_cannot_leave_out(items):
    transform = Compose([Lambdad("image", load), Compose([RandGaussianNoised("image")])])
    for one in (transform, RandGaussianNoised("image")):
        with pytest.raises(
            ValueError, match=r"^dataset: expected transforms that are not random, got others.*Use Byte"
        ):
            FrozenBackbone(make_network()).embed(Dataset(items, one))


def test_refuses_to_keep_what_no_recipe_describes(items, tmp_path):
    backbone = FrozenBackbone(make_network(), cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"^cache_dir: expected None for a Dataset, got '.*'\. Use ByteCacheDataset"):
        backbone.embed(Dataset(items, Lambdad("image", load)))


@pytest.mark.parametrize("random", [False, True])
def test_embeddings_are_the_input_of_the_head(items, cached, random):
    if random:  # is left out
        cached = ByteCacheDataset(items, [Lambdad("image", load), RandGaussianNoised("image", prob=1.0)])
    network = make_network()
    dataset = FrozenBackbone(network).embed(cached)
    expected = network[:3](torch.stack([load(item["image"]) for item in items]))
    assert dataset.whole_batches
    assert len(dataset) == len(dataset.data) == 7
    torch.testing.assert_close(dataset.gather([3, 0, 3]), expected[[3, 0, 3]])
    torch.testing.assert_close(dataset[6]["image"], expected[6])
    assert {key: value for key, value in dataset[6].items() if key != "image"} == {"label": 0, "id": "6.png"}


def test_keeps_single_precision_and_one_array(cached, calls):
    dataset = FrozenBackbone(make_network()).embed(cached)
    batch = StageDataset(dataset, {0: 1}).__getitems__([(0, 11), (5, 12)])
    assert batch["image"].dtype == torch.float32
    assert batch["image"].shape == (2, 5)
    assert batch["label"].tolist() == [1, -1]
    assert dataset._rows.nbytes == 7 * 4 * 5
    dataset.gather(range(7))
    assert calls == [7]


def test_of_a_plain_dataset_the_other_entries_are_those_of_its_transform(items):
    transform = Compose([Lambdad("image", load), Lambdad("label", lambda label: label + 10)])
    dataset = FrozenBackbone(make_network()).embed(Dataset(items, transform))
    assert dataset[3]["label"] == 11
    assert dataset[3]["image"].shape == (5,)
    assert dataset.data[3]["label"] == 1


def test_wrapped_images_are_those_that_are_embedded(cached):
    assert wrapped_images(FrozenBackbone(make_network()).embed(cached)) is cached
    assert wrapped_images(cached) is cached


@pytest.mark.parametrize("in_file", [False, True])
def test_a_selection_shares_embeddings_and_has_items_of_its_own(items, cached, calls, tmp_path, in_file):
    backbone = FrozenBackbone(make_network(), cache_dir=tmp_path / "cache" if in_file else None)
    whole = backbone.embed(cached)
    rows, computed = whole.gather(range(7)), len(calls)
    part = whole.select([5, 2, 3], [{**items[place], "label": 9} for place in (5, 2, 3)])
    assert (len(part), part[1]["id"], part[1]["label"], whole[2]["label"]) == (3, items[2]["id"], 9, 0)
    torch.testing.assert_close(part.gather([0, 1, 2]), rows[[5, 2, 3]], rtol=0, atol=0)
    for dataset, expected in ((whole, rows), (part, rows[[5, 2, 3]])):
        mean, deviation = dataset.moments()
        torch.testing.assert_close(mean, expected.double().mean(dim=0))
        torch.testing.assert_close(deviation, expected.double().std(dim=0, correction=0))
    assert len(calls) == computed
    # it computes its own when the backbone is another one
    backbone.network[1].weight.data.mul_(2)
    assert part.fill(backbone.fingerprint())
    expected = FrozenBackbone(backbone.network).embed(cached).gather([5, 2, 3])
    torch.testing.assert_close(part.gather([0, 1, 2]), expected)
    torch.testing.assert_close(part.moments()[0], expected.double().mean(dim=0))
    torch.testing.assert_close(whole.gather(range(7)), rows, rtol=0, atol=0)


def test_another_backbone_makes_other_embeddings(cached, calls):
    network = make_network()
    backbone = FrozenBackbone(network)
    dataset = backbone.embed(cached)
    assert dataset.fill(backbone.fingerprint())
    assert not dataset.fill(backbone.fingerprint())
    first, _ = dataset.gather([0]), dataset.moments()
    network[3].weight.data += 1  # the head
    assert not dataset.fill(backbone.fingerprint())
    network[1].weight.data += 1
    assert dataset.fill(backbone.fingerprint())
    assert not torch.equal(dataset.gather([0]), first)
    torch.testing.assert_close(dataset.moments()[0], dataset.gather(range(7)).double().mean(dim=0))
    assert calls == [7, 7]


def test_the_file_serves_the_next_run(items, cached, calls, tmp_path):
    def embed(part, seed=0):
        return FrozenBackbone(make_network(seed), cache_dir=tmp_path / "cache").embed(part)

    first = embed(ByteCacheDataset(items[:4], cached.load, value_range=(0, 255))).gather(range(4))
    assert sum(calls) == 1 + 4  # the first one tells the size
    dataset = embed(cached)
    torch.testing.assert_close(dataset.gather([2, 6]), embed(cached).gather([2, 6]))
    assert torch.equal(dataset.gather(range(4)), first)
    assert sum(calls) == 1 + 4 + 1 + 3 + 1
    torch.testing.assert_close(dataset.gather(range(7)), FrozenBackbone(make_network()).embed(cached).gather(range(7)))
    del calls[:]
    assert not torch.allclose(embed(cached, seed=1).gather([0]), first[:1])
    other = ByteCacheDataset(items, cached.load)  # in half precision
    embed(other).gather([0])
    assert sum(calls) == 2 * (1 + 7)
    assert len(list((tmp_path / "cache").glob("embeddings_*"))) == 3


@pytest.mark.parametrize("change", [{"flip_average": [1]}, {"shrink": (2,)}, {"layers": ["2"]}, {"padding": "zeros"}])
def test_the_file_serves_no_network_of_the_same_weights_that_computes_otherwise(cached, tmp_path, change):
    def embed(cache_dir, *, padding="reflect", **options):
        torch.manual_seed(0)
        first = torch.nn.Conv2d(3, 3, 3, padding=1, padding_mode=padding)
        layers = first, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 3)
        options = {"input_shape": (3, 4, 4), "layers": ["0"], "flip_average": [0], **options}
        network = PooledClassifier(torch.nn.Sequential(*layers), 2, **options)
        return FrozenBackbone(network, cache_dir=cache_dir).embed(cached).gather(range(7))

    first = embed(tmp_path / "cache")
    other = embed(tmp_path / "cache", **change)
    assert not torch.allclose(other, first)
    torch.testing.assert_close(other, embed(None, **change))


def test_two_items_of_one_image_share_a_row(items, cached, tmp_path):
    twice = ByteCacheDataset([*items, items[2]], cached.load, value_range=(0, 255))
    dataset = FrozenBackbone(make_network(), cache_dir=tmp_path / "cache").embed(twice)
    assert torch.equal(dataset.gather([7]), dataset.gather([2]))
    assert len(dataset._rows) == 7


@pytest.mark.parametrize("in_file", [False, True])
def test_goes_to_a_worker_without_the_network(cached, tmp_path, in_file):
    network = make_network()
    backbone = FrozenBackbone(network, cache_dir=tmp_path / "cache" if in_file else None)
    dataset = backbone.embed(ByteCacheDataset(cached.data, _Read(), value_range=(0, 255)))
    copy = pickle.loads(pickle.dumps(dataset))
    assert not hasattr(copy.backbone, "network")
    assert torch.equal(copy.gather([4, 1]), dataset.gather([4, 1]))
    assert isinstance(copy._rows, np.memmap) is in_file


class _Read:
    """A transform that can be pickled."""

    recipe = "reads an RGB picture"

    def __call__(self, item):
        return {**item, "image": load(item["image"])}


@pytest.mark.parametrize("item", [[torch.zeros(1, 2, 2), 1], (torch.zeros(1, 2, 2), 1), torch.zeros(1, 2, 2)])
@pytest.mark.parametrize("wrap", [list, Dataset])
def test_items_that_are_no_dictionaries_are_refused_before_any_work(item, wrap):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    with pytest.raises(TypeError, match=r"^dataset: expected dictionaries with 'image' and 'label', got .* as item 0"):
        FrozenBackbone(network).embed(wrap([item]))


@pytest.fixture
def bags(items):
    """Three items, of one, two and four images."""
    parts = items[:1], items[1:3], items[3:]
    return [{"images": tuple(item["image"] for item in part), "label": 0, "id": str(len(part))} for part in parts]


def cache(items):
    return ByteCacheDataset(items, [Lambdad("image", load)], value_range=(0, 255))


@pytest.mark.parametrize("in_file", [False, True])
def test_an_item_of_several_images_has_the_mean_of_their_embeddings(tmp_path, items, bags, calls, in_file):
    backbone = FrozenBackbone(make_network(), cache_dir=tmp_path / "cache" if in_file else None)
    rows = backbone.embed(cache(items)).gather(range(7))
    dataset = backbone.embed(cache(bags))
    expected = torch.stack([rows[:1].mean(0), rows[1:3].mean(0), rows[3:].mean(0)])
    torch.testing.assert_close(dataset.gather([0, 1, 2]), expected, rtol=1e-6, atol=1e-6)
    assert len(dataset) == 3
    assert dataset[1].keys() == {"image", "label", "id"}
    torch.testing.assert_close(dataset.moments()[0], expected.double().mean(0), rtol=1e-6, atol=1e-6)
    assert torch.equal(dataset.select([2, 0], [bags[2], bags[0]]).gather([0, 1]), dataset.gather([2, 0]))
    assert torch.equal(pickle.loads(pickle.dumps(dataset)).gather([1]), dataset.gather([1]))
    computed = sum(calls)
    assert not dataset.fill(backbone.fingerprint())
    assert sum(calls) == computed
    assert not in_file or computed == 7 + 2  # a file has the images once; two were asked for the number of features


def test_items_of_one_image_have_its_embedding_bit_for_bit(items):
    backbone = FrozenBackbone(make_network())
    bags = [{"images": (item["image"],), "label": item["label"], "id": item["id"]} for item in items]
    single, several = backbone.embed(cache(items)), backbone.embed(cache(bags))
    assert torch.equal(single.gather(range(7)), several.gather(range(7)))
    for value, other in zip(single.moments(), several.moments(), strict=True):
        assert torch.equal(value, other)


def test_the_order_of_the_images_of_an_item_does_not_matter(bags):
    backbone = FrozenBackbone(make_network())
    turned = [{**bag, "images": bag["images"][::-1]} for bag in bags]
    found, other = (backbone.embed(cache(given)).gather(range(3)) for given in (bags, turned))
    torch.testing.assert_close(found, other, rtol=1e-6, atol=1e-6)


def test_items_of_several_images_want_a_frozen_backbone_and_a_byte_cache(bags):
    with pytest.raises(ValueError, match="item_level: expected 'image' to train a network step by step"):
        FrozenBackbone(make_network(), freeze=False).embed(cache(bags))
    with pytest.raises(ValueError, match="dataset: expected a ByteCacheDataset for items of several images, got a Dat"):
        FrozenBackbone(make_network()).embed(Dataset(bags, Lambdad("image", load)))
