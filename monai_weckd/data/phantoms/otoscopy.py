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

"""Draw synthetic otoscopic views of the ear drum."""

from __future__ import annotations

import numpy as np

from monai_weckd.data.phantoms.canvas import (
    between,
    blend,
    blur,
    fourier_ring,
    photograph,
    pixel_grid,
    ramp,
    rough,
    segment_distance,
    turn,
)

__all__ = ["EAR_FINDINGS", "draw_ear"]

EAR_FINDINGS = ("normal", "earwax_plug", "myringosclerosis", "chronic_otitis_media")

_SIZE = 128
_PEARL, _PINK, _AMBER = np.array([[0.70, 0.68, 0.68], [0.80, 0.60, 0.57], [0.76, 0.67, 0.50]])
_BLOOD = (0.62, 0.20, 0.18)
_UMBO = (0.02, 0.12)


def draw_ear(finding: str, group: np.random.Generator, item: np.random.Generator) -> np.ndarray:
    """Draw an otoscopic view of a synthetic ear drum.

    Args:
        finding: one of ``EAR_FINDINGS``.
        group: what all pictures of an ear share: shape, skin, drum, finding and light.
        item: what differs from picture to picture: pose, glare, focus and noise.

    Returns:
        uint8 RGB of shape (128, 128, 3).
    """
    view, distance = _speculum(group, item)
    u, v = _pose(group, item)
    scene = _canal(u, v, group)
    drum = ramp(1.0, 0.94, np.hypot(u, v) * (1.0 + fourier_ring(group, np.arctan2(v, u), 0.08)))
    scene = blend(scene, _drum(u, v, group, finding), drum)
    if finding == "myringosclerosis":
        scene = _plaques(scene, u, v, drum, group)
    elif finding == "chronic_otitis_media":
        scene = _inflamed(scene, u, v, drum, group)
    scene = _shadow(scene, u, v, group)
    scene = _wax(scene, u, v, group, plug=finding == "earwax_plug")
    scene = _hairs(scene, group, item)
    scene = _glare(scene, item) * _light(distance, item)[..., None]
    return photograph(
        scene,
        view,
        group=group,
        item=item,
        exposure=(0.48, 0.70),
        tint=(1.0, 0.88, 0.84),
        defocus=(0.4, 1.3),
        grain=(0.01, 0.035),
    )


def _speculum(group: np.random.Generator, item: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the round lit view and the distance from its center in units of its radius."""
    x, y = pixel_grid(_SIZE)
    cx, cy = item.normal(0.0, 0.05, 2)
    distance = np.hypot(x - cx, y - cy) / group.uniform(0.76, 0.94)
    return ramp(1.0, group.uniform(0.72, 0.92), distance), distance


def _pose(group: np.random.Generator, item: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates in which the drum is the unit disc, the handle above its center, the reflex below."""
    x, y = pixel_grid(_SIZE)
    x, y = x + 0.04 * rough(group, _SIZE, 4), y + 0.04 * rough(group, _SIZE, 4)
    cx, cy = group.normal(0.0, 0.10, 2) + item.normal(0.0, 0.08, 2)
    x, y = turn(x - cx, y - cy, group.normal(0.0, 0.35) + item.normal(0.0, 0.20))
    radius = group.uniform(0.55, 0.78) * item.uniform(0.85, 1.15)
    side = group.choice([-1.0, 1.0])
    return side * x / (radius * group.uniform(0.75, 0.95)), y / radius


def _canal(u: np.ndarray, v: np.ndarray, group: np.random.Generator) -> np.ndarray:
    """Return the skin of the ear canal, which is brighter and more yellow the nearer it is to the lamp."""
    angle, depth = np.arctan2(v, u), ramp(0.85, 1.7, np.hypot(u, v))
    skin = np.array([0.86, 0.62, 0.53]) + group.normal(0.0, 0.04, 3)
    lit = 0.45 + 0.75 * depth * (1.0 + 0.5 * np.cos(angle - group.uniform(0, 2 * np.pi)))
    folds = 0.08 * np.cos(group.integers(4, 9) * angle + 3.0 * rough(group, _SIZE, 3))
    pores = 0.05 * rough(group, _SIZE, 12) + 0.03 * rough(group, _SIZE, 40)
    scene = skin * (lit + folds * depth + pores)[..., None]
    red = 0.35 * ramp(0.2, 1.4, rough(group, _SIZE, 5))
    return blend(scene, (0.74, 0.36, 0.32), red * (1.0 - depth))


def _drum(u: np.ndarray, v: np.ndarray, group: np.random.Generator, finding: str) -> np.ndarray:
    """Return the ear drum with annulus, handle of the malleus, vessels and cone of light."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    base = group.dirichlet([3.0, 2.0, 1.5]) @ np.stack([_PEARL, _PINK, _AMBER])
    fibers = 0.02 * np.cos(group.integers(30, 50) * angle + 2.0 * rough(group, _SIZE, 3))
    tilt = group.uniform(0, 2 * np.pi)
    shade = 0.72 + 0.18 * r * np.cos(angle - tilt) + 0.08 * rough(group, _SIZE, 3) + 0.03 * rough(group, _SIZE, 24)
    drum = base * (shade + fibers)[..., None]
    drum = blend(drum, (0.80, 0.52, 0.47), 0.6 * ramp(0.80, 0.97, r))
    drum = _vessels(drum, u, v, group, strength=group.uniform(0.2, 0.6), spokes=4)
    handle, along = segment_distance(u, v, (group.uniform(-0.35, 0.0), -0.85), _UMBO)
    drum = blend(drum, (0.38, 0.30, 0.28), 0.35 * ramp(0.20, 0.05, handle))
    ivory = ramp(0.11, 0.04, handle + 0.03 * along + 0.015 * rough(group, _SIZE, 16))
    drum = blend(drum, (0.90, 0.80, 0.72), group.uniform(0.4, 0.9) * ivory)
    return _cone_of_light(drum, u, v, group, strength=0.25 if finding == "chronic_otitis_media" else 0.85)


def _cone_of_light(
    drum: np.ndarray, u: np.ndarray, v: np.ndarray, group: np.random.Generator, *, strength: float
) -> np.ndarray:
    """Lay the reflex of the lamp on the drum, a wedge from the umbo forwards and downwards."""
    du, dv = u - _UMBO[0], v - _UMBO[1]
    off = np.abs(np.arctan2(dv, du) - group.uniform(0.5, 1.1))
    reach = np.hypot(du, dv)
    wedge = ramp(group.uniform(0.22, 0.40), 0.08, off) * ramp(group.uniform(0.55, 0.85), 0.35, reach)
    return blend(drum, (1.25, 1.22, 1.15), strength * group.uniform(0.5, 1.0) * wedge * ramp(0.02, 0.15, reach))


def _vessels(
    scene: np.ndarray, u: np.ndarray, v: np.ndarray, group: np.random.Generator, *, strength: float, spokes: int
) -> np.ndarray:
    """Draw thin vessels that run from the rim of the drum toward its center."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    bend = 0.25 * rough(group, _SIZE, 6)
    alpha = np.zeros_like(r)
    for _ in range(spokes):
        off = between(angle + bend, group.uniform(-np.pi, np.pi)) * r
        alpha = np.maximum(alpha, ramp(0.035, 0.01, off) * ramp(group.uniform(0.15, 0.6), 0.75, r))
    return blend(scene, _BLOOD, strength * alpha)


def _plaques(
    scene: np.ndarray, u: np.ndarray, v: np.ndarray, drum: np.ndarray, group: np.random.Generator
) -> np.ndarray:
    """Put chalk-white plaques with sharp ragged edges into the drum, crescents between handle and rim."""
    r, angle = np.hypot(u, v), np.arctan2(v, u)
    ragged = 0.10 * rough(group, _SIZE, 8) + 0.05 * rough(group, _SIZE, 20)
    chalk = 0.90 + 0.07 * rough(group, _SIZE, 30) + 0.05 * rough(group, _SIZE, 9)
    for _ in range(group.integers(1, 4)):
        middle, width = group.uniform(0.42, 0.72), group.uniform(0.13, 0.26)
        span = group.uniform(0.3, 1.1)
        off = between(angle, group.uniform(-0.6, np.pi + 0.6))
        edge = np.maximum(np.abs(r - middle) / width, off / span) + ragged / width
        alpha = drum * ramp(1.0, 0.82, edge) * group.uniform(0.75, 0.95)
        scene = blend(scene, np.array([1.0, 0.98, 0.93]) * chalk[..., None], alpha)
    return scene


def _inflamed(
    scene: np.ndarray, u: np.ndarray, v: np.ndarray, drum: np.ndarray, group: np.random.Generator
) -> np.ndarray:
    """Redden and thicken the drum in patches and perforate it, or retract it into a pocket."""
    patches = ramp(-0.4, 1.2, rough(group, _SIZE, 3))
    scene = blend(scene, (0.78, 0.46, 0.40), drum * patches * group.uniform(0.4, 0.9))
    scene = blend(scene, blur(scene, group.uniform(1.0, 4.0)), drum)
    scene = blend(scene, _vessels(scene, u, v, group, strength=0.6, spokes=int(group.integers(5, 12))), drum)
    turned, reach, size = group.uniform(-0.3, np.pi + 0.3), group.uniform(0.05, 0.5), group.uniform(0.26, 0.52)
    hu, hv = (u - reach * np.cos(turned)) / size, (v - reach * np.sin(turned)) / size
    edge = np.hypot(hu, hv) * np.exp(fourier_ring(group, np.arctan2(hv, hu), 0.20))
    lamp = group.uniform(-np.pi, np.pi)
    floor = 0.45 + 0.4 * (hu * np.cos(lamp) + hv * np.sin(lamp)) + 0.10 * rough(group, _SIZE, 12)
    if group.random() < 0.25:
        # a retraction pocket: the drum itself, sunk and shaded, without an edge that is cut
        return blend(scene, scene * floor.clip(0.25, 0.9)[..., None], drum * ramp(1.3, 0.7, edge))
    mucosa = np.array([0.62, 0.36, 0.31]) + group.normal(0.0, 0.05, 3)
    scene = blend(scene, (0.88, 0.72, 0.64), group.uniform(0.2, 0.7) * drum * ramp(1.35, 1.10, edge))
    return blend(scene, mucosa * floor.clip(0.08, 0.95)[..., None], drum * ramp(1.06, 0.94, edge))


def _wax(scene: np.ndarray, u: np.ndarray, v: np.ndarray, group: np.random.Generator, *, plug: bool) -> np.ndarray:
    """Fill part of the canal with wax: a plug before the drum, or the crumbs at the wall that any ear may have."""
    turned = group.uniform(-np.pi, np.pi)
    reach = group.uniform(0.0, 0.6) if plug else group.uniform(1.05, 1.35)
    extent = group.uniform(0.5, 1.2) if plug else group.uniform(-0.25, 0.40)
    lumps, crumbs = rough(group, _SIZE, 6), rough(group, _SIZE, 16)
    height = 0.6 * lumps + 0.3 * crumbs + 0.12 * rough(group, _SIZE, 36)
    far = np.hypot(u - reach * np.cos(turned), v - reach * np.sin(turned))
    alpha = ramp(-0.03, 0.05, extent - far + 0.22 * lumps + 0.08 * crumbs)
    honey, amber, dark = np.array([[0.84, 0.68, 0.38], [0.58, 0.38, 0.22], [0.22, 0.15, 0.11]])
    color = group.dirichlet([1.2, 1.5, 1.0]) @ np.stack([honey, amber, dark])
    slope = np.gradient(height)
    relief = 0.9 + 1.6 * (np.cos(turned) * slope[0] + np.sin(turned) * slope[1]) + 0.25 * height
    scene = blend(scene, color * relief.clip(0.15)[..., None], alpha)
    return blend(scene, (1.2, 1.15, 1.0), alpha * group.uniform(0.2, 0.9) * ramp(1.3, 1.8, height + relief - 0.9))


def _shadow(scene: np.ndarray, u: np.ndarray, v: np.ndarray, group: np.random.Generator) -> np.ndarray:
    """Shade the drum from one side as the bend of the canal does, for any finding."""
    turned = group.uniform(-np.pi, np.pi)
    side = u * np.cos(turned) + v * np.sin(turned) + 0.10 * rough(group, _SIZE, 4)
    dark = group.uniform(0.0, 0.5) * ramp(0.35, 0.75, side) * ramp(1.35, 1.0, np.hypot(u, v))
    return scene * (1.0 - dark)[..., None]


def _hairs(scene: np.ndarray, group: np.random.Generator, item: np.random.Generator) -> np.ndarray:
    """Draw the hairs at the entrance of the canal, which some ears have."""
    x, y = pixel_grid(_SIZE)
    x = x + 0.10 * rough(item, _SIZE, 3)
    tone = np.array([0.30, 0.22, 0.17]) * group.uniform(0.5, 3.0)
    for _ in range(max(0, int(group.integers(-6, 10)))):
        turned = item.uniform(-np.pi, np.pi)
        start = (1.0 * np.cos(turned), 1.0 * np.sin(turned))
        inner = item.uniform(0.2, 0.8)
        bent = turned + item.normal(0.0, 0.5)
        hair, _along = segment_distance(x, y, start, (inner * np.cos(bent), inner * np.sin(bent)))
        scene = blend(scene, tone, 0.7 * ramp(0.016, 0.004, hair))
    return scene


def _glare(scene: np.ndarray, item: np.random.Generator) -> np.ndarray:
    """Add wet reflexes of the lamp at random places."""
    x, y = pixel_grid(_SIZE)
    for _ in range(item.integers(1, 4)):
        cx, cy = item.normal(0.0, 0.42, 2)
        dx, dy = turn(x - cx, y - cy, item.uniform(0, np.pi))
        spot = np.hypot(dx, dy * item.uniform(1.0, 3.0)) / item.uniform(0.03, 0.13)
        scene = blend(
            scene, (1.4, 1.38, 1.35), item.uniform(0.4, 1.0) * ramp(1.2, 0.5, spot + 0.2 * rough(item, _SIZE, 14))
        )
    return scene


def _light(distance: np.ndarray, item: np.random.Generator) -> np.ndarray:
    """Return how bright the lamp is: uneven, and falling toward the rim of the view."""
    x, y = pixel_grid(_SIZE)
    turned = item.uniform(-np.pi, np.pi)
    return (1.0 - 0.25 * distance.clip(0, 1) ** 2) * (1.0 + 0.25 * (x * np.cos(turned) + y * np.sin(turned)))
