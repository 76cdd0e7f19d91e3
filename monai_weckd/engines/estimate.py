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

"""Estimate how good a solved head is on new groups, from labels that were not drawn at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from monai_weckd.engines.calibration import fit_temperatures
from monai_weckd.metrics import tally_findings
from monai_weckd.metrics.classification import percentile_interval, resampled_weights

__all__ = ["estimate_accuracy", "estimate_findings", "represented"]

DRAWS = 100
_NUMBERS = 4_000_000  # logits that are calibrated at a time


def estimate_accuracy(
    held_out: torch.Tensor,
    labels: torch.Tensor,
    groups: Sequence[str],
    others: torch.Tensor,
    other_groups: Sequence[str],
    *,
    weights: torch.Tensor | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate accuracies on images of new groups from the confidence in images without a label.

    Chosen labels are not a random sample: hard images are more frequent among them than among all, so their
    cross-validated accuracy is mostly too low. Images without a label are a random sample, apart from the chosen ones.
    A calibrated probability says how often a prediction is right. So the mean of the largest probability estimates the
    accuracy. The sensitivity of a class is estimated by its probability summed over the images that are predicted as
    this class, divided by the sum over all images (after "average confidence", Guillory et al., arXiv 2107.03315).
    Each image is predicted by a head of cross-validation that saw no label of its group; the labels that the head did
    not see calibrate it, each weighted by how many images it stands for: hard images may be calibrated differently
    from the rest.

    The interval is a bootstrap over groups, which resamples the calibrating labels and the images. To the estimate of
    each resample it adds the amount by which accuracy on the resampled labels exceeds their calibrated confidence, as
    in prediction-powered inference (Angelopoulos et al., arXiv 2301.09633); with few labels this amount is uncertain.

    Args:
        held_out: logits of labeled images by heads that saw no label of their group, (N, C), finite.
        labels: class of each, (N,).
        groups: group of each, N names.
        others: logits of images without a label by such heads, (M, C), M > 0.
        other_groups: group of each, M names.
        weights: how many images each labeled one stands for, (N,), see :py:func:`represented`, default None: equally
            many.
        seed: of the bootstrap.

    Returns:
        ``images``, M; ``accuracy`` and ``balanced_accuracy``, each with ``value`` and the 95 % ``interval``.

    Example::

        >>> held_out = torch.tensor([[4.0, 0.0], [4.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
        >>> found = estimate_accuracy(held_out, torch.tensor([0, 0, 0, 0]), "abcd", held_out, "abcd")
        >>> round(found["accuracy"]["value"], 3)  # right in 3 of 4
        0.75

    """
    names, places = np.unique([*groups, *other_groups], return_inverse=True)
    sample = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    counts = torch.from_numpy(np.concatenate([np.ones((1, len(names)), dtype=sample.dtype), sample])).double()
    labeled, unlabeled = counts[:, places[: len(labels)]], counts[:, places[len(labels) :]]
    if weights is not None:
        labeled = labeled * weights.double()
    told = labeled.any(dim=1) & unlabeled.any(dim=1)
    temperatures = fit_temperatures(held_out, labels, labeled[told])
    # few draws at a time, so that memory does not grow with them
    few = max(1, _NUMBERS // others.numel())
    parts = zip(temperatures.split(few), unlabeled[told].split(few), strict=True)
    found = torch.cat([_confidence(others.double(), *part) for part in parts])
    error = _accuracy(held_out, labels, labeled[told]) - _confidence(held_out.double(), temperatures, labeled[told])
    draws = (found + error - error[0])[1:].clamp(0, 1)
    figures: dict[str, Any] = {"images": len(others)}
    for name, value, drawn in zip(("accuracy", "balanced_accuracy"), found[0].tolist(), draws.T.numpy(), strict=True):
        low, high = np.quantile(drawn, [0.025, 0.975])
        figures[name] = {"value": value, "interval": [float(low), float(high)]}
    return figures


def estimate_findings(
    probabilities: np.ndarray,
    labels: np.ndarray,
    thresholds: Sequence[float | None],
    groups: Sequence[str],
    *,
    weights: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Estimate the metrics of findings on images of new groups by cross-validation, each label weighted.

    Chosen labels are not a random sample of all images. So each counts as often as there are images that it stands for.
    The interval is a percentile bootstrap over groups.

    Args:
        probabilities: of labeled images by heads that saw no label of their group, (N, F).
        labels: (N, F), 1, 0, and -1 where a finding is unknown or was not held out.
        thresholds: from which probability on each finding counts as present, F numbers or None. F1 is too high where
            they were chosen on the same labels.
        groups: group of each image, N names.
        weights: how many images each stands for, (N,), see :py:func:`represented`, default None: equally many.
        seed: of the bootstrap.

    Returns:
        ``macro_auc``, ``macro_average_precision`` and ``macro_f1``, each with ``value`` and the 95 % ``interval``; None
        where it is not defined.

    Example::

        >>> labels = np.array([[1], [0], [1], [0]])
        >>> found = estimate_findings(np.array([[0.9], [0.6], [0.4], [0.1]]), labels, [0.5], "abcd")
        >>> found["macro_auc"]["value"]
        0.75

    """
    own = np.ones((1, len(labels))) if weights is None else np.asarray(weights, dtype=float)[None]
    value = tally_findings(probabilities, labels, thresholds, own).metrics()
    draws = resampled_weights(len(labels), groups, level=0.95, num_resamples=DRAWS, seed=seed)
    drawn = [tally_findings(probabilities, labels, thresholds, own * times).metrics() for times in draws]
    found: dict[str, Any] = {}
    for name, (figure,) in value.items():
        interval = percentile_interval(np.concatenate([one[name] for one in drawn] or [np.empty(0)]), level=0.95)
        told = float(figure) if np.isfinite(figure) else None
        found[name] = {"value": told, "interval": None if interval is None else list(interval)}
    return found


def represented(labeled: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return of how many other points each labeled point is the nearest, (N,).

    Args:
        labeled: (N, D).
        others: (M, D).

    Example::

        >>> represented(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.1], [0.2], [2.0]])).tolist()
        [2, 1]

    """
    # |a - b|^2 without |a|^2, which is the same for all labeled points
    distances = labeled.square().sum(dim=1) - 2 * others @ labeled.T
    return torch.bincount(distances.argmin(dim=1), minlength=len(labeled))


def _confidence(logits: torch.Tensor, temperatures: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the expected accuracy and balanced accuracy of predictions, (B, 2), calibrated and weighted in B ways.

    Args:
        logits: (M, C).
        temperatures: (B,).
        weights: how much each image counts, (B, M).

    """
    probabilities = torch.softmax(logits / temperatures[:, None, None], dim=2)
    predicted = torch.nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1])
    right, total = (torch.einsum("bm,bmc->bc", weights, share) for share in (probabilities * predicted, probabilities))
    return torch.stack([right.sum(dim=1) / total.sum(dim=1), (right / total).mean(dim=1)], dim=1)


def _accuracy(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the accuracy and balanced accuracy of predictions, (B, 2), with labels weighted in B ways, (B, N)."""
    of_class = torch.nn.functional.one_hot(labels, logits.shape[1]).double()
    right = of_class * (logits.argmax(dim=1) == labels)[:, None]
    right, total = weights @ right, weights @ of_class
    return torch.stack([right.sum(dim=1) / total.sum(dim=1), (right / total).nanmean(dim=1)], dim=1)
