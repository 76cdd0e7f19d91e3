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

"""A network that averages the logits of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_weckd.utils.tensors import map_tensors

__all__ = ["MeanLogits"]


class MeanLogits(torch.nn.Module):
    """Average the logits of several networks, which gives the geometric mean of their probabilities up to scale.

    Dense guidance by all predecessors after Son et al., "Densely Guided Knowledge Distillation", arXiv 2009.08825;
    an ensemble of generations after Furlanello et al., "Born-Again Networks", arXiv 1805.04770.

    Args:
        networks: networks that give logits of one shape, or tuples or dictionaries with them.

    Raises:
        ValueError: When there is no network.

    """

    def __init__(self, networks: Sequence[torch.nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("networks: expected at least one, got none. Pass the accepted students.")
        self.networks = torch.nn.ModuleList(networks)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the mean of the networks' logits, (B, C), and of each other output that they give with them.

        Args:
            args: arguments of the networks.
            kwargs: named arguments of the networks.

        """
        return map_tensors(_mean, *(network(*args, **kwargs) for network in self.networks))


def _mean(*tensors: torch.Tensor) -> torch.Tensor:
    return torch.stack(tensors).mean(dim=0) if tensors[0].is_floating_point() else tensors[0]
