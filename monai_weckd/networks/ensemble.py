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

"""Networks that combine the answers of several networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from monai_weckd.utils.tensors import map_tensors

__all__ = ["ClassExperts", "MeanLogits"]


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


class ClassExperts(torch.nn.Module):
    """Mix the probabilities of several networks, each class by how many labels of it a network has learned from.

    With n[k, c] labels of class c behind network k, the probability of class c is in proportion to the sum over k of
    n[k, c] / (n[1, c] + n[2, c] + ...) times what network k gives it. So a network that has seen no image of a class
    has no say about it. A class that none has seen is the plain mean. The idea that teachers of a federated sequence
    are weighed by their classes is that of SFedKD, arXiv 2507.08508; the formula is simpler.

    Args:
        networks: K networks that give logits, (B, C).
        labels: labels of each class, (K, C), 0 or more.

    Raises:
        ValueError: When there is no network, or not a row of labels for each.

    Example::

        >>> experts = ClassExperts([torch.nn.Identity(), torch.nn.Identity()], torch.tensor([[3, 0], [1, 5]]))
        >>> experts.weights
        tensor([[0.7500, 0.0000],
                [0.2500, 1.0000]])

    """

    weights: torch.Tensor

    def __init__(self, networks: Sequence[torch.nn.Module], labels: torch.Tensor) -> None:
        super().__init__()
        if labels.ndim != 2 or len(labels) != len(networks) or not networks:
            raise ValueError(
                f"labels: expected a row for each of the networks, one or more, got {len(networks)} networks and the "
                f"shape {tuple(labels.shape)}. Pass the labels of each class that a network has learned from."
            )
        self.networks = torch.nn.ModuleList(networks)
        counts = labels.float()
        counts = torch.where(counts.sum(dim=0) > 0, counts, torch.ones_like(counts))
        self.register_buffer("weights", counts / counts.sum(dim=0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logarithms of the probabilities, (B, C).

        Args:
            images: a batch that the networks take.

        """
        logits = torch.stack([network(images) for network in self.networks], dim=1)  # (B, K, C)
        # log of weights may be -inf, which logsumexp takes: some network has seen each class
        mixed = torch.logsumexp(torch.log_softmax(logits, dim=2) + self.weights.log(), dim=1)
        return torch.log_softmax(mixed, dim=1)


def _mean(*tensors: torch.Tensor) -> torch.Tensor:
    return torch.stack(tensors).mean(dim=0) if tensors[0].is_floating_point() else tensors[0]
