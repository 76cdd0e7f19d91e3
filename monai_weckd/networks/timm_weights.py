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

"""Turn the weights of timm's ViT and ConvNeXt, and of DINOv2's own files, into those of ``transformers``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["to_transformers"]

_Weights = dict[str, torch.Tensor]
_Names = Sequence[tuple[str, str]]

_VIT: _Names = (
    (r"cls_token|mask_token|register_tokens", r"embeddings.\g<0>"),
    (r"pos_embed", "embeddings.position_embeddings"),
    (r"patch_embed\.proj\.(\w+)", r"embeddings.patch_embeddings.projection.\1"),
    (r"norm\.(\w+)", r"layernorm.\1"),
    (r"blocks\.(\d+)\.(norm[12]|mlp\.fc[12])\.(\w+)", r"encoder.layer.\1.\2.\3"),
    (r"blocks\.(\d+)\.attn\.(query|key|value)\.(\w+)", r"encoder.layer.\1.attention.attention.\2.\3"),
    (r"blocks\.(\d+)\.attn\.proj\.(\w+)", r"encoder.layer.\1.attention.output.dense.\2"),
    (r"blocks\.(\d+)\.ls([12])\.gamma", r"encoder.layer.\1.layer_scale\2.lambda1"),
)
_CONVNEXT: _Names = (
    (r"stem\.0\.(\w+)", r"embeddings.patch_embeddings.\1"),
    (r"stem\.1\.(\w+)", r"embeddings.layernorm.\1"),
    (r"head\.norm\.(\w+)", r"layernorm.\1"),
    (r"stages\.(\d+)\.downsample\.([01])\.(\w+)", r"encoder.stages.\1.downsampling_layer.\2.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.(\w+)", r"encoder.stages.\1.layers.\2.dwconv.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.norm\.(\w+)", r"encoder.stages.\1.layers.\2.layernorm.\3"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.mlp\.fc([12])\.(\w+)", r"encoder.stages.\1.layers.\2.pwconv\3.\4"),
    (r"stages\.(\d+)\.blocks\.(\d+)\.gamma", r"encoder.stages.\1.layers.\2.layer_scale_parameter"),
)
# heads of the attention, where they are not 64 wide
_HEADS = {1152: 16, 1280: 16}
_ADVICE = "Use the same model as transformers has it."
_TOWER = "visual.trunk."  # of open_clip, beside the text tower


def to_transformers(
    weights: Mapping[str, torch.Tensor], *, heads: int | None, where: str
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the configuration and the weights of the same network in ``transformers``.

    A ViT becomes a ``dinov2``, with ``dinov2_with_registers`` for registers; without layer scale, its scales are 1. A
    ConvNeXt becomes a ``convnext``. Heads for classes are left out.

    Args:
        weights: tensors by the names of timm, of DINOv2's own files, or of open_clip.
        heads: number of heads of the attention, None: as the architectures of timm have it.
        where: the place of the weights, for errors.

    Raises:
        ValueError: When it is another network, or has parts that these do not have.

    """
    own = {name.removeprefix(_TOWER): value for name, value in weights.items() if name.startswith(_TOWER)}
    own = own or dict(weights)
    own = {name: value for name, value in own.items() if not re.match(r"head\.(?!norm)|head_dist", name)}
    if "patch_embed.proj.weight" in own and "cls_token" in own:
        config, found = _vit(own, heads)
        names = _VIT
    elif "stem.0.weight" in own:
        config, found = _convnext(own)
        names = _CONVNEXT
    else:
        raise ValueError(f"path: expected a ViT with a class token, or a ConvNeXt, in {where}, got another. {_ADVICE}")
    return config, {_renamed(name, names, where): value for name, value in found.items()}


def _renamed(name: str, names: _Names, where: str) -> str:
    for pattern, new in names:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(new)
    raise ValueError(f"path: expected a plain ViT or ConvNeXt in {where}, got one with {name}. {_ADVICE}")


def _count(weights: _Weights, pattern: str) -> int:
    """Return the number of blocks, by the first number in their names."""
    return 1 + max(int(match[1]) for match in (re.match(pattern, name) for name in weights) if match)


def _vit(weights: _Weights, heads: int | None) -> tuple[dict[str, Any], _Weights]:
    """Return the configuration of a ViT, and its weights with one class position and separate projections."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = _count(weights, r"blocks\.(\d+)\.")
    found: _Weights = {}
    for name, value in weights.items():
        if ".attn.qkv." in name:
            parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
            found |= {name.replace("qkv", part): projection for part, projection in parts}
        else:
            found["register_tokens" if name == "reg_token" else name] = value
    for number in range(depth):
        for scale in ("ls1", "ls2"):
            found.setdefault(f"blocks.{number}.{scale}.gamma", torch.ones(width))
    positions = found["pos_embed"]
    side = int(positions.shape[1] ** 0.5)
    if side * side == positions.shape[1]:  # without one for the class token, as timm has it beside registers
        found["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
    registers = found["register_tokens"].shape[1] if "register_tokens" in found else 0
    config = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads or _HEADS.get(width, max(1, width // 64)),
        "mlp_ratio": weights["blocks.0.mlp.fc1.weight"].shape[0] // width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in weights,
        "layer_norm_eps": 1e-6,
        "patch_size": patch,
        "image_size": side * patch,
    }
    if registers:
        config["num_register_tokens"] = registers
    found.setdefault("mask_token", torch.zeros(1, width))  # of the training alone
    return config, found


def _convnext(weights: _Weights) -> tuple[dict[str, Any], _Weights]:
    """Return the configuration of a ConvNeXt, and its weights with linear layers in place of 1 x 1 convolutions."""
    stages = range(_count(weights, r"stages\.(\d+)\."))
    found = {
        name: value.flatten(1) if ".mlp.fc" in name and value.ndim == 4 else value for name, value in weights.items()
    }
    config = {
        "model_type": "convnext",
        "num_stages": len(stages),
        "hidden_sizes": [weights[f"stages.{stage}.blocks.0.gamma"].shape[0] for stage in stages],
        "depths": [_count(weights, rf"stages\.{stage}\.blocks\.(\d+)\.") for stage in stages],
        "patch_size": weights["stem.0.weight"].shape[-1],
        "layer_norm_eps": 1e-6,
    }
    return config, found
