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
import shutil
import socket
import sys
from copy import deepcopy
from importlib import metadata

import pytest
import torch
import torch.nn.functional as F
from backbone_folders import COLORS, NETWORKS, build, changed, write
from safetensors.torch import load_file, save_file

from monai_weckd.networks import LocalBackbone, PooledClassifier, find_head
from monai_weckd.networks.local_backbone import slices_along

ANY_SIZE = {"vit", "clip_vision_model", "siglip_vision_model", "clip", "siglip"}


def expected(kind, image, *, layers=(), pooling="class_and_mean"):
    """Return the features that transformers itself computes of an image in [-1, 1]."""
    network = build(kind)
    network = getattr(network, "vision_model", network)
    mean, std = (torch.tensor(COLORS[name]).view(3, 1, 1) for name in ("image_mean", "image_std"))
    arguments = {"interpolate_pos_encoding": True} if kind in ANY_SIZE else {}
    with torch.no_grad():
        pixels = ((image + 1) / 2).expand(-1, 3, -1, -1)
        output = network(pixel_values=(pixels - mean) / std, output_hidden_states=True, **arguments)
    states = [output.hidden_states[layer] for layer in layers]
    states.append(output.hidden_states[-1] if "convnext" in kind else output.last_hidden_state)
    found = []
    for state in states:
        if state.ndim == 4:
            found.append(state.mean(dim=(2, 3)))
            continue
        count = (image.shape[2] // network.config.patch_size) * (image.shape[3] // network.config.patch_size)
        token, mean = state[:, :1].flatten(1), state[:, -count:].mean(dim=1)
        if "siglip" in kind:
            found.append(mean)
        else:
            found.append({"class": token, "mean": mean, "class_and_mean": torch.cat([token, mean], 1)}[pooling])
    return torch.cat(found, dim=1)


def image_of(kind, batch=2):
    side = 84 if "dinov2" in kind else 96
    return torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return write(tmp_path_factory.mktemp("dinov2"))


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_are_those_of_the_library(kind, tmp_path):
    image = image_of(kind)
    network = LocalBackbone(write(tmp_path, kind), layers=[2, 3]).eval()
    with torch.no_grad():
        torch.testing.assert_close(network.features(image), expected(kind, image, layers=[2, 3]), atol=1e-4, rtol=1e-4)
    assert network(image).shape == (2, 1)
    assert find_head(network) == "classifier"


@pytest.mark.parametrize("pooling", ["class", "mean", "class_and_mean"])
def test_pooling_and_depths(pooling, dinov2):
    image = image_of("dinov2")
    network = LocalBackbone(dinov2, layers=[-3], pooling=pooling).eval()
    with torch.no_grad():
        found = network.features(image)
    torch.testing.assert_close(found, expected("dinov2", image, layers=[2], pooling=pooling), atol=1e-4, rtol=1e-4)


def test_several_files_half_precision_and_a_file_of_pytorch(dinov2, tmp_path):
    image = image_of("dinov2")
    whole = LocalBackbone(dinov2).eval().features(image)
    shards = write(tmp_path / "shards", max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    torch.testing.assert_close(LocalBackbone(shards).eval().features(image), whole)
    weights = load_file(dinov2 / "model.safetensors")
    pickled, half = (shutil.copytree(dinov2, tmp_path / name) for name in ("pickled", "half"))
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    torch.testing.assert_close(LocalBackbone(pickled).eval().features(image), whole)
    save_file({name: value.half() for name, value in weights.items()}, half / "model.safetensors")
    changed(half, "config.json", dtype="float16", torch_dtype="float16")  # older files have the other name
    network = LocalBackbone(half).eval()
    assert {weight.dtype for weight in network.parameters()} == {torch.float32}
    torch.testing.assert_close(network.features(image), whole, atol=0.1, rtol=0.1)


def test_sizes_are_those_of_the_images(dinov2):
    network = LocalBackbone(dinov2).eval()
    seen = []
    network.network.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append([*args, *kwargs.values()][0].shape), with_kwargs=True
    )
    for size in ((224, 224), (84, 112), (100, 30), (3, 5)):
        network(torch.zeros(1, 3, *size))
    assert [tuple(shape[2:]) for shape in seen] == [(224, 224), (84, 112), (98, 28), (14, 14)]


def test_gray_images_and_their_scale(dinov2):
    image = torch.rand(2, 1, 56, 56) * 2 - 1
    network, gray = LocalBackbone(dinov2).eval(), LocalBackbone(dinov2, in_channels=1, input_scale=0.5).eval()
    torch.testing.assert_close(gray.features(2 * image), network.features(image.expand(-1, 3, -1, -1)))


def test_pixels_that_are_not_rescaled(tmp_path):
    plain = {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3, "size": 224}
    none = {"do_normalize": False, "rescale_factor": 1 / 127.5, "size": 224}
    for number, preprocessing in enumerate((plain, none)):
        network = LocalBackbone(write(tmp_path / str(number), preprocessing=preprocessing))
        torch.testing.assert_close(network.scale, torch.ones(3, 1, 1))
        torch.testing.assert_close(network.shift, torch.full((3, 1, 1), float(number)))


def test_slices_lie_across_each_axis():
    volume = torch.arange(21.0)[None, None, :, None, None].expand(1, 1, 21, 30, 40)  # a place
    first, second, third = slices_along(volume, count=10, size=96)
    assert {part.shape for part in (first, second, third)} == {(1, 10, 1, 96, 96)}
    assert first[0, :, 0, 0, 0].tolist() == [3, 5, 6, 8, 9, 11, 12, 14, 15, 17]
    for part in (second, third):
        assert part[0, 0].min() < 1
        assert part[0, 0].max() > 19


def test_volumes_are_seen_as_slices(dinov2):
    volume = torch.rand(2, 1, 20, 24, 16)
    network = LocalBackbone(dinov2, spatial_dims=3, in_channels=1, slices=3, slice_size=28).eval()
    flat = LocalBackbone(dinov2, in_channels=1).eval()
    parts = []
    for axis, places in ((0, (3, 10, 16)), (1, (3, 12, 20)), (2, (2, 8, 13))):
        rows = []
        for place in places:
            planes = volume.select(2 + axis, place)
            rows.append(flat.features(F.interpolate(planes, (28, 28), mode="bilinear", antialias=True)))
        parts += [torch.stack(rows).mean(0), torch.stack(rows).amax(0)]
    torch.testing.assert_close(network.features(volume), torch.cat(parts, dim=1), atol=1e-5, rtol=1e-4)
    assert network(volume).shape == (2, 1)
    options = {"spatial_dims": 3, "in_channels": 1, "slices": 3, "slice_size": 28, "slice_axes": [2]}
    torch.testing.assert_close(
        LocalBackbone(dinov2, **options).eval().features(volume), torch.cat(parts[4:], 1), atol=1e-5, rtol=1e-4
    )
    assert [len(part) for part in slices_along(volume, count=1, size=8)] == [2, 2, 2]


def test_a_map_for_heat_maps_takes_a_gradient(dinov2):
    network, maps = LocalBackbone(dinov2, num_classes=3), []
    network.map.register_forward_hook(lambda module, inputs, output: maps.append(output))
    network(torch.rand(1, 3, 70, 56)).sum().backward()
    assert [tuple(found.shape) for found in maps] == [(1, 32, 5, 4)]
    assert network.network.embeddings.cls_token.grad.abs().sum() > 0


def test_it_is_pooled_copied_and_rebuilt_from_its_record(dinov2, tmp_path):
    options = {"num_classes": 4, "input_shape": (3, 28, 28), "flip_average": [1]}
    image = image_of("dinov2")
    network = PooledClassifier(LocalBackbone(dinov2, layers=[-2], pooling="mean"), **options).eval()
    assert network.classifier.in_features == 64
    torch.testing.assert_close(deepcopy(network)(image), network(image))
    (tmp_path / "chain.json").write_text(json.dumps({"backbone": network.network.origin}))
    other = PooledClassifier(LocalBackbone(tmp_path / "chain.json"), **options).eval()
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(image), network(image))
    assert not any(module._forward_hooks for module in network.modules())
    files = network.network.origin["files"]
    assert set(files) == {"config.json", "preprocessor_config.json", "model.safetensors"}
    assert all(len(digest) == 64 for digest in files.values())


def test_nothing_is_looked_up_in_a_network(dinov2, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a connection")

    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    LocalBackbone(dinov2)
    with pytest.raises(ValueError, match="path: expected a folder"):
        LocalBackbone("facebook/dinov2-base")


def test_the_extra_brings_no_other_torch():
    wanted = [line for line in metadata.requires("transformers") if "extra ==" not in line]
    assert wanted
    assert not [line for line in wanted if line.startswith(("torch", "timm", "nvidia"))]


def test_code_in_a_folder_is_not_executed(dinov2, tmp_path):
    folder = shutil.copytree(dinov2, tmp_path / "copy")
    own = {"AutoConfig": "modeling.Config", "AutoModel": "modeling.Network"}
    changed(folder, "config.json", auto_map=own, architectures=["Network"])
    (folder / "modeling.py").write_text("raise SystemExit")
    network = LocalBackbone(folder).network
    assert type(network).__module__.startswith("transformers.models.dinov2")


def lacking_weights(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, folder / "model.safetensors")


def wide(folder):
    changed(folder, "config.json", hidden_size=64)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lacking_weights, r"path: expected all weights of a dinov2, got a checkpoint without layernorm.weight \(1 in"),
        (wide, "path: expected all weights of a dinov2"),
        (lambda folder: changed(folder, "config.json", patch_size="a"), "path: expected the configuration of a dinov2"),
        (lambda folder: changed(folder, "config.json", model_type="bert"), "vision network of the kinds .* got 'bert'"),
    ],
)
def test_it_refuses_a_configuration_and_weights_that_do_not_fit(damage, message, dinov2, tmp_path):
    folder = shutil.copytree(dinov2, tmp_path / "copy")
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        LocalBackbone(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 4}, "spatial_dims: expected"),
        ({"in_channels": 2}, "in_channels: expected"),
        ({"pooling": "max"}, "pooling: expected one of"),
        ({"input_scale": 0.0}, "input_scale: expected a positive"),
        ({"slices": 0}, "slices: expected"),
        ({"slice_axes": [3]}, "slice_axes: expected"),
        ({"slice_axes": [1, 1]}, "slice_axes: expected"),
        ({"slice_axes": []}, "slice_axes: expected"),
        ({"layers": [5]}, "layers: expected numbers from 1 to 4, or from -4 to -1, got 5"),
        ({"layers": [0]}, "layers: expected"),
    ],
)
def test_it_refuses_options(options, message, dinov2):
    with pytest.raises(ValueError, match=message):
        LocalBackbone(dinov2, **options)


def test_it_names_the_extra(dinov2, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'pip install "monai-weckd\[backbones\]"'):
        LocalBackbone(dinov2)
