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

"""Solve a linear head for the labels of several sites, exactly, from sums that each site computes on its own images.

With a frozen backbone, a least squares head is a function of sums over images (AFL, arXiv 2405.16240). Three rounds
give the head of pooled images, however they are divided among the sites: the sums of the features standardize them,
the sums of their products determine the heads, and the sums of the held out errors choose the penalty and the
temperature. Sums of sites add up, and what a site gets is the sums of all, so any transport that adds can carry them.

Example::

    >>> from monai_weckd.fl import ExactSite
    >>> draw = torch.Generator().manual_seed(0)
    >>> labels = torch.arange(40) % 2
    >>> features = torch.randn(40, 3, generator=draw) + 2 * labels[:, None]
    >>> names = [f"patient {number}" for number in range(40)]
    >>> cuts = {"north": slice(0, 10), "south": slice(10, 40)}
    >>> sites = {key: ExactSite(features[cut], labels[cut], names[cut], num_classes=2) for key, cut in cuts.items()}
    >>> moments = add_sums({key: site.moments() for key, site in sites.items()})
    >>> products = add_sums({key: site.products(moments) for key, site in sites.items()})
    >>> held_out = add_sums({key: site.held_out(moments, products) for key, site in sites.items()})
    >>> head = solve_exact(moments, products, held_out)
    >>> head.labels, head.weight.shape, head.balanced_accuracy > 0.8
    (40, torch.Size([2, 3]), True)

"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = ["ExactHead", "Sums", "add_sums", "heads", "label_counts", "solve_exact", "standardization"]

Sums = dict[str, torch.Tensor]

# penalties for each feature: the mean square of an image's inputs is 1, so that these are in the units of a label
PENALTIES = tuple(10 ** (power / 2) for power in range(-2, 2))
TEMPERATURES = tuple(0.9**power for power in range(40))  # 1 to 0.016; the scores of a class are around 0 and 1
# where no label can be held out, as with one patient for each class
DEFAULT_PENALTY, DEFAULT_TEMPERATURE = PENALTIES.index(1), 18
ABSENT = -30.0  # logit, below those of other classes, of a class without a label
# share of the mean square below which a variance is rounding
ROUNDING = 1e-12


@dataclass(frozen=True, eq=False)
class ExactHead:
    """A head for the labels of all sites, calibrated, and what held out labels say about it.

    Args:
        mean: mean of each feature over all images, (D,), float64.
        deviation: standard deviation of each feature, (D,).
        weight: weights for bounded standardized features, (C, D), divided by the temperature.
        bias: (C,), divided by the temperature.
        penalty: strength of the L2 penalty on the weights before that division, for each of the D features.
        temperature: what the scores were divided by.
        labels: number of labels.
        held_out: number of labels by which penalty and temperature were chosen.
        balanced_accuracy: on these, by heads that saw no label of their group; None if there are none.
        bounded: see :py:class:`~monai_weckd.fl.ExactSite`.

    """

    mean: torch.Tensor
    deviation: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    temperature: float
    labels: int
    held_out: int
    balanced_accuracy: float | None
    bounded: bool = True

    @torch.no_grad()
    def write(self, layer: torch.nn.Linear) -> None:
        """Put the head into a layer. One without a bound standardizes nothing: its weights do.

        Args:
            layer: D features, C classes; a :py:class:`~monai_weckd.networks.StandardizedLinear` for a bounded head.

        Raises:
            ValueError: When the layer has another shape or type.

        """
        from monai_weckd.networks import StandardizedLinear  # here: a server that solves a head needs no MONAI

        kind = StandardizedLinear if self.bounded else torch.nn.Linear
        found = tuple(layer.weight.shape)
        if type(layer) is not kind or found != tuple(self.weight.shape):
            raise ValueError(
                f"layer: expected a {kind.__name__} with weights {tuple(self.weight.shape)}, got "
                f"{type(layer).__name__} with {found}. Pass the head of the network of all sites."
            )
        weight, bias = self.weight, self.bias
        if isinstance(layer, StandardizedLinear):
            layer.fit(self.mean, self.deviation)
        else:
            weight = torch.where(self.deviation > 0, weight / self.deviation, 0)
            bias = bias - weight @ self.mean
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)


def add_sums(sums: Mapping[str, Sums]) -> Sums:
    """Return the sums over all sites.

    Args:
        sums: the sums of a round by site.

    Raises:
        ValueError: When there is no site, a site's sums have other names or shapes than the first's, or are not finite.

    """
    if not sums:
        raise ValueError("sums: expected those of a site or more, got none. Wait for a site.")
    first, expected = next((site, _shapes(found)) for site, found in sums.items())
    for site, found in sums.items():
        if _shapes(found) != expected:
            raise ValueError(
                f"sums: expected those of {site} to have the shapes of {first}, {expected}, got {_shapes(found)}. "
                "Use the same bundle and the same classes at all sites."
            )
        bad = [name for name, value in found.items() if not value.isfinite().all()]
        if bad:
            raise ValueError(f"sums: expected finite numbers from {site}, got others in {bad[0]}. Look at its images.")
    names = sums[first]
    return {name: torch.stack([found[name] for found in sums.values()]).sum(dim=0) for name in names}


def solve_exact(moments: Sums, products: Sums, held_out: Sums) -> ExactHead:
    """Return the head that minimizes class-balanced squared errors with an L2 penalty, over the labels of all sites.

    The penalty is the one with the smallest class-balanced squared error on held out groups. The temperature is then
    the one at which they are most likely.

    Args:
        moments: sums of the first round over all sites.
        products: sums of the second round.
        held_out: sums of the third round.

    Raises:
        ValueError: When fewer than two classes have a label.

    """
    counts = label_counts(moments)
    matrix, judged = held_out["confusion"], int(held_out["confusion"][0].sum())
    chosen = int(held_out["errors"].argmin()) if judged else DEFAULT_PENALTY
    heat = TEMPERATURES[int(held_out["surprise"][chosen].argmin()) if judged else DEFAULT_TEMPERATURE]
    penalty = PENALTIES[chosen]
    _, solution = next(heads(products, [penalty]))
    weight, bias = solution[:-1].T / heat, solution[-1] / heat
    bias = torch.where(counts > 0, bias, bias[counts > 0].min() + ABSENT)
    seen = matrix[chosen].sum(dim=1) > 0
    recalls = (matrix[chosen].diagonal() / matrix[chosen].sum(dim=1))[seen]
    mean, deviation = standardization(moments)
    return ExactHead(
        mean,
        deviation,
        weight,
        bias,
        penalty=penalty,
        temperature=heat,
        labels=int(counts.sum()),
        held_out=judged,
        balanced_accuracy=float(recalls.mean()) if judged else None,
        bounded=bool(moments["bounded"] > 0),
    )


def heads(products: Sums, penalties: Sequence[float]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the Cholesky factor of the penalized products, (D + 1, D + 1), and the solution, (D + 1, C)."""
    for penalty in penalties:
        system = products["gram"].clone()
        system.diagonal()[:-1] += penalty * (len(system) - 1)  # not that of the bias
        factor = torch.linalg.cholesky(system)
        yield factor, torch.cholesky_solve(products["cross"], factor)


def label_counts(moments: Sums) -> torch.Tensor:
    """Return the number of labels of each class, (C,).

    Args:
        moments: sums of the first round over all sites.

    Raises:
        ValueError: When fewer than two classes have a label, or a number of labels is not whole, as after a filter that
            clips sums or adds noise.

    """
    counts = moments["labels"]
    if not counts.equal(counts.round().clamp(min=0)):
        raise ValueError(
            f"labels: expected whole numbers of labels, got {', '.join(f'{count:.3g}' for count in counts.tolist())} "
            "for each class. Leave out filters that clip sums or add noise to them."
        )
    if counts.count_nonzero() < 2:
        raise ValueError(
            f"labels: expected labels of two classes or more over all sites, got {counts.int().tolist()} for each "
            "class. Label images of another class."
        )
    return counts


def standardization(moments: Sums) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each feature; 0 where the deviation is within rounding."""
    mean, square = moments["sum"] / moments["images"], moments["squares"] / moments["images"]
    variance = square - mean.square()
    return mean, torch.where(variance > ROUNDING * square, variance, 0).sqrt()


def _shapes(sums: Sums) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sums.items()}
