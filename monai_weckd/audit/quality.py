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

"""Find images of another kind than the rest, and images that are blank, saturated or blurred."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from monai_weckd.audit.findings import Finding, spread
from monai_weckd.networks.nearest import neighbor_distances

__all__ = ["other_kinds", "poor_images", "quality_measures"]

_DEVIATIONS = 5.0
_LEAST_SPREAD = 0.1  # of a logarithm, for images that are nearly equal
_LEAST_DISTANCE = 1e-4  # below, a distance is rounding
_ENOUGH = 20  # images needed to compute a limit from the data


def other_kinds(embeddings: torch.Tensor, items: Sequence[Mapping[str, Any]]) -> tuple[list[Finding], dict[str, float]]:
    """Find images that are far from all images of other groups.

    The measure is the mean cosine distance to the nearest neighbors in other groups. Its limit lies five robust
    deviations above the median, on a logarithmic scale.

    Args:
        embeddings: of all items, (N, D).
        items: the data list.

    Returns:
        The findings, farthest first; the ``limit`` and the ``usual`` distance, empty with too few images.

    """
    if len(items) < _ENOUGH:
        return [], {}
    distances = neighbor_distances(embeddings, groups=[item["group"] for item in items])
    middle, deviation = spread(np.log(np.maximum(distances, _LEAST_DISTANCE)))
    limit = math.exp(middle + _DEVIATIONS * max(deviation, _LEAST_SPREAD))
    found = [
        Finding(
            "other_kind",
            (int(place),),
            f"distance to the nearest images of other groups {distances[place]:.3f}; usual {math.exp(middle):.3f}",
            float(distances[place]),
        )
        for place in np.argsort(-distances)
        if distances[place] > limit
    ]
    return found, {"limit": limit, "usual": math.exp(middle)}


def quality_measures(images: Any, count: int) -> dict[str, np.ndarray]:
    """Return measures of all images as the network gets them, each (N,).

    ``contrast`` is the standard deviation of the gray values, ``saturated`` the share of values at the image's own
    brightest value, ``sharpness`` the variance of the Laplacian over that of the gray values. A volume is measured on
    its middle slice.

    Args:
        images: dataset whose ``gather`` gives the images of positions.
        count: number of images.

    """
    rows = [_measures(images.gather(range(first, min(first + 64, count)))) for first in range(0, count, 64)]
    return dict(zip(("contrast", "saturated", "sharpness"), np.concatenate(rows, axis=1), strict=True))


def poor_images(measures: Mapping[str, np.ndarray]) -> tuple[list[Finding], dict[str, float]]:
    """Find images that are blank, saturated or blurred, compared with the other images.

    Args:
        measures: from :py:func:`quality_measures`.

    Returns:
        The findings; the limits of the measures by name.

    """
    contrast, saturated, sharpness = (measures[name] for name in ("contrast", "saturated", "sharpness"))
    limits = {
        # nothing to see: a hundredth of the usual contrast, whatever the spread
        "contrast": float(np.median(contrast)) / 100,
        "saturated": _upper(saturated),
        "sharpness": _lower(sharpness),
    }
    found = []
    for place, (light, share, edges) in enumerate(zip(contrast, saturated, sharpness, strict=True)):
        reasons = []
        if light <= limits["contrast"]:
            reasons.append("blank")
        elif share > limits["saturated"]:
            reasons.append(f"saturated: {share:.0%} of the image has its brightest value")
        elif edges < limits["sharpness"]:
            reasons.append(f"blurred: sharpness {edges:.3g}, usual {np.median(sharpness):.3g}")
        if reasons:
            found.append(Finding("quality", (place,), reasons[0], float(edges)))
    return sorted(found, key=lambda finding: (finding.text.split(":")[0], finding.score)), limits


def _measures(images: torch.Tensor) -> np.ndarray:
    """Return contrast, saturated share and sharpness of a batch, (3, B)."""
    if images.dim() == 5:
        images = images[..., images.shape[4] // 2]
    gray = images.mean(dim=1, keepdim=True)
    contrast = gray.flatten(1).std(dim=1)
    highest = gray.flatten(1).amax(dim=1)
    saturated = (gray.flatten(1) >= highest[:, None] - 1e-6).float().mean(dim=1)
    kernel = torch.tensor([[[[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]]])
    edges = F.conv2d(gray, kernel).flatten(1).var(dim=1)
    return torch.stack([contrast, saturated, edges / contrast.square().clamp(min=1e-12)]).numpy().astype(np.float64)


def _upper(shares: np.ndarray) -> float:
    """Return the limit of a share, at least a tenth, and 1 with too few images."""
    if len(shares) < _ENOUGH:
        return 1.0
    middle, deviation = spread(shares)
    return min(max(middle + _DEVIATIONS * deviation, 0.1), 1.0)


def _lower(values: np.ndarray) -> float:
    """Return the limit below which a positive value is odd, 0 with too few images."""
    if len(values) < _ENOUGH:
        return 0.0
    middle, deviation = spread(np.log(np.maximum(values, 1e-12)))
    return math.exp(middle - _DEVIATIONS * max(deviation, _LEAST_SPREAD))
