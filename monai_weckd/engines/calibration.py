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

"""Temperature scaling: fit a temperature on labeled items, and build it into the last layer."""

from __future__ import annotations

import torch

from monai_weckd.networks.features import find_head, find_module, unwrap

__all__ = ["divide_logits", "fit_temperature", "fit_temperatures", "head_parameters"]

# limits of a temperature: a network without errors on a few validation items would yield 0
LOWEST, HIGHEST = 0.5, 10.0


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature T for which logits divided by T give the labels the highest likelihood.

    The log-likelihood is a concave function of ``1 / T``. Bisection finds the zero of its slope, for T from 0.5 to 10.
    Temperature scaling after Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599.

    Args:
        logits: (N, C).
        labels: class numbers, (N,).

    Raises:
        ValueError: When there is no item.

    Example::

        >>> logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, -4.0]])
        >>> round(fit_temperature(logits, torch.tensor([0, 0, 0, 1])), 3)  # right in 3 of 4: 4 / T = log 3
        3.641

    """
    if len(labels) == 0:
        raise ValueError("labels: expected at least one, got none. Pass validation items.")
    return float(fit_temperatures(logits, labels, torch.ones(1, len(labels))))


def fit_temperatures(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return temperatures, (B,), one for each of several ways to weight the items; see :py:func:`fit_temperature`.

    Args:
        logits: (N, C).
        labels: class numbers, (N,).
        weights: how much each item counts, (B, N), each row with a positive sum.

    """
    values = logits.detach().cpu().double()
    weights = weights / weights.sum(dim=1, keepdim=True, dtype=torch.float64)
    right = weights @ values.gather(1, labels.cpu().long().reshape(-1, 1))[:, 0]
    low, high = (torch.full_like(right, 1 / limit) for limit in (HIGHEST, LOWEST))
    for _ in range(30):  # to nine digits
        middle = (low * high).sqrt()
        expected = (torch.softmax(middle[:, None, None] * values, dim=2) * values).sum(dim=2)
        above = right > (weights * expected).sum(dim=1)
        low, high = middle.where(above, low), high.where(above, middle)
    return 1 / (low * high).sqrt()


@torch.no_grad()
def divide_logits(network: torch.nn.Module, temperature: float, *, head_layer: str | None = None) -> None:
    """Divide a network's logits by a temperature permanently, in the weights of its last layer.

    Args:
        network: the network.
        temperature: the divisor.
        head_layer: module path of the last layer, default None: the last linear layer.

    Raises:
        ValueError: When that layer has no weight to divide.

    """
    for tensor in head_parameters(network, head_layer):
        tensor.div_(temperature)


def head_parameters(network: torch.nn.Module, head_layer: str | None = None) -> list[torch.nn.Parameter]:
    """Return the parameters of a network's last layer.

    Args:
        network: the network.
        head_layer: module path of the last layer, default None: the last linear layer.

    Raises:
        ValueError: When that layer has no weight to divide.

    """
    network = unwrap(network)
    path = find_head(network, head_layer)
    head = find_module(network, path)
    if not isinstance(getattr(head, "weight", None), torch.Tensor):
        raise ValueError(
            f"head_layer: expected a layer with a weight, got {path!r} ({type(head).__name__}). "
            "Name the last linear layer."
        )
    return list(head.parameters())
