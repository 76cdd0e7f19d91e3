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

import numpy as np
import torch

from monai_weckd.networks.pooled import StandardizedLinear

__all__ = ["ExactHead", "ExactSite", "Sums", "add_sums", "label_counts", "solve_exact"]

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
        bounded: see :py:class:`ExactSite`.

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


class ExactSite:
    """What a site computes on its own images. Only sums leave it, and it keeps nothing between the rounds.

    Args:
        features: features of all training images, with a label or not, (N, D).
        labels: class of each, -1 without a label, (N,).
        groups: group of each, N names. All images of a group must be at one site.
        num_classes: number of classes, C, the same at all sites; a site may lack some, or labels altogether.
        bounded: whether the head bounds the standardized features, as a
            :py:class:`~monai_weckd.networks.StandardizedLinear` does, default True. A ``torch.nn.Linear`` does not.

    Raises:
        ValueError: When a feature is not finite, or a label is out of range.

    """

    def __init__(
        self,
        features: torch.Tensor,
        labels: torch.Tensor,
        groups: Sequence[str],
        *,
        num_classes: int,
        bounded: bool = True,
    ) -> None:
        _check(features, labels, groups, num_classes)
        self._bounded = bounded
        self._features, self._labels = features.double(), labels.long()
        self._groups = np.unique(np.asarray(list(groups), dtype=object).astype(str), return_inverse=True)[1]
        self._classes = num_classes

    def moments(self) -> Sums:
        """Return the sums of the first round.

        Returns:
            ``images``, their number, (1,), and how many have ``bounded`` features, (1,): all or none; ``sum`` and
            ``squares`` of each feature over all images, (D,); ``labels`` of each class, (C,); ``groups`` with a label
            of each class, (C,); all float64.

        """
        known = self._labels >= 0
        pairs = np.unique(np.stack([self._groups, self._labels.numpy()])[:, known.numpy()], axis=1)
        images = torch.tensor([float(len(self._labels))], dtype=torch.float64)
        return {
            **{"images": images, "bounded": images * self._bounded},
            "sum": self._features.sum(dim=0),
            "squares": self._features.square().sum(dim=0),
            "labels": self._count(self._labels[known]),
            "groups": self._count(torch.from_numpy(pairs[1])),
        }

    def products(self, moments: Sums) -> Sums:
        """Return the sums of the second round, over labeled images with weights that balance the classes.

        Args:
            moments: sums of the first round over all sites.

        Returns:
            ``gram``, products of inputs, of which the last is 1, (D + 1, D + 1); ``cross``, products of inputs and
            classes, (D + 1, C).

        """
        rows, target, _ = self._weighted(moments)
        return {"gram": rows.T @ rows, "cross": rows.T @ target}

    def held_out(self, moments: Sums, products: Sums) -> Sums:
        """Return the sums of the third round: how well heads that saw no label of a group predict the group.

        A head without a group follows from the head with it: ``y - p = (1 - H)^-1 (y - f)`` for the group's labels y,
        the predictions f and p with and without it, and its block H of the hat matrix. The weights of the labels and
        the standardization stay. Labels of classes that no other group has are left out.

        Args:
            moments: sums of the first round over all sites.
            products: sums of the second round over all sites.

        Returns:
            ``errors``, the weighted sum of squared errors with each penalty, (P,); ``surprise``, the sum of
            ``-log p(label)`` at each temperature, (P, T); ``confusion``, labels of a class (rows) that were predicted
            as another (columns), (P, C, C).

        """
        rows, target, weight = self._weighted(moments)
        known = self._labels >= 0
        labels, groups = self._labels[known], self._groups[known.numpy()]
        judged = (moments["groups"] > 1)[labels]
        parts = [torch.from_numpy(np.flatnonzero(groups == group)) for group in np.unique(groups)]
        parts = [part for part in parts if judged[part].any()]
        errors = [_errors(rows, target, parts, *head) for head in _heads(products, PENALTIES)]
        # to their own scale, where a label is 1
        scores = [(target - error) / weight.sqrt()[:, None] for error in errors]
        return {
            "errors": torch.stack([error[judged].square().sum() for error in errors]),
            "surprise": torch.stack([_surprise(score[judged], labels[judged]) for score in scores]),
            "confusion": torch.stack([self._confusion(score[judged], labels[judged]) for score in scores]),
        }

    def _count(self, labels: torch.Tensor) -> torch.Tensor:
        return torch.bincount(labels, minlength=self._classes).double()

    def _weighted(self, moments: Sums) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return inputs, (N, D + 1), and classes, (N, C), of the labels, times the roots of their weights, (N,)."""
        known = self._labels >= 0
        labels, counts = self._labels[known], label_counts(moments)
        weight = (counts.sum() / (counts.count_nonzero() * counts.clamp(min=1)))[labels]
        inputs = self._inputs(self._features[known], *_standardization(moments))
        target = torch.nn.functional.one_hot(labels, self._classes).double()
        root = weight.sqrt()[:, None]
        return torch.cat([inputs, torch.ones_like(root)], dim=1) * root, target * root, weight

    def _inputs(self, features: torch.Tensor, mean: torch.Tensor, deviation: torch.Tensor) -> torch.Tensor:
        if not self._bounded:
            return torch.where(deviation > 0, (features - mean) / deviation, 0)
        layer = StandardizedLinear(features.shape[1], 1).double()
        layer.fit(mean, deviation)
        return layer.standardize(features)

    def _confusion(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        pairs = labels * self._classes + scores.argmax(dim=1)
        return torch.bincount(pairs, minlength=self._classes**2).double().view(self._classes, -1)


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
    _, solution = next(_heads(products, [penalty]))
    weight, bias = solution[:-1].T / heat, solution[-1] / heat
    bias = torch.where(counts > 0, bias, bias[counts > 0].min() + ABSENT)
    seen = matrix[chosen].sum(dim=1) > 0
    recalls = (matrix[chosen].diagonal() / matrix[chosen].sum(dim=1))[seen]
    mean, deviation = _standardization(moments)
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


def _heads(products: Sums, penalties: Sequence[float]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the Cholesky factor of the penalized products, (D + 1, D + 1), and the solution, (D + 1, C)."""
    for penalty in penalties:
        system = products["gram"].clone()
        system.diagonal()[:-1] += penalty * (len(system) - 1)  # not that of the bias
        factor = torch.linalg.cholesky(system)
        yield factor, torch.cholesky_solve(products["cross"], factor)


def _errors(
    rows: torch.Tensor,
    target: torch.Tensor,
    parts: Sequence[torch.Tensor],
    factor: torch.Tensor,
    solution: torch.Tensor,
) -> torch.Tensor:
    """Return the errors of heads that saw no label of a group, (N, C), times the roots of the weights."""
    errors = target - rows @ solution
    half = torch.linalg.solve_triangular(factor, rows.T, upper=False).T
    for part in parts:
        left = torch.eye(len(part), dtype=torch.float64) - half[part] @ half[part].T
        errors[part] = torch.linalg.solve(left, errors[part])
    return errors


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
            f"labels: expected whole numbers of labels, got {[round(count, 3) for count in counts.tolist()]} for each "
            "class. Leave out filters that clip sums or add noise to them."
        )
    if counts.count_nonzero() < 2:
        raise ValueError(
            f"labels: expected labels of two classes or more over all sites, got {counts.int().tolist()} for each "
            "class. Label images of another class."
        )
    return counts


def _standardization(moments: Sums) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each feature; 0 where the deviation is within rounding."""
    mean, square = moments["sum"] / moments["images"], moments["squares"] / moments["images"]
    variance = square - mean.square()
    return mean, torch.where(variance > ROUNDING * square, variance, 0).sqrt()


def _surprise(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    logs = (torch.log_softmax(scores / temperature, dim=1) for temperature in TEMPERATURES)
    return torch.stack([-one.gather(1, labels[:, None]).sum() for one in logs])


def _shapes(sums: Sums) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in sums.items()}


def _check(features: torch.Tensor, labels: torch.Tensor, groups: Sequence[str], num_classes: int) -> None:
    sizes = len(features), len(labels), len(groups)
    if len(set(sizes)) > 1:
        raise ValueError(f"labels: expected as many features, labels and groups, got {sizes}. Pass one for each image.")
    if not features.isfinite().all():
        bad = int((~features.isfinite()).any(dim=1).nonzero()[0, 0])
        raise ValueError(f"features: expected finite numbers, got others in row {bad}. Look for a broken image.")
    if len(labels) and not (int(labels.min()) >= -1 and int(labels.max()) < num_classes):
        raise ValueError(
            f"labels: expected classes from 0 to {num_classes - 1}, or -1, got {int(labels.min())} to "
            f"{int(labels.max())}. Pass num_classes of all sites."
        )
