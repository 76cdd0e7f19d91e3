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


"""Small untrained vision networks, in folders as transformers writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", reason='transformers is not installed: pip install ".[backbones]"')

WIDE = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
VIT = {**WIDE, "intermediate_size": 48, "image_size": 224, "patch_size": 16}
DINOV2 = {**WIDE, "image_size": 518, "patch_size": 14}
STAGES = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 2, 1]}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
TOWERS = {"vision_config": VIT, "text_config": {**TEXT, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}}
# by kind: the name in transformers, and its settings
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "dinov2": ("Dinov2", DINOV2),
    "dinov2_with_registers": ("Dinov2WithRegisters", {**DINOV2, "num_register_tokens": 4}),
    "dinov3_vit": ("DINOv3ViT", {**VIT, "num_register_tokens": 4}),
    "dinov3_convnext": ("DINOv3ConvNext", STAGES),
    "convnext": ("ConvNext", STAGES),
    "convnextv2": ("ConvNextV2", STAGES),
    "vit": ("ViT", VIT),
    "clip": ("CLIP", TOWERS),
    "clip_vision_model": ("CLIPVision", VIT),
    "siglip": ("Siglip", TOWERS),
    "siglip_vision_model": ("SiglipVision", VIT),
}
COLORS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
# as in the folders of the released networks
PREPROCESSING = {
    **COLORS,
    "crop_size": {"height": 224, "width": 224},
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "size": {"shortest_edge": 256},
}


def build(kind: str) -> torch.nn.Module:
    """Return an untrained network with weights that are larger than those of a fresh one, in eval mode."""
    name, settings = NETWORKS[kind]
    network = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**settings))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.2 if weight.ndim > 1 else 0.5))
    return network.eval()


def write(folder: Path, kind: str = "dinov2", *, preprocessing: dict[str, Any] | None = None, **options) -> Path:
    """Write a network into a folder as transformers does, with its preprocessing; returns the folder."""
    build(kind).save_pretrained(folder, **options)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing or PREPROCESSING))
    return folder


def changed(folder, name, **changes):
    content = json.loads((folder / name).read_text())
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    (folder / name).write_text(json.dumps(content))
