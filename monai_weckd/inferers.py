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

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer

__all__ = ["AutocastInferer", "has_bfloat16"]


class AutocastInferer(SimpleInferer):
    """Run a network under bfloat16 autocast where the processor computes in it, and as it is where not.

    bfloat16 has the range of single precision, so that no loss has to be scaled; the losses of this package compute in
    single precision whatever comes in. As the ``inferer`` of a trainer it serves student and teacher alike.
    ``engine.amp`` of MONAI's trainers is for GPUs only.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return what the network makes of the inputs.

        Args:
            inputs: images, (B, C, *spatial dimensions).
            network: the network.
            args: further arguments of the network.
            kwargs: further named arguments of the network.

        """
        device = inputs.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
            return super().__call__(inputs, network, *args, **kwargs)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16: others emulate it, slower than single precision.

    Args:
        device: the device. Of a CPU only torch versions with ``torch.cpu.get_capabilities`` know.

    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    known = ask() if device.type == "cpu" else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16"))
