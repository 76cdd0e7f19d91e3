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

"""Draw synthetic chest radiographs with several findings."""

from __future__ import annotations

import numpy as np

from monai_weckd.data.phantoms.canvas import blur, pixel_grid, ramp, rough

__all__ = ["CHEST_FINDINGS", "CHEST_PATTERNS", "draw_chest"]

CHEST_FINDINGS = ("cardiomegaly", "effusion", "nodule")
# what patients show, in turn; an effusion comes with a large heart in two of three, and without in one of three
CHEST_PATTERNS = (
    "",
    "cardiomegaly|effusion",
    "nodule",
    "cardiomegaly|effusion|nodule",
    "cardiomegaly",
    "effusion",
)

_SIZE = 128


def draw_chest(findings: str, group: np.random.Generator, item: np.random.Generator) -> np.ndarray:
    """Draw a frontal chest radiograph of a synthetic patient; bone and fluid are bright, as in MONOCHROME2.

    Args:
        findings: names of ``CHEST_FINDINGS`` with ``|`` between them, or nothing.
        group: what all radiographs of a patient share: build, heart, findings.
        item: what differs from one to the next: position, exposure, noise.

    Returns:
        uint8 gray of shape (128, 128).
    """
    shown = set(findings.split("|"))
    x, y = pixel_grid(_SIZE)
    x, y = x - item.normal(0.0, 0.03), y - item.normal(0.0, 0.03)
    width, base = group.uniform(0.85, 1.0), group.uniform(0.50, 0.62)
    x, y = x / width, y + 0.01 * rough(group, _SIZE, 4)
    body = ramp(1.02, 0.92, np.abs(x) + 0.25 * np.maximum(0.0, -y - 0.55))
    scene = 0.62 * body + 0.10 * ramp(0.12, 0.02, np.abs(x)) * body
    lungs = _lungs(x, y, base)
    scene -= 0.42 * lungs
    ribs = np.sin(13.0 * (y + 0.35 * x * x) + group.uniform(0, 2 * np.pi))
    scene += 0.06 * ramp(0.55, 0.95, ribs) * body
    vessels = ramp(0.55, 1.6, rough(group, _SIZE, 22)) * ramp(0.75, 0.20, np.abs(x))
    scene += 0.10 * vessels * lungs
    scene = np.maximum(scene, 0.56 * _heart(x, y, base, group, large="cardiomegaly" in shown))
    if "effusion" in shown:
        scene = np.maximum(scene, 0.60 * _fluid(x, y, base, group))
    if "nodule" in shown:
        scene += 0.30 * _nodule(x, y, group)
    gain = item.uniform(0.85, 1.15)
    scene = blur(scene * gain + item.normal(0.0, 0.03), item.uniform(0.4, 0.9))
    noise = item.normal(0.0, item.uniform(0.01, 0.03), scene.shape)
    return np.clip(255.0 * (scene + noise), 0, 255).astype(np.uint8)


def _lungs(x: np.ndarray, y: np.ndarray, base: float) -> np.ndarray:
    """Return both lungs, which end at the diaphragm."""
    sides = [np.hypot((x - side * 0.46) / 0.36, (y - base + 0.62) / 0.78) for side in (-1.0, 1.0)]
    dome = base + 0.10 * ((np.abs(x) - 0.46) / 0.36) ** 2
    return np.maximum(*(ramp(1.04, 0.94, side) for side in sides)) * ramp(0.02, -0.04, y - dome)


def _heart(x: np.ndarray, y: np.ndarray, base: float, group: np.random.Generator, *, large: bool) -> np.ndarray:
    """Return the heart, of whose width a large one has more than half of the chest's."""
    half = group.uniform(0.24, 0.30) * (1.75 if large else 1.0)
    distance = np.hypot((x - 0.10) / half, (y - base + 0.30) / 0.34)
    return ramp(1.06, 0.92, distance)


def _fluid(x: np.ndarray, y: np.ndarray, base: float, group: np.random.Generator) -> np.ndarray:
    """Return fluid on one side, which rises toward the chest wall."""
    side = group.choice([-1.0, 1.0])
    depth = group.uniform(0.16, 0.34)
    level = base - depth - 0.30 * np.maximum(0.0, side * x - 0.35)
    return ramp(0.05, 0.14, side * x) * ramp(-0.03, 0.05, y - level) * ramp(0.90, 0.82, side * x)


def _nodule(x: np.ndarray, y: np.ndarray, group: np.random.Generator) -> np.ndarray:
    """Return a round spot in the upper part of a lung."""
    side = group.choice([-1.0, 1.0])
    center = side * group.uniform(0.35, 0.58), group.uniform(-0.50, -0.10)
    return ramp(1.15, 0.80, np.hypot(x - center[0], y - center[1]) / group.uniform(0.09, 0.13))
