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

import pytest
import torch

from monai_weckd.engines import fingerprint
from monai_weckd.networks import OnnxNetwork, load_teacher


def make_network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()


def test_args_validation(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"teacher: expected a network, .* got .*absent\.pt, which is not"):
        load_teacher(tmp_path / "absent.pt")
    torch.save(make_network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"network: expected the network of the weights in weights\.pt, got None"):
        load_teacher(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"teacher: expected the state_dict of Linear in weights\.pt, got another"):
        load_teacher(tmp_path / "weights.pt", network=torch.nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError, match=r"expected a bundle with models/model\.pt, got"):
        load_teacher(tmp_path)


def test_weights_go_into_a_copy(tmp_path):
    network, trained = make_network(0), make_network(1)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    before = fingerprint(network)
    assert fingerprint(load_teacher(tmp_path / "weights.pt", network=network)) == fingerprint(trained)
    assert fingerprint(network) == before
    assert load_teacher(network) is network


def test_an_exported_network_says_the_same(tmp_path):
    network, images = make_network(), torch.rand(4, 3, 8, 8)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        network, (images,), tmp_path / "network.onnx", dynamo=True, dynamic_shapes=[{0: batch}], verbose=False
    )
    teacher = load_teacher(tmp_path / "network.onnx")
    assert isinstance(teacher, OnnxNetwork)
    with torch.inference_mode():
        assert torch.allclose(teacher(images), network(images), atol=1e-5)
        assert teacher(images[:1]).shape == (1, 4)
    torch.jit.script(network).save(tmp_path / "network.ts")
    with torch.inference_mode():
        assert torch.equal(load_teacher(tmp_path / "network.ts")(images), network(images))


def test_nothing_is_unpickled(tmp_path):
    torch.save(make_network(), tmp_path / "module.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_teacher(tmp_path / "module.pt", network=make_network())
