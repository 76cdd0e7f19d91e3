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

"""Take the logits out of what a network returns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

__all__ = ["TakeOutput", "take_output", "taking"]


class TakeOutput(torch.nn.Module):
    """Make one of a network's several outputs its only one.

    MONAI's ``ViT`` returns a tuple, other networks a dictionary. Trainers, evaluators and handlers expect logits.

    Args:
        network: the network; its layers are then below ``network.``.
        index: position in its tuple, key in its dictionary, or field of its named tuple or dataclass.

    Example::

        >>> class Attention(torch.nn.MultiheadAttention):
        ...     def forward(self, x):
        ...         return super().forward(x, x, x)
        >>> TakeOutput(Attention(4, 2), 0)(torch.zeros(5, 4)).shape
        torch.Size([5, 4])

    """

    def __init__(self, network: torch.nn.Module, index: int | str = 0) -> None:
        super().__init__()
        self.network = network
        self.index = index

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return that output, (B, C), of a call of the network.

        Args:
            args: arguments of the network.
            kwargs: its named arguments.

        """
        return take_output(self.network(*args, **kwargs), self.index, of="network")


def take_output(output: Any, index: int | str | None, *, of: str) -> torch.Tensor:
    """Return the logits among a network's outputs.

    Args:
        output: what the network returned. A tensor is returned as it is, since some networks return a tuple only in
            train mode.
        index: position in a tuple, key in a dictionary, or field of a named tuple or dataclass; None if a tensor is
            expected.
        of: whose output it is, for errors.

    Raises:
        ValueError: When there are several outputs and no ``index``, or the ``index`` names no tensor among them.

    """
    if isinstance(output, torch.Tensor):
        return output
    outputs = _named(output)
    kind = f"{type(output).__name__} of {', '.join(map(str, outputs)) or 'none'}"
    if index is None:
        first = next(iter(outputs), 0)
        raise ValueError(
            f"{of}: expected logits, (B, C), as the only output, got {kind}. Wrap it: "
            f"monai_weckd.networks.TakeOutput(network, {first!r}), or pass output_index={first!r} to the handler."
        )
    if isinstance(output, (tuple, list)):
        outputs |= {place - len(output): part for place, part in enumerate(output)}
    found = outputs.get(index)
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"output_index: expected a tensor among the outputs of the {of}, got {index!r} for {kind}.")
    return found


def _named(output: Any) -> dict[Any, Any]:
    """Return the outputs by their positions, keys or fields."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, (tuple, list)):
        return {**dict(enumerate(output)), **{name: getattr(output, name) for name in getattr(output, "_fields", ())}}
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return {}


def taking(inferer: Callable | None, index: int | str | None) -> Callable[..., torch.Tensor]:
    """Return an inferer that gives the logits among a network's outputs.

    Args:
        inferer: calls a network, ``(images, network) -> output``; None: call it directly.
        index: see :py:func:`take_output`.

    """

    def infer(images: torch.Tensor, network: Callable, *args: Any, **kwargs: Any) -> torch.Tensor:
        output = inferer(images, network, *args, **kwargs) if inferer else network(images, *args, **kwargs)
        return take_output(output, index, of="network")

    return infer
