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

__all__ = ["divide_logits", "fit_scalings", "fit_temperature", "fit_temperatures", "head_parameters"]

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


def fit_scalings(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a scale and an offset for the logit of each finding, with which they fit the labels best, (F,) each.

    It is Platt's scaling ("Probabilistic outputs for support vector machines", 1999): the targets are (n1 + 1) / (n1 +
    2) where a finding is present, and 1 / (n0 + 2) where it is absent, so that a few labels without an error do not
    give certainty. Unlike a temperature, the offset can undo the balance of a rare finding. The scale is from 0.1 to 2,
    as the temperature of :py:func:`fit_temperature` is from 0.5 to 10.

    Args:
        logits: (N, F); NaN is left out.
        labels: (N, F), 1, 0, and -1 or NaN where a finding is unknown.

    Returns:
        Scale and offset in double precision; 1 and 0 for a finding without labels of both outcomes.

    Example::

        >>> logits = torch.tensor([[4.0], [4.0], [4.0], [-4.0], [-4.0], [-4.0]])
        >>> scale, offset = fit_scalings(logits, torch.tensor([[1], [1], [0], [0], [0], [1]]))
        >>> torch.sigmoid(logits[:1] * scale + offset)  # four of six are right, and Platt's targets are less certain
        tensor([[0.6000]], dtype=torch.float64)

    """
    values, truth = logits.detach().cpu().double(), labels.detach().cpu().double()
    known = (truth >= 0) & ~values.isnan()
    present = known & (truth > 0)
    positive, negative = present.sum(dim=0), (known & ~present).sum(dim=0)
    values, weight = values.where(known, torch.zeros_like(values)), known.double()
    target = torch.where(present, (positive + 1) / (positive + 2), 1 / (negative + 2))
    low, high = (torch.full((values.shape[1],), 1 / limit, dtype=torch.float64) for limit in (HIGHEST, LOWEST))
    for _ in range(30):  # the least loss of each scale is a convex function of it
        scale = (low * high).sqrt()
        error = (torch.sigmoid(values * scale + _best_offset(values * scale, target, weight)) - target) * weight
        above = (error * values).sum(dim=0) < 0
        low, high = scale.where(above, low), high.where(above, scale)
    scale = (low * high).sqrt()
    offset = _best_offset(values * scale, target, weight)
    both = (positive > 0) & (negative > 0)
    return scale.where(both, torch.ones_like(scale)), offset.where(both, torch.zeros_like(offset))


def _best_offset(logits: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return the offset at which the mean probability is the mean target, (F,)."""
    low, high = (torch.full((logits.shape[1],), limit, dtype=torch.float64) for limit in (-50.0, 50.0))
    for _ in range(40):
        middle = (low + high) / 2
        above = ((torch.sigmoid(logits + middle) - target) * weight).sum(dim=0) < 0
        low, high = middle.where(above, low), high.where(above, middle)
    return (low + high) / 2


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
