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
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from monai_weckd.networks import LocalBackbone
from monai_weckd.networks.timm_weights import to_transformers

TIMM = Path(__file__).parents[1] / "testing_data" / "timm"


@pytest.mark.parametrize("name", ["vit", "vit_dinov2_reg4", "convnext"])
def test_weights_of_timm_give_the_features_of_timm(name):
    known = load_file(TIMM / name / "expected.safetensors")
    network = LocalBackbone(TIMM / name, layers=[1]).eval()
    scale, shift = network.scale, network.shift
    network.scale, network.shift = torch.ones(1), torch.zeros(1)  # these images are normalized
    with torch.no_grad():
        found = network.features(known["image"])
    block, last = known["block_1"].mean(dim=(2, 3)), known["features"]
    if name == "convnext":
        parts = [block, last.mean(dim=(2, 3))]
    else:
        parts = [known["block_1_prefix"][:, 0], block, last[:, 0], last[:, -9:].mean(dim=1)]
    torch.testing.assert_close(found, torch.cat(parts, dim=1), atol=1e-4, rtol=1e-4)
    mean, std = (
        torch.tensor(json.loads((TIMM / name / "config.json").read_text())["pretrained_cfg"][key])
        for key in ("mean", "std")
    )
    torch.testing.assert_close((0 * scale + shift).flatten(), (0.5 - mean) / std)


def test_a_vision_tower_of_open_clip(tmp_path):
    weights = {f"visual.trunk.{name}": value for name, value in load_file(TIMM / "vit" / "model.safetensors").items()}
    weights |= {"visual.head.proj.weight": torch.ones(2, 8), "text.proj.weight": torch.ones(1)}
    torch.save(weights, tmp_path / "open_clip_pytorch_model.bin")
    tower = {"timm_model_name": "vit_base_patch16_224", "image_size": 12}
    colors = {"mean": [0.5] * 3, "std": [0.5] * 3}
    config = {"model_cfg": {"vision_cfg": tower, "model_args": {}}, "preprocess_cfg": colors}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    network = LocalBackbone(tmp_path)
    assert network.network.config.num_attention_heads == 1  # timm's are 64 wide; the file names none
    own = network.network.state_dict()["encoder.layer.0.mlp.fc1.weight"]
    assert torch.equal(own, weights["visual.trunk.blocks.0.mlp.fc1.weight"])


def test_a_file_of_dinov2_itself(tmp_path):
    weights = load_file(TIMM / "vit" / "model.safetensors")
    weights |= {"mask_token": torch.zeros(1, 8)}
    weights |= {f"blocks.{number}.ls{place}.gamma": torch.ones(8) for number in (0, 1) for place in (1, 2)}
    torch.save(weights, tmp_path / "dinov2_vits14_pretrain.pth")
    shutil.copy(TIMM / "vit" / "config.json", tmp_path)
    image = torch.rand(2, 3, 12, 12)
    one, other = LocalBackbone(tmp_path / "dinov2_vits14_pretrain.pth").eval(), LocalBackbone(TIMM / "vit").eval()
    torch.testing.assert_close(one.features(image), other.features(image))


@pytest.mark.parametrize("name", ["norm_pre.weight", "blocks.0.attn.q_norm.weight", "attn_pool.q.weight"])
def test_parts_of_timm_that_have_no_counterpart_are_refused(name):
    weights = {**load_file(TIMM / "vit" / "model.safetensors"), name: torch.ones(8)}
    with pytest.raises(ValueError, match=f"path: expected a plain ViT or ConvNeXt in here, got one with {name}"):
        to_transformers(weights, heads=None, where="here")


def test_another_network_of_timm_is_refused():
    with pytest.raises(ValueError, match="expected a ViT with a class token, or a ConvNeXt, in here, got another"):
        to_transformers({"conv1.weight": torch.ones(8)}, heads=None, where="here")


@pytest.mark.parametrize("heads", [None, 2])
def test_heads_for_classes_are_left_out(heads):
    weights = load_file(TIMM / "vit" / "model.safetensors")
    config, found = to_transformers({**weights, "head.weight": torch.ones(2, 8)}, heads=heads, where="here")
    assert config["num_attention_heads"] == (heads or 1)  # timm's are 64 wide
    assert not any("head" in name for name in found)
