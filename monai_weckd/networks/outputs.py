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

from collections.abc import Mapping, Sequence
from typing import Any

import torch

__all__ = ["TakeOutput", "take_output"]


class TakeOutput(torch.nn.Module):
    """Make one of a network's several outputs its only one.

    MONAI's ``ViT`` returns a tuple, other networks a dictionary. Trainers, evaluators and handlers expect logits.

    Args:
        network: the network; its layers are then below ``network.``.
        index: position in its tuple, or key in its dictionary.

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
        index: position in a tuple, or key in a dictionary; None if a tensor is expected.
        of: whose output it is, for errors.

    Raises:
        ValueError: When there are several outputs and no ``index``, or the ``index`` names no tensor among them.

    """
    if isinstance(output, torch.Tensor):
        return output
    names: Sequence[Any] = list(output) if isinstance(output, Mapping) else ()
    if isinstance(output, (tuple, list)):
        names = range(len(output))
    kind = f"{type(output).__name__} of {', '.join(map(str, names)) or 'none'}"
    if index is None:
        first = next(iter(names), 0)
        raise ValueError(
            f"{of}: expected logits, (B, C), as the only output, got {kind}. Wrap it: "
            f"monai_weckd.networks.TakeOutput(network, {first!r}), or pass output_index={first!r} to the handler."
        )
    found = output[index] if index in names or (isinstance(index, int) and -len(names) <= index < 0) else None
    if not isinstance(found, torch.Tensor):
        raise ValueError(f"output_index: expected a tensor among the outputs of the {of}, got {index!r} for {kind}.")
    return found
