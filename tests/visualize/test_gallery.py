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

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from monai.data import Dataset, MetaTensor
from PIL import Image

from monai_weckd.visualize.gallery import confident_errors, save_error_gallery

CLASSES = ("cat", "dog")


def make_row(identity, label, predicted, probability, *, split="test"):
    other = CLASSES[1 - CLASSES.index(predicted)]
    probabilities = {predicted: probability, other: 1 - probability}
    columns = {f"probability_{name}": str(probabilities[name]) for name in CLASSES}
    return {"id": identity, "split": split, "label": label, "predicted": predicted, **columns}


class Detector(torch.nn.Module):
    """The logit of the class "dog" is the mean of the positive part of the first channel; that of "cat" is zero."""

    def __init__(self, *, spatial_dims=2, channels=1, inplace=False):
        super().__init__()
        convolution = torch.nn.Conv2d if spatial_dims == 2 else torch.nn.Conv3d
        normalization = torch.nn.BatchNorm2d if spatial_dims == 2 else torch.nn.BatchNorm3d
        self.features = torch.nn.Sequential(
            OrderedDict(
                conv=convolution(channels, 1, 1, bias=False),
                norm=normalization(1, eps=0.0),
                relu=torch.nn.ReLU(inplace=inplace),
            )
        )
        self.head = torch.nn.Linear(1, 2)
        with torch.no_grad():
            self.features.conv.weight.zero_()[:, 0] = 1
            self.head.weight.copy_(torch.tensor([[0.0], [40.0]]))
            self.head.bias.zero_()

    def forward(self, image):
        return self.head(self.features(image).flatten(2).mean(2))


def predict(network, dataset, labels):
    training = network.training
    network.eval()
    with torch.no_grad():
        rows = [torch.softmax(network(torch.as_tensor(item["image"])[None]), 1)[0] for item in dataset]
    network.train(training)
    return [
        make_row(f"item{number}", label, CLASSES[int(row.argmax())], float(row.max()))
        for number, (row, label) in enumerate(zip(rows, labels, strict=True))
    ]


def spot_image(shape, position):
    image = torch.zeros(shape)
    image[(0, *position)] = 1
    return image


@pytest.fixture
def spot():
    """A detector, and one item of width 8 and height 4 whose bright spot it takes for a dog."""
    network = Detector().eval()
    dataset = Dataset([{"image": MetaTensor(spot_image((1, 4, 8), (1, 6)))}])
    return network, dataset, predict(network, dataset, ["cat"])


def test_arguments_are_validated(spot, tmp_path):
    network, dataset, rows = spot
    with pytest.raises(ValueError, match="limit: expected a number of at least 0, got -1"):
        confident_errors(rows, limit=-1)
    with pytest.raises(ValueError, match=r"dataset: expected one item for each of the 2 rows, got 1\. Pass the data"):
        save_error_gallery(network, dataset, rows * 2, target_layer="features.relu", output_dir=tmp_path)
    with pytest.raises(ValueError, match=r"target_layer: expected the name .* got 'features.rel'\. Did you mean 'feat"):
        save_error_gallery(network, dataset, rows, target_layer="features.rel", output_dir=tmp_path)
    with pytest.raises(
        ValueError, match=r"target_layer: expected a module whose output has the spatial axes .* 0 axes"
    ):
        save_error_gallery(network, dataset, rows, target_layer="head", output_dir=tmp_path)
    flat = Dataset([{"image": torch.zeros(8, 4)}])
    with pytest.raises(ValueError, match=r"dataset: expected images of shape \(C, H, W\) .* got \(8, 4\) for 'item0'"):
        save_error_gallery(network, flat, rows, target_layer="features.relu", output_dir=tmp_path)


def test_items_that_do_not_belong_to_the_rows_are_refused(spot, tmp_path):
    network, _, rows = spot
    other = Dataset([{"image": torch.zeros(1, 4, 8)}])
    message = r"dataset: expected for 'item0' the probability 0\.7\d\d of its row, got 0\.500\. Pass the network"
    with pytest.raises(ValueError, match=message):
        save_error_gallery(network, other, rows, target_layer="features.relu", output_dir=tmp_path)


def test_confident_errors_are_sorted_and_limited():
    rows = [
        make_row("a", "cat", "dog", 0.6),
        make_row("b", "cat", "cat", 0.99),
        make_row("c", "dog", "cat", 0.9),
        make_row("d", "cat", "dog", 0.999, split="val"),
        make_row("e", "cat", "dog", 0.9),
        make_row("f", "cat", "dog", 1.0),
    ]
    assert confident_errors(rows) == [5, 2, 4, 0]
    assert confident_errors(rows, limit=2) == [5, 2]
    assert confident_errors(rows, limit=0) == []


def test_a_picture_shows_the_image_upright_and_the_heat_where_the_evidence_is(spot, tmp_path):
    network, dataset, rows = spot
    path = save_error_gallery(network, dataset, rows, target_layer="features.relu", output_dir=tmp_path)
    picture = np.asarray(Image.open(tmp_path / "errors" / "01.png")).astype(int)
    assert picture.shape == (4 * 45, 2 * 8 * 45 + 8, 3)
    plain, overlay = picture[22::45, : 8 * 45][:, 22::45], picture[22::45, 8 * 45 + 8 :][:, 22::45]
    expected = np.zeros((4, 8))
    expected[1, 6] = 255
    np.testing.assert_array_equal(plain, expected[..., None].repeat(3, -1))
    hot = overlay[..., 0] - overlay[..., 2] > 50
    np.testing.assert_array_equal(hot, expected > 0)
    assert path == tmp_path / "errors" / "errors.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["target_layer"] == "features.relu"
    (entry,) = content["errors"]
    assert entry == {
        "id": "item0",
        "label": "cat",
        "predicted": "dog",
        "probability": pytest.approx(float(rows[0]["probability_dog"])),
        "file": "01.png",
    }


def test_the_heat_is_that_of_grad_cam(tmp_path):
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        OrderedDict(
            conv=torch.nn.Conv2d(1, 4, 3, padding=1), act=torch.nn.Tanh(), pool=torch.nn.AdaptiveAvgPool2d(2),
            flat=torch.nn.Flatten(), head=torch.nn.Linear(16, 2),
        )
    )  # fmt: skip
    image = torch.rand(1, 6, 6)
    dataset = Dataset([{"image": image}])
    (row,) = predict(network, dataset, ["cat"])
    rows = [{**row, "label": CLASSES[1 - CLASSES.index(row["predicted"])]}]
    save_error_gallery(network, dataset, rows, target_layer="act", output_dir=tmp_path)
    features = network.act(network.conv(image[None]))
    logit = network.head(network.flat(network.pool(features)))[0, CLASSES.index(row["predicted"])]
    weights = torch.autograd.grad(logit, features)[0].mean((2, 3), keepdim=True)
    heat = torch.relu((weights * features).sum(1))[0].detach()
    strength = 0.7 * (heat / heat.max()).numpy()[..., None]
    gray = ((image - image.min()) / (image.max() - image.min()))[0].numpy()[..., None]
    expected = 255 * gray * (1 - strength) + np.array([230, 97, 0]) * strength
    picture = np.asarray(Image.open(tmp_path / "errors" / "01.png")).astype(float)
    np.testing.assert_allclose(picture[30::60, 6 * 60 + 8 :][:, 30::60], expected, atol=0.51)


def test_a_volume_shows_its_middle_slice(tmp_path):
    network = Detector(spatial_dims=3).eval()
    dataset = Dataset([{"image": spot_image((1, 5, 4, 7), (2, 1, 3))}])
    rows = predict(network, dataset, ["cat"])
    save_error_gallery(network, dataset, rows, target_layer="features.relu", output_dir=tmp_path)
    picture = np.asarray(Image.open(tmp_path / "errors" / "01.png"))
    assert picture.shape == (4 * 72, 2 * 5 * 72 + 8, 3)
    assert picture[72 + 36, 2 * 72 + 36].tolist() == [255, 255, 255]


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_are_colors_only_where_there_are_three(channels, tmp_path):
    network = Detector(channels=channels).eval()
    dataset = Dataset([{"image": spot_image((channels, 8, 8), (1, 6))}])
    save_error_gallery(network, dataset, predict(network, dataset, ["cat"]), target_layer="features.relu",
                       output_dir=tmp_path)  # fmt: skip
    picture = np.asarray(Image.open(tmp_path / "errors" / "01.png"))
    assert picture[1 * 45 + 22, 6 * 45 + 22].tolist() == ([255, 0, 0] if channels == 3 else [255, 255, 255])


def test_a_large_image_is_made_smaller(tmp_path):
    network = Detector().eval()
    image = torch.zeros(1, 400, 800)
    image[:, :, :400] = 1
    dataset = Dataset([{"image": image}])
    save_error_gallery(network, dataset, predict(network, dataset, ["cat"]), target_layer="features.relu",
                       output_dir=tmp_path)  # fmt: skip
    assert Image.open(tmp_path / "errors" / "01.png").size == (2 * 360 + 8, 180)


@pytest.mark.filterwarnings("error")
def test_a_constant_image_without_evidence_is_black(tmp_path):
    network = Detector().eval()
    dataset = Dataset([{"image": torch.full((1, 8, 8), -1.0)}])
    rows = [make_row("flat", "cat", "dog", 0.5)]
    save_error_gallery(network, dataset, rows, target_layer="features.relu", output_dir=tmp_path)
    picture = np.asarray(Image.open(tmp_path / "errors" / "01.png"))
    assert picture[:, : 8 * 45].max() == 0
    assert picture[:, 8 * 45 + 8 :].max() == 0


def test_no_error_gives_an_empty_list(spot, tmp_path):
    network, dataset, rows = spot
    rows = [{**rows[0], "label": "dog"}]
    path = save_error_gallery(network, dataset, rows, target_layer="features.relu", output_dir=tmp_path)
    assert json.loads(path.read_text(encoding="utf-8"))["errors"] == []


def test_names_of_items_never_become_file_names(spot, tmp_path):
    network, dataset, rows = spot
    rows = [{**rows[0], "id": "../../=cmd|<b>.png"}]
    save_error_gallery(network, dataset, rows, target_layer="features.relu", output_dir=tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["01.png", "errors.json"]


def count_hooks(network):
    return [
        len(hooks)
        for module in network.modules()
        for hooks in (module._forward_hooks, module._backward_hooks, module._forward_pre_hooks)
    ]


def test_the_network_stays_as_it_was(tmp_path):
    network = Detector(inplace=True).train()
    network.features.norm.eval()  # a frozen normalization inside a network in training
    network.head.weight.requires_grad_(False)
    network.features.conv.weight.grad = torch.ones_like(network.features.conv.weight)
    calls = []
    network.head.register_forward_hook(lambda *_: calls.append(1))
    dataset = Dataset([{"image": spot_image((1, 4, 8), (1, 6))}])
    rows = [make_row("item0", "cat", "dog", float(torch.sigmoid(torch.tensor(40 / 32))))]
    before = {
        "modes": [module.training for module in network.modules()],
        "hooks": count_hooks(network),
        "frozen": [parameter.requires_grad for parameter in network.parameters()],
        "state": {key: value.clone() for key, value in network.state_dict().items()},
        "random": torch.get_rng_state(),
    }
    save_error_gallery(network, dataset, rows, target_layer="features.relu", output_dir=tmp_path)
    assert [module.training for module in network.modules()] == before["modes"]
    assert count_hooks(network) == before["hooks"]
    assert [parameter.requires_grad for parameter in network.parameters()] == before["frozen"]
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before["state"][key], rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before["random"])
    assert network.features.relu.inplace
    assert torch.equal(network.features.conv.weight.grad, torch.ones_like(network.features.conv.weight))
    assert network.head.weight.grad is None


@pytest.mark.parametrize("layer", ["features.conv", "features.norm", "features.relu"])
def test_a_frozen_network_with_in_place_activations_works_inside_no_grad(layer, tmp_path):
    network = Detector(inplace=True).eval().requires_grad_(False)
    dataset = Dataset([{"image": spot_image((1, 4, 8), (1, 6))}])
    rows = predict(network, dataset, ["cat"])
    with torch.no_grad():
        save_error_gallery(network, dataset, rows, target_layer=layer, output_dir=tmp_path)
    overlay = np.asarray(Image.open(tmp_path / "errors" / "01.png")).astype(int)[:, 8 * 45 + 8 :]
    assert (overlay[..., 0] - overlay[..., 2] > 50).any()


def test_a_wrapped_network_is_unwrapped(spot, tmp_path):
    network, dataset, rows = spot
    save_error_gallery(torch.nn.DataParallel(network), dataset, rows, target_layer="features.relu", output_dir=tmp_path)
    assert (tmp_path / "errors" / "01.png").is_file()


def test_errors_about_findings_show_where_the_finding_is_seen(tmp_path):
    network = Detector().eval()
    dataset = Dataset([{"image": spot_image((1, 8, 8), (2, 3))}, {"image": torch.zeros(1, 8, 8)}])
    with torch.no_grad():
        rows = [torch.sigmoid(network(item["image"][None]))[0].tolist() for item in dataset]
    columns = [f"{kind}_{name}" for kind in ("label", "probability") for name in CLASSES]
    labels = [(1, 0), ("", 1)]
    table = [
        {"id": f"item{place}", "split": "test", **dict(zip(columns, (*label, *row), strict=True))}
        for place, (label, row) in enumerate(zip(labels, rows, strict=True))
    ]
    path = save_error_gallery(
        network, dataset, table, target_layer="features.conv", output_dir=tmp_path, thresholds=[None, 0.6]
    )
    errors = json.loads(path.read_text())["errors"]
    # a cat (0.5, but never called present) was missed, a dog (0.65) is a false alarm, another dog (0.5) was missed
    assert [(error["id"], error["finding"], error["label"], error["predicted"]) for error in errors] == [
        ("item0", "cat", "present", "absent"),
        ("item0", "dog", "absent", "present"),
        ("item1", "dog", "present", "absent"),
    ]
    assert [error["probability"] for error in errors] == pytest.approx([rows[0][0], rows[0][1], rows[1][1]])
    assert all((tmp_path / "errors" / error["file"]).is_file() for error in errors)
    table[0]["probability_dog"] = 0.95
    with pytest.raises(ValueError, match=r"dataset: expected for 'item0' the probability 0\.950 of its row"):
        save_error_gallery(
            network, dataset, table, target_layer="features.conv", output_dir=tmp_path, thresholds=[None, 0.6]
        )
