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


"""Make small untrained checkpoints with timm, and the features that it computes; needs timm and torchvision.

The files here are by timm 1.0.31, with empty stand-ins for torchvision, which these networks do not use.

python tests/testing_data/timm/make.py tests/testing_data/timm
"""

from __future__ import annotations

import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

VIT = {"embed_dim": 8, "depth": 2, "num_heads": 2, "img_size": 12, "patch_size": 4}
CONVNEXT = {"dims": (4, 4, 8, 8), "depths": (1, 1, 2, 1)}


def make(folder: Path, architecture: str, size: int, **arguments) -> None:
    network = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments).eval()
    generator = torch.Generator().manual_seed(1)
    folder.mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        for weight in network.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * (0.3 if weight.ndim > 1 else 0.1))
        image = torch.rand(2, 3, size, size, generator=generator)
        found = {"image": image, "features": network.forward_features(image)}
        options = {} if "convnext" in architecture else {"return_prefix_tokens": True}
        first = network.forward_intermediates(
            image, indices=[0], intermediates_only=True, norm=False, output_fmt="NCHW", **options
        )[0]
    parts = first if options else (first,)
    found |= dict(zip(("block_1", "block_1_prefix"), parts, strict=False))
    save_for_hf(network, folder, model_args=arguments, safe_serialization=True)
    save_file({name: value.contiguous() for name, value in found.items()}, folder / "expected.safetensors")


if __name__ == "__main__":
    make(Path(sys.argv[1]) / "vit", "vit_base_patch16_224", 12, **VIT)
    make(Path(sys.argv[1]) / "vit_dinov2_reg4", "vit_small_patch14_reg4_dinov2", 12, **VIT)
    make(Path(sys.argv[1]) / "convnext", "convnext_atto", 32, **CONVNEXT)
