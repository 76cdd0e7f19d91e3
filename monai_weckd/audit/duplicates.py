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

"""Find images that a data set contains twice, and groups that look like one patient."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from monai_weckd.audit.findings import Finding, spread
from monai_weckd.data.content import content_key
from monai_weckd.plan.label_kind import finding_values
from monai_weckd.plan.oracle import is_labeled

__all__ = ["Limits", "NearPair", "exact_duplicates", "look_alike_groups", "near_duplicates", "near_pairs"]

_NEIGHBORS = 10
_ROWS = 512  # rows of the distance matrix, and pairs, at a time
_SIDE = 64  # pixels of the small images that are compared
_SHIFT = 16  # pixels by which one may be shifted against the other
_DEVIATIONS = 5.0
_LEAST, _MOST = 0.5, 0.8  # below the first, it is no copy; above the second, it is, unless most neighbors correlate so
_LEAST_SPREAD = 0.25  # of a logarithm: a limit must be well below the usual distance
_ENOUGH = 20  # pairs for a limit of the distance


class NearPair(NamedTuple):
    """Two images that may show the same.

    Args:
        places: their positions in the data list, in order.
        distance: cosine distance of their embeddings.
        correlation: correlation of the images themselves, best alignment.

    """

    places: tuple[int, int]
    distance: float
    correlation: float


@dataclass(frozen=True)
class Limits:
    """The limits beyond which two images are near duplicates; both are computed from the data.

    Args:
        distance: largest cosine distance.
        correlation: smallest correlation.
        usual_distance: median of the distance between neighbors of different groups.
        usual_correlation: median of their correlation.

    """

    distance: float
    correlation: float
    usual_distance: float
    usual_correlation: float

    def passed_by(self, pair: NearPair) -> bool:
        """Return whether a pair is beyond one of the limits."""
        return pair.distance <= self.distance or pair.correlation >= self.correlation


def exact_duplicates(items: Sequence[Mapping[str, Any]]) -> tuple[list[Finding], list[int]]:
    """Find byte-identical files.

    Args:
        items: the data list.

    Returns:
        A finding for each further copy; the positions of the images without these copies.

    """
    archives: dict[str, str] = {}
    places = defaultdict(list)
    for place, item in enumerate(items):
        places[content_key(item["image"], archives)].append(place)
    found = [
        Finding("exact_duplicate", (same[0], other), _relation(items[same[0]], items[other]) + "same bytes", 1.0)
        for same in places.values()
        for other in same[1:]
    ]
    return _sorted(found, items), [same[0] for same in places.values()]


def near_pairs(
    embeddings: torch.Tensor, images: Any, items: Sequence[Mapping[str, Any]], kept: Sequence[int]
) -> tuple[list[NearPair], Limits]:
    """Find pairs of images of different groups, or labels, that are as near as two copies of one image.

    Each image's nearest neighbors by the embedding are compared pixel by pixel, reduced, without coarse shading, and in
    the best of several shifts, quarter turns and mirror images. Nearest neighbors of different groups usually show
    different things: their median and spread set both limits.

    Args:
        embeddings: of all items, (N, D).
        images: dataset whose ``gather`` gives the images of positions.
        items: the data list.
        kept: positions of the images to compare, each once.

    Returns:
        The pairs beyond a limit, and the limits.

    """
    kept = list(kept)
    pairs, distances = _candidates(embeddings[kept], [items[place] for place in kept])
    if not len(pairs):
        return [], Limits(0.0, 1.0, math.nan, math.nan)
    small = torch.cat([_details(images.gather(kept[first : first + 64])) for first in range(0, len(kept), 64)])
    correlations = np.concatenate([_correlation(small, part) for part in torch.from_numpy(pairs).split(_ROWS)])
    groups = np.array([items[place]["group"] for place in kept])
    apart = groups[pairs[:, 0]] != groups[pairs[:, 1]]
    limits = _limits(pairs[apart], distances[apart], correlations[apart])
    found = [
        NearPair((kept[one], kept[other]), float(distance), float(correlation))
        for (one, other), distance, correlation in zip(pairs, distances, correlations, strict=True)
    ]
    return [pair for pair in found if limits.passed_by(pair)], limits


def near_duplicates(pairs: Sequence[NearPair], items: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return a finding for each pair: other labels first, then other groups, then the most alike.

    Args:
        pairs: from :py:func:`near_pairs`.
        items: the data list.

    """
    found = [
        Finding(
            "near_duplicate",
            pair.places,
            f"{_relation(*(items[place] for place in pair.places))}correlation {pair.correlation:.2f}, "
            f"distance {pair.distance:.3f}",
            pair.correlation,
        )
        for pair in pairs
    ]
    return _sorted(found, items)


def look_alike_groups(findings: Sequence[Finding], items: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Find groups of several images that share at least two: they may be one patient under two names.

    Args:
        findings: the exact and near duplicates.
        items: the data list.

    """
    sizes = Counter(item["group"] for item in items)
    shared: dict[tuple[str, str], list[tuple[int, ...]]] = defaultdict(list)
    for finding in findings:
        ordered = sorted(finding.places, key=lambda place: items[place]["group"])
        one, other = (items[place]["group"] for place in ordered)
        if one != other:
            shared[one, other].append(tuple(ordered))
    found = []
    for groups, places in shared.items():
        counts = [len(set(side)) for side in zip(*places, strict=True)]
        if min(counts) > 1:
            one, other = (f"{count} of {sizes[group]}" for count, group in zip(counts, groups, strict=True))
            text = f"{one} images of the first one's group are like {other} of the second one's"
            found.append(Finding("one_patient", places[0], text, float(len(places))))
    return sorted(found, key=lambda finding: -(finding.score or 0))


def _relation(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    parts = []
    if _differ(one, other):
        parts.append("different labels")
    parts.append("same group" if one["group"] == other["group"] else "different groups")
    return ", ".join(parts) + ": "


def _differ(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    first, second = _known(one), _known(other)
    return bool(((first != second) & (first >= 0) & (second >= 0)).any())


def _known(item: Mapping[str, Any]) -> np.ndarray:
    """Return an item's class, (1,), or its findings, (F,); -1 where nobody knows."""
    values = finding_values(item.get("label"))
    if values is None:
        return np.array([item["label"] if is_labeled(item) else -1])
    return np.nan_to_num(values, nan=-1)


def _sorted(found: list[Finding], items: Sequence[Mapping[str, Any]]) -> list[Finding]:
    def rank(finding: Finding) -> tuple[bool, bool, float]:
        one, other = (items[place] for place in finding.places)
        return not _differ(one, other), one["group"] == other["group"], -(finding.score or 0)

    return sorted(found, key=rank)


def _candidates(embeddings: torch.Tensor, items: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
    """Return pairs, (P, 2), of neighbors of different groups or labels, nearest first, and their distances, (P,)."""
    groups = torch.from_numpy(np.unique([item["group"] for item in items], return_inverse=True)[1])
    labels = torch.from_numpy(np.stack([_known(item) for item in items]))
    distance_of: dict[tuple[int, int], float] = {}
    for first, distances in _distances(embeddings):
        rows = slice(first, first + len(distances))
        different = torch.zeros_like(distances, dtype=torch.bool)
        for label in labels.T:  # the class, or each finding
            different |= (label[rows, None] != label) & (label[rows, None] >= 0) & (label >= 0)
        distances[(groups[rows, None] == groups) & ~different] = torch.inf
        nearest = distances.topk(min(_NEIGHBORS, len(items)), dim=1, largest=False)
        for row, (values, columns) in enumerate(zip(*(part.tolist() for part in nearest), strict=True)):
            for value, column in zip(values, columns, strict=True):
                if math.isfinite(value):
                    distance_of[min(first + row, column), max(first + row, column)] = value
    ordered = sorted(distance_of, key=lambda pair: distance_of[pair])
    return np.array(ordered).reshape(-1, 2), np.array([distance_of[pair] for pair in ordered])


def _distances(embeddings: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield cosine distances to all embeddings, some rows at a time, with the position of the first row."""
    unit = F.normalize(embeddings.float(), dim=1)
    for first in range(0, len(unit), _ROWS):
        yield first, (1 - unit[first : first + _ROWS] @ unit.T).clamp(min=0)


def _details(images: torch.Tensor) -> torch.Tensor:
    """Return small gray images without their coarse shading, (B, side, side), of length 1; a volume's middle slice."""
    if images.dim() == 5:
        images = images[..., images.shape[4] // 2]
    small = F.interpolate(images.mean(dim=1, keepdim=True), size=(_SIDE, _SIDE), mode="area")
    shading = F.avg_pool2d(F.pad(small, (4, 4, 4, 4), mode="reflect"), 9, stride=1)
    fine = (small - shading)[:, 0]
    # a blank image has no details, and is like no other
    return fine / fine.flatten(1).norm(dim=1).clamp(min=1e-3)[:, None, None]


def _correlation(small: torch.Tensor, pairs: torch.Tensor) -> np.ndarray:
    """Return the largest correlation of each pair over shifts, quarter turns and mirror images, (P,)."""
    size = (_SIDE + _SHIFT, _SIDE + _SHIFT)
    one, other = small[pairs[:, 0]], small[pairs[:, 1]]
    spectrum = torch.fft.rfft2(one, s=size)
    best = torch.full((len(pairs),), -1.0)
    for turns, mirrored in ((turns, mirrored) for turns in range(4) for mirrored in (False, True)):
        turned = torch.rot90(other.flip(1) if mirrored else other, turns, (1, 2))
        product = torch.fft.irfft2(spectrum * torch.fft.rfft2(turned, s=size).conj(), s=size)
        best = torch.maximum(best, product.flatten(1).amax(dim=1))
    found: np.ndarray = best.numpy()
    return found


def _limits(pairs: np.ndarray, distances: np.ndarray, correlations: np.ndarray) -> Limits:
    if not len(pairs):
        return Limits(0.0, _MOST, math.nan, math.nan)
    # pairs come nearest first: the first one of each image is its nearest neighbor
    nearest = np.unique(pairs.ravel(), return_index=True)[1] // 2
    logs = np.log(np.maximum(distances[nearest], 1e-9))
    usual, deviation = spread(logs)
    distance = math.exp(usual - 4 * max(deviation, _LEAST_SPREAD)) if len(nearest) >= _ENOUGH else 0.0
    middle, deviation = spread(np.arctanh(np.clip(correlations, -0.999, 0.999)))
    far, near = (math.tanh(middle + count * deviation) for count in (_DEVIATIONS, 4))
    # many copies widen the spread, so the limit is at most _MOST; if all images share a frame, all correlate highly, so
    # the limit rises
    correlation = max(_LEAST, min(far, max(_MOST, near)))
    return Limits(distance, correlation, math.exp(usual), math.tanh(middle))
