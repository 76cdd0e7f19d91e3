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

"""Draw synthetic white blood cells as seen in a stained smear."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from monai_weckd.data.phantoms.canvas import fourier_ring, photograph, pixel_grid, ramp, rough, segment_distance, turn

__all__ = ["LEUKOCYTES", "draw_cell"]

LEUKOCYTES = ("lymphocyte", "monocyte", "neutrophil", "eosinophil")

_SIZE = 96
# how much red, green and blue light a full layer of each stain absorbs (natural logarithm)
_HEMOGLOBIN, _AZURE, _BASOPHIL, _EOSIN = np.array(
    [[0.13, 0.26, 0.17], [1.05, 1.45, 0.45], [0.55, 0.50, 0.10], [0.20, 0.62, 0.55]]
)
# radius in units of half the image's edge, and how much stain the cytoplasm takes up
_RADIUS = {"lymphocyte": (0.26, 0.38), "monocyte": (0.36, 0.48), "neutrophil": (0.32, 0.43), "eosinophil": (0.32, 0.43)}
_CYTOPLASM = {"lymphocyte": 0.8, "monocyte": 0.55, "neutrophil": 0.18, "eosinophil": 0.25}


def draw_cell(kind: str, group: np.random.Generator, item: np.random.Generator) -> np.ndarray:
    """Draw a synthetic white blood cell among red cells, as in a stained smear under a microscope.

    Light is lost by the Beer-Lambert law in each stain, so that overlapping parts are darker.

    Args:
        kind: one of ``LEUKOCYTES``.
        group: what all pictures of a smear share: stain, light and density of the red cells.
        item: what differs from cell to cell, and the focus and noise of its picture.

    Returns:
        uint8 RGB of shape (96, 96, 3).
    """
    stains = np.exp(group.normal(0.0, 0.18, 4))
    hues = np.stack([_HEMOGLOBIN, _AZURE, _BASOPHIL, _EOSIN]) * np.exp(group.normal(0.0, 0.10, (4, 3)))
    crowding, pallor = group.integers(6, 22), group.uniform(0.3, 0.8)
    x, y = pixel_grid(_SIZE)
    cx, cy = item.normal(0.0, 0.12, 2)
    x, y = turn(x - cx, y - cy, item.uniform(-np.pi, np.pi))
    angle = np.arctan2(y, x)
    radius = item.uniform(*_RADIUS[kind])
    uneven = 0.10 if kind == "monocyte" else 0.04
    cell = ramp(0.03, -0.02, np.hypot(x, y) - radius * (1.0 + fourier_ring(item, angle, uneven)))
    nucleus = ramp(0.02, -0.02, _NUCLEI[kind](x, y, radius, item) + 0.012 * rough(item, _SIZE, 14)) * cell
    body = cell * (1.0 - nucleus)
    red = _red_cells(item, count=int(crowding), pallor=pallor, keep_off=(radius, x, y)) * (1.0 - cell)
    layers = [
        red,
        nucleus * _chromatin(kind, item) + _platelets(x, y, radius, item) * (1.0 - cell),
        body * _CYTOPLASM[kind] * item.uniform(0.6, 1.4) * (1.0 + 0.15 * rough(item, _SIZE, 20)),
        body * _granules(kind, item),
    ]
    if kind == "monocyte":
        layers[2] = layers[2] * (1.0 - 0.8 * _dots(item, cells=18, share=0.08))
    absorbed = sum(layer[..., None] * strength * hue for layer, strength, hue in zip(layers, stains, hues, strict=True))
    scene = np.exp(-absorbed) * (1.0 + 0.02 * rough(group, _SIZE, 3))[..., None]
    return photograph(
        scene,
        np.ones_like(x),
        group=group,
        item=item,
        exposure=(0.68, 0.86),
        tint=(1.05, 0.98, 0.95),
        defocus=(0.4, 1.3),
        grain=(0.005, 0.03),
    )


def _red_cells(
    item: np.random.Generator, *, count: int, pallor: float, keep_off: tuple[float, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Return the layer of red cells, discs with a pale center, none of them under the white cell."""
    x, y = pixel_grid(_SIZE)
    radius, wx, wy = keep_off
    layer = np.zeros_like(x)
    for cx, cy in item.uniform(-1.1, 1.1, (count, 2)):
        size = item.uniform(0.17, 0.22)
        nearest = np.argmin((x - cx) ** 2 + (y - cy) ** 2)
        if np.hypot(wx.flat[nearest], wy.flat[nearest]) < radius + 0.5 * size:
            continue
        dx, dy = turn(x - cx, y - cy, item.uniform(0, np.pi))
        r = np.hypot(dx, dy * item.uniform(1.0, 1.25)) / size
        layer += ramp(1.06, 0.94, r) * (1.0 - pallor * ramp(0.75, 0.15, r)) * item.uniform(0.8, 1.1)
    return layer


def _round_nucleus(x: np.ndarray, y: np.ndarray, radius: float, item: np.random.Generator) -> np.ndarray:
    """Return the distance to the nucleus of a lymphocyte: round, large in its cell, at times with a dent."""
    size = radius * item.uniform(0.72, 0.90)
    x, y = x - item.normal(0.0, 0.04) * radius, y - item.normal(0.0, 0.04) * radius
    outline = 1.0 + fourier_ring(item, np.arctan2(y, x), 0.04)
    dent = np.hypot(x - size * item.uniform(1.15, 1.8), y) - 0.4 * size
    return np.maximum(np.hypot(x, y * item.uniform(1.0, 1.15)) - size * outline, -dent)


def _kidney_nucleus(x: np.ndarray, y: np.ndarray, radius: float, item: np.random.Generator) -> np.ndarray:
    """Return the distance to the nucleus of a monocyte: one broad body, folded in from one side."""
    size = radius * item.uniform(0.62, 0.80)
    x, y = x - item.normal(0.0, 0.08) * radius, y - item.normal(0.0, 0.08) * radius
    outline = 1.0 + fourier_ring(item, np.arctan2(y, x), 0.10)
    bay = np.hypot(x - size * item.uniform(0.75, 1.15), y * item.uniform(0.8, 1.6)) - size * item.uniform(0.35, 0.6)
    return np.maximum(np.hypot(x, y * item.uniform(0.85, 1.1)) - size * outline, -bay)


def _lobes(
    x: np.ndarray, y: np.ndarray, radius: float, item: np.random.Generator, *, count: int, size: float, arc: float
) -> np.ndarray:
    """Return the distance to a chain of lobes on an arc, joined by threads."""
    turns = np.linspace(-0.5, 0.5, count) * arc + item.normal(0.0, 0.12, count)
    reach = radius * item.uniform(0.40, 0.52, count)
    centers = list(zip(reach * np.cos(turns), reach * np.sin(turns), strict=True))
    parts = []
    for cx, cy in centers:
        dx, dy = turn(x - cx, y - cy, item.uniform(0, np.pi))
        parts.append(np.hypot(dx, dy * item.uniform(1.0, 1.35)) - radius * size * item.uniform(0.85, 1.15))
    thread = radius * item.uniform(0.06, 0.20)
    parts += [segment_distance(x, y, a, b)[0] - thread for a, b in pairwise(centers)]
    return np.minimum.reduce(parts)


def _segmented_nucleus(x: np.ndarray, y: np.ndarray, radius: float, item: np.random.Generator) -> np.ndarray:
    """Return the distance to the nucleus of a neutrophil: two to five small lobes."""
    count = int(item.choice([2, 3, 4, 5], p=[0.15, 0.40, 0.30, 0.15]))
    return _lobes(x, y, radius, item, count=count, size=0.48 - 0.05 * count, arc=item.uniform(2.4, 4.6))


def _bilobed_nucleus(x: np.ndarray, y: np.ndarray, radius: float, item: np.random.Generator) -> np.ndarray:
    """Return the distance to the nucleus of an eosinophil: two lobes, seldom three."""
    count = int(item.choice([2, 3], p=[0.8, 0.2]))
    return _lobes(x, y, radius, item, count=count, size=0.50 - 0.05 * count, arc=item.uniform(2.0, 3.4))


_NUCLEI = {
    "lymphocyte": _round_nucleus,
    "monocyte": _kidney_nucleus,
    "neutrophil": _segmented_nucleus,
    "eosinophil": _bilobed_nucleus,
}


def _chromatin(kind: str, item: np.random.Generator) -> np.ndarray:
    """Return the density of a nucleus, clumped, and looser in a monocyte."""
    density = item.uniform(0.60, 0.95) if kind == "monocyte" else item.uniform(0.75, 1.10)
    return density * (1.0 + 0.10 * rough(item, _SIZE, 22) + 0.06 * rough(item, _SIZE, 40))


def _dots(item: np.random.Generator, *, cells: int, share: float) -> np.ndarray:
    """Return dots strewn over the image that cover about a share of it, ``cells`` of them along an edge at most."""
    field = rough(item, _SIZE, cells)
    threshold = np.quantile(field, 1.0 - share)
    return ramp(threshold - 0.25, threshold + 0.25, field)


def _granules(kind: str, item: np.random.Generator) -> np.ndarray:
    """Return the eosin in the cytoplasm: coarse bright granules in an eosinophil, a fine dust in a neutrophil."""
    if kind == "eosinophil":
        return item.uniform(0.5, 1.1) * (0.35 + 0.9 * _dots(item, cells=28, share=0.5))
    if kind == "neutrophil":
        return item.uniform(0.15, 0.45) * (0.5 + 0.8 * _dots(item, cells=44, share=0.3))
    return item.uniform(0.02, 0.20) * np.ones((_SIZE, _SIZE))


def _platelets(x: np.ndarray, y: np.ndarray, radius: float, item: np.random.Generator) -> np.ndarray:
    """Return the layer of platelets, small purple bodies that lie about in any smear."""
    layer = np.zeros_like(x)
    for _ in range(item.integers(0, 4)):
        turned, reach = item.uniform(-np.pi, np.pi), item.uniform(1.4, 3.0) * radius
        spot = np.hypot(x - reach * np.cos(turned), y - reach * np.sin(turned)) / item.uniform(0.03, 0.06)
        layer = np.maximum(layer, 0.6 * ramp(1.2, 0.6, spot))
    return layer
