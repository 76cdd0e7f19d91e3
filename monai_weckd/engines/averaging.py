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

"""Exponential moving average of a network's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from monai_weckd.networks.features import unwrap
from monai_weckd.networks.freezing import freeze

__all__ = ["WeightAverage"]


class WeightAverage:
    """Keep the exponential moving average of a network's weights and buffers.

    Update ``t`` (from 0) is ``average = d * average + (1 - d) * weights`` with ``d = min(decay, (1 + t) / (10 + t))``,
    so that a short training soon forgets its start. Integer buffers are copied, and parameters without gradients stay
    unchanged. Weight averaging after Polyak and Juditsky, SIAM J. Control Optim. 30 (1992).

    Args:
        network: the network that will be trained; the average starts at its weights.
        decay: the factor d in the long run, in [0, 1); 0.0 keeps a copy of the latest weights.

    Example::

        >>> network = torch.nn.Linear(1, 1, bias=False)
        >>> average = WeightAverage(network, decay=0.0)
        >>> _ = torch.nn.init.constant_(network.weight, 3.0)
        >>> average.update()
        >>> average.module.weight.item()
        3.0

    """

    def __init__(self, network: torch.nn.Module, *, decay: float) -> None:
        self.module = freeze(network)
        self.decay = decay
        self.updates = 0
        self.swapped = False
        self._places = list(zip(_places(self.module), _places(unwrap(network)), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        """Add the network's weights to the average; call this after an optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        averages, latest = [], []
        for mine, other in self._pairs():
            if isinstance(other, torch.nn.Parameter) and not other.requires_grad:
                continue
            if mine.is_floating_point():
                averages.append(mine)
                latest.append(other)
            else:
                mine.copy_(other)
        if averages:
            torch._foreach_lerp_(averages, latest, 1 - decay)

    @torch.no_grad()
    def restart(self) -> None:
        """Restart the average at the network's present weights."""
        for mine, other in self._pairs():
            mine.copy_(other)
        self.updates, self.swapped = 0, False

    @torch.no_grad()
    def swap(self) -> None:
        """Swap the network's weights with the average in place; a second call restores both."""
        for mine, other in self._pairs():
            kept = mine.clone()
            mine.copy_(other)
            other.copy_(kept)
        self.swapped = not self.swapped

    def state_dict(self) -> dict[str, Any]:
        """Return the state; while swapped, ``module`` holds the network's own weights."""
        return {"module": self.module.state_dict(), "updates": self.updates, "swapped": self.swapped}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state; the weights of the network itself are not part of it.

        Args:
            state_dict: result of :py:meth:`state_dict`.

        """
        self.module.load_state_dict(state_dict["module"])
        self.updates, self.swapped = state_dict["updates"], state_dict["swapped"]

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for (mine, name), (other, _) in self._places:
            yield mine[name], other[name]


def _places(network: torch.nn.Module) -> list[tuple[dict[str, Any], str]]:
    """Return the dictionary that holds each weight and buffer, and its name there; too slow to call in every step.

    The result holds no tensors, since a module may replace its buffers. A shared tensor appears once.
    """
    found = {}
    for module in network.modules():
        for holder in (module._parameters, module._buffers):
            found.update({id(tensor): (holder, name) for name, tensor in holder.items() if tensor is not None})
    return list(found.values())
