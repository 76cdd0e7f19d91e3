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
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch
from monai.networks.nets import ResNet
from safetensors.torch import save_file

from monai_weckd.networks import TakeOutput, fingerprint, load_weights, weights, with_weights
from monai_weckd.networks.features import origin_of


def make_network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).eval()


def prefixed(prefix, **more):
    return {**{f"{prefix}{name}": value for name, value in make_network(1).state_dict().items()}, **more}


@pytest.mark.parametrize("key", ["model", "state_dict", "net", "network", "model_state_dict", "of_another_name"])
def test_a_checkpoint_holds_them_under_a_key(tmp_path, key):
    trained = make_network(1)
    optimizer = torch.optim.Adam(trained.parameters())
    content = {"epoch": 3, "optimizer": optimizer.state_dict(), key: trained.state_dict(), "best": 0.5}
    torch.save(content, tmp_path / "checkpoint.pth")
    network = make_network(0)
    load_weights(network, tmp_path / "checkpoint.pth", name="teacher")
    assert fingerprint(network) == fingerprint(trained)


@pytest.mark.parametrize(
    "content",
    [
        prefixed("module."),
        prefixed("_orig_mod."),
        prefixed("module._orig_mod."),
        {"state_dict": prefixed("model.", **{"criterion.weight": torch.ones(4)}), "pytorch-lightning_version": "2"},
        {"state_dict": prefixed("net.module.")},
        prefixed("module.", n_averaged=torch.tensor(3)),
        OrderedDict(prefixed("")),
        {"model": prefixed(""), "ema": make_network(2).state_dict()},
    ],
)
def test_a_prefix_is_dropped(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    network = make_network(0)
    load_weights(network, tmp_path / "weights.pt", name="teacher")
    assert fingerprint(network) == fingerprint(make_network(1))


def test_a_wrapped_network_takes_those_of_the_network_inside(tmp_path):
    torch.save(prefixed(""), tmp_path / "weights.pt")
    network = TakeOutput(make_network(0))
    load_weights(network, tmp_path / "weights.pt", name="teacher")
    assert fingerprint(network.network) == fingerprint(make_network(1))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_becomes_the_networks(tmp_path, kind):
    torch.save(make_network(1).to(kind).state_dict(), tmp_path / "weights.pt")
    network = make_network(0)
    load_weights(network, tmp_path / "weights.pt", name="teacher")
    assert network[0].weight.dtype == torch.float32
    torch.testing.assert_close(network[0].weight, make_network(1)[0].weight, rtol=1e-2, atol=1e-2)


def test_safetensors_are_read(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_file(prefixed("model."), path)
    network = make_network(0)
    load_weights(network, path, name="teacher")
    assert fingerprint(network) == fingerprint(make_network(1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"^teacher: expected a file with a network's weights, got .*; damaged"):
        load_weights(network, path, name="teacher")
    monkeypatch.setattr(weights, "has_safetensors", False)
    with pytest.raises(ImportError, match=r"^teacher: expected the package safetensors to read .*, got none\. Inst"):
        load_weights(network, path, name="teacher")


class Other:
    pass


UNREADABLE = {
    "nothing": (b"", "nothing in"),
    "page": (b"<html>404 Not Found</html>", "text in"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", r"the pointer of Git LFS"),
    "bytes": (bytes(range(256)), r"what PyTorch cannot read \(\w+; damaged, or another format\)"),
    "module": (make_network(), r"a pickle of other objects than tensors \(torch\.nn\.modules"),
    "numpy": ({"net": make_network().state_dict(), "auc": np.float64(0.9)}, r"a pickle of .*\(numpy\."),
    "class": ({"model": prefixed(""), "args": Other()}, r"a pickle of other objects than tensors \("),
    "pickle": (pickle.dumps({"model": Other()}, protocol=4), r"what PyTorch cannot read \("),
    "list": ([1, 2], "list in"),
    "arrays": ({"epoch": 3, "loss": 0.5}, "epoch, loss in"),
    "two": ({"generator": prefixed(""), "critic": prefixed("")}, "generator, critic in"),
    "empty": ({}, "expected a state_dict, or a checkpoint"),
}


@pytest.mark.parametrize("name", ["teacher", "ckpt"])
@pytest.mark.parametrize("case", UNREADABLE)
def test_what_cannot_be_read_is_described_in_one_line(tmp_path, case, name):
    content, kind = UNREADABLE[case]
    path = tmp_path / "weights.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=kind) as caught:
        load_weights(make_network(), path, name=name)
    text = str(caught.value)
    assert text.startswith(f"{name}: expected ")
    assert str(path) in text
    assert "\n" not in text
    assert "weights_only" not in text
    assert "torch.save(network.state_dict(), path)" in text


def test_a_program_is_no_file_with_weights(tmp_path):
    torch.jit.script(make_network()).save(tmp_path / "model.ts")
    with pytest.raises(ValueError, match=r"^ckpt: expected .*, got a TorchScript program in"):
        load_weights(make_network(), tmp_path / "model.ts", name="ckpt")


def test_another_networks_weights_are_refused(tmp_path):
    torch.save(prefixed("module."), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"^student: expected the state_dict of Linear in .*Look again\.$"):
        load_weights(torch.nn.Linear(2, 2), tmp_path / "weights.pt", name="student", advice="Look again.")


def small_resnet(channels=1, classes=2, **sizes):
    options = {"conv1_t_size": [7, 5, 3], "conv1_t_stride": [2, 2, 1], "bias_downsample": False, **sizes}
    blocks = {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [4, 4, 8, 8]}
    return ResNet(spatial_dims=3, n_input_channels=channels, num_classes=classes, **blocks, **options).eval()


def test_a_network_takes_all_of_a_file_but_its_head(tmp_path):
    # for three colors and with the third axis first
    sizes = {"conv1_t_size": [3, 7, 5], "conv1_t_stride": [1, 2, 2]}
    trained = small_resnet(channels=3, classes=5, **sizes)
    with torch.no_grad():
        for weight in trained.parameters():
            weight.normal_(std=0.5)
    state = {f"encoder.{name}": value for name, value in trained.state_dict().items()}
    torch.save({"state_dict": {**state, "text.weight": torch.ones(2)}}, tmp_path / "encoder.pt")
    fresh = small_resnet()
    head = fresh.fc.weight.clone()
    network = with_weights(fresh, tmp_path / "encoder.pt", axes=[1, 2, 0])
    assert network is fresh
    assert torch.equal(network.fc.weight, head)
    network.fc, trained.fc = torch.nn.Identity(), torch.nn.Identity()
    volume = torch.rand(2, 1, 16, 20, 12)
    expected = trained(volume.permute(0, 1, 4, 2, 3).expand(-1, 3, -1, -1, -1))
    torch.testing.assert_close(network(volume), expected, atol=1e-4, rtol=1e-4)
    known = hashlib.sha256((tmp_path / "encoder.pt").read_bytes()).hexdigest()
    assert origin_of(torch.nn.Sequential(network)) == {"files": {"encoder.pt": known}}


def test_a_file_without_a_weight_of_the_network_is_refused(tmp_path):
    state = small_resnet().state_dict()
    del state["layer2.0.conv1.weight"]
    torch.save({**state, "bn1.weight": torch.ones(3)}, tmp_path / "encoder.pt")
    for options, count in (({}, 2), ({"axes": [1, 2, 0]}, 3)):
        message = rf"path: expected all weights of ResNet but its head fc in .* got none of the .* \({count} of"
        with pytest.raises(ValueError, match=message):
            with_weights(small_resnet(), tmp_path / "encoder.pt", **options)
    for path in (None, tmp_path / "none.pt"):
        with pytest.raises(ValueError, match="path: expected a file with weights, got"):
            with_weights(small_resnet(), path)
