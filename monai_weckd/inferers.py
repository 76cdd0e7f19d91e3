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

"""Inferers for MONAI engines: bfloat16 autocast, and calls of the classification head alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer

from monai_weckd.networks.ensemble import MeanLogits
from monai_weckd.networks.features import find_head, unwrap

__all__ = ["AutocastInferer", "HeadInferer", "has_bfloat16"]


class AutocastInferer(SimpleInferer):
    """Run a network under bfloat16 autocast if the device supports it, and in its own precision otherwise.

    bfloat16 has the range of single precision, so losses need no scaling. The losses of this package always compute in
    single precision. A trainer uses its ``inferer`` for both student and teacher.
    MONAI's ``engine.amp`` works on GPUs only.
    """

    def __call__(self, inputs: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the output of the network.

        Args:
            inputs: images, (B, C, spatial dimensions).
            network: the network.
            args: further arguments of the network.
            kwargs: further named arguments of the network.

        """
        device = inputs.device
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16(device)):
            return super().__call__(inputs, network, *args, **kwargs)


class HeadInferer(Inferer):
    """Call only the head of a network on embeddings, (B, D), and the whole network on images.

    Args:
        head_layer: module path of the head, default None: see :py:func:`monai_weckd.networks.features.find_head`.
        inferer: calls the whole network on images, default None: call it directly. The head is always called directly.

    Example::

        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> inferer, images = HeadInferer(), torch.rand(5, 1, 2, 2)
        >>> torch.equal(inferer(network[:2](images), network), inferer(images, network))
        True

    """

    def __init__(self, head_layer: str | None = None, *, inferer: Callable | None = None) -> None:
        self.head_layer = head_layer
        self.inferer: Callable = inferer or SimpleInferer()

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the logits, (B, C).

        Args:
            inputs: embeddings, (B, D), or images, (B, C, spatial dimensions).
            network: the whole network; student and teachers share one architecture.
            args: further arguments of the network, for images.
            kwargs: further named arguments of the network, for images.

        """
        if inputs.ndim > 2:
            return self.inferer(inputs, network, *args, **kwargs)
        if self.head_layer is None:
            self.head_layer = find_head(network)
        network = unwrap(network)
        if isinstance(network, MeanLogits):
            return torch.stack([self(inputs, member) for member in network.networks]).mean(dim=0)
        return network.get_submodule(self.head_layer)(inputs)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has bfloat16 instructions; other devices emulate it, slower than single precision.

    Args:
        device: the device. For a CPU, the answer needs a torch version with ``torch.cpu.get_capabilities``.

    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    ask: Callable[[], dict[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
    known = ask() if device.type == "cpu" else {}
    return bool(known.get("avx512_bf16") or known.get("amx_bf16") or known.get("bf16"))
