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

"""Model a synthetic head for MR phantoms: anatomy, lesions and signal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_weckd.data.phantoms.canvas import ramp

__all__ = ["Head", "Lesion", "Waves", "head_pose", "head_signal", "turn_about"]

# semi-axes in mm of the inner table of the skull: left-right, front-back, up-down
_SKULL = (66.0, 84.0, 68.0)
_SCALP, _BONE, _FLUID, _GRAY, _WHITE, _DURA = range(6)


class Waves:
    """A random smooth field over space.

    A sum of plane waves can be evaluated at any point, so that the slices of a patient show one anatomy.

    Args:
        rng: source of directions and phases.
        length: wave length in mm.
        count: number of waves, default 10.
    """

    def __init__(self, rng: np.random.Generator, length: float, *, count: int = 10) -> None:
        directions = rng.normal(size=(3, count))
        directions /= np.linalg.norm(directions, axis=0)
        self.vectors = (directions * (2.0 * np.pi / length) * rng.uniform(0.7, 1.4, count)).astype(np.float32)
        self.phases = rng.uniform(0.0, 2.0 * np.pi, count).astype(np.float32)

    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Return the field, of mean 0 and variance 1, at points of shape (..., 3) in mm."""
        scale = np.float32(np.sqrt(2.0 / len(self.phases)))
        return np.asarray(np.cos(points @ self.vectors + self.phases).sum(-1) * scale)


@dataclass(frozen=True)
class Lesion:
    """A tumor, or the place where one would be.

    Args:
        kind: "no_tumor", "glioma" or "meningioma".
        center: in mm, in the frame of the head (right-left, back-front, down-up).
        radius: in mm.
    """

    kind: str
    center: np.ndarray
    radius: float

    @classmethod
    def draw(cls, kind: str, rng: np.random.Generator, *, radius: tuple[float, float]) -> Lesion:
        """Place a lesion: within the brain for a glioma, at the dura for a meningioma, either for none."""
        inward = kind == "glioma" or (kind == "no_tumor" and rng.random() < 0.5)
        turned = rng.uniform(0.0, 2.0 * np.pi)
        height = rng.uniform(-0.15, 0.45)
        reach = rng.uniform(0.42, 0.62) if inward else rng.uniform(0.84, 0.92)
        flat = np.sqrt(reach**2 - min(height, 0.8 * reach) ** 2)
        unit = np.array([flat * np.cos(turned), flat * np.sin(turned), min(height, 0.8 * reach)])
        return cls(kind, unit * _SKULL, rng.uniform(*radius))


@dataclass(frozen=True)
class Head:
    """A synthetic patient: anatomy, contrast of the sequence and lesion.

    Args:
        axes: semi-axes of the inner table of the skull in mm.
        tissue: signal of scalp, bone, fluid, gray matter, white matter and dura.
        ventricle: width of the ventricles, where 1 is usual.
        cyst: center and radius in mm of an arachnoid cyst, which any head may have; radius 0 for none.
        lesion: the tumor.
        sulci: field whose zeros are the sulci.
        detail: finer field.
        sway: three fields in mm that make the head uneven.
        bias: field of the coil.
        infiltrating: whether a glioma has no ring that takes up contrast medium.
    """

    axes: np.ndarray
    tissue: np.ndarray
    ventricle: float
    cyst: np.ndarray
    lesion: Lesion
    sulci: Waves
    detail: Waves
    sway: tuple[Waves, ...]
    bias: Waves
    infiltrating: bool

    @classmethod
    def draw(cls, kind: str, rng: np.random.Generator, *, radius: tuple[float, float] = (14.0, 22.0)) -> Head:
        """Draw a patient with a kind of tumor, or none, and a range for its radius in mm."""
        axes = np.array(_SKULL) * rng.normal(1.0, 0.04, 3)
        tissue = np.array([0.95, 0.10, 0.18, 0.46, 0.70, 0.95]) * np.exp(rng.normal(0.0, 0.08, 6))
        side, turned = rng.uniform(-0.1, 0.5), rng.uniform(0.0, 2.0 * np.pi)
        at = 0.9 * axes * np.array([np.sqrt(1 - side**2) * np.cos(turned), np.sqrt(1 - side**2) * np.sin(turned), side])
        return cls(
            axes=axes,
            tissue=tissue,
            ventricle=rng.uniform(0.7, 1.5),
            cyst=np.append(at, rng.uniform(9.0, 17.0) * (rng.random() < 0.2)),
            lesion=Lesion.draw(kind, rng, radius=radius),
            sulci=Waves(rng, 30.0),
            detail=Waves(rng, 14.0, count=8),
            sway=tuple(Waves(rng, 110.0, count=4) for _ in range(3)),
            bias=Waves(rng, 260.0, count=4),
            infiltrating=bool(rng.random() < 0.3),
        )


def turn_about(angle: float, axis: int) -> np.ndarray:
    """Return the rotation by an angle in radians about one axis."""
    i, j = [k for k in range(3) if k != axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def head_pose(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return how a head lies in the scanner: a rotation from its frame to the scanner's, then a shift in mm."""
    x, y, z = rng.normal(0.0, 0.08, 3)
    return turn_about(x, 0) @ turn_about(y, 1) @ turn_about(z, 2), rng.normal(0.0, 4.0, 3)


def head_signal(points: np.ndarray, head: Head) -> np.ndarray:
    """Return the noiseless MR signal of a head, T1-weighted and after contrast medium.

    Args:
        points: positions of shape (..., 3) in mm in the frame of the head.
        head: the patient.

    Returns:
        float32 of shape (...), about 0 to 1.5.
    """
    points = points.astype(np.float32)
    signal = np.zeros(points.shape[:-1], dtype=np.float32)
    # the rest is air
    near = np.linalg.norm(points / head.axes, axis=-1) < 1.35
    signal[near] = _signal_near(points[near], head)
    return signal


def _signal_near(points: np.ndarray, head: Head) -> np.ndarray:
    """Return the signal at points of shape (N, 3) in the head or close to it."""
    uneven = points + 2.0 * np.stack([field(points) for field in head.sway], axis=-1)
    rho = np.linalg.norm(uneven - head.lesion.center, axis=-1) / head.lesion.radius
    if head.lesion.kind != "no_tumor":
        # the tumor pushes the brain aside
        push = 0.35 * np.exp(-((rho / 1.6) ** 2))
        uneven = uneven - push[..., None] * (uneven - head.lesion.center)
    shell = np.linalg.norm(uneven / head.axes, axis=-1)
    depth = (1.0 - shell) * head.axes.mean()
    fine = head.detail(uneven)
    signal = _brain(uneven, depth, fine, head)
    if head.lesion.kind == "glioma":
        signal = _infiltrate(signal, rho + 0.22 * fine, fine, head)
    elif head.lesion.kind == "meningioma":
        signal = _attach(signal, rho, depth, fine, head)
    signal = _skull(signal, shell, fine, head)
    return signal * (1.0 + 0.12 * head.bias(points))


def _mix(base: np.ndarray, value: float | np.ndarray, share: np.ndarray) -> np.ndarray:
    """Replace a share of a tissue with another."""
    return base + share * (value - base)


def _brain(points: np.ndarray, depth: np.ndarray, fine: np.ndarray, head: Head) -> np.ndarray:
    """Return white matter, folded cortex, deep nuclei, ventricles, fissure, veins and a cyst."""
    tissue = head.tissue
    x, y, z = np.moveaxis(points, -1, 0)
    # sulci dip inwards where the field is near zero
    fold = np.abs(head.sulci(points))
    sulcus, ribbon = 13.0 * ramp(0.45, 0.0, fold), 15.0 * ramp(0.95, 0.1, fold)
    signal = _mix(np.full_like(x, tissue[_WHITE]), tissue[_GRAY], ramp(1.5, -1.5, depth - ribbon - 6.0))
    for side in (-1.0, 1.0):
        nuclei = np.sqrt(((side * x - 16) / 11) ** 2 + ((y - 2) / 19) ** 2 + ((z - 4) / 13) ** 2)
        signal = _mix(signal, 0.5 * (tissue[_GRAY] + tissue[_WHITE]), ramp(1.1, 0.9, nuclei))
    signal = _mix(signal, tissue[_FLUID], ramp(1.0, -1.0, np.maximum(depth - 0.8 * sulcus - 1.0, 12.0 * fold - 2.0)))
    signal = _mix(signal, tissue[_FLUID], ramp(2.2, -0.5, depth))
    fissure = np.maximum(np.abs(x) - 1.2, depth - 26.0)
    signal = _mix(signal, tissue[_FLUID], ramp(0.8, -0.8, fissure))
    for side in (-1.0, 1.0):
        signal = _mix(signal, tissue[_FLUID], ramp(1.5, -1.5, _ventricle(side * x, y, z, head.ventricle)))
    sinus = np.hypot(x / 4.0, (depth - 2.0) / 3.0)
    signal = _mix(signal, tissue[_DURA], ramp(1.2, 0.8, sinus))
    if head.cyst[3] > 0:
        away = np.linalg.norm(points - head.cyst[:3], axis=-1)
        signal = _mix(signal, tissue[_FLUID], ramp(1.0, -1.0, away - head.cyst[3]))
    return signal * (1.0 + 0.03 * fine)


def _ventricle(x: np.ndarray, y: np.ndarray, z: np.ndarray, width: float) -> np.ndarray:
    """Return the distance in mm to one lateral ventricle, an arch from the frontal to the occipital horn."""
    arch = z - (16.0 - (y / 20.0) ** 2 * 3.0)
    out = x - (7.0 + 0.006 * (y - 5.0) ** 2)
    long = np.maximum(np.abs(y + 5.0) - 38.0, 0.0)
    return np.sqrt((out / (0.8 * width)) ** 2 + (arch / 1.4) ** 2 + long**2) - 5.0


def _infiltrate(signal: np.ndarray, rho: np.ndarray, fine: np.ndarray, head: Head) -> np.ndarray:
    """Add a glioma: ragged, with edema, and with a broken bright ring around a dead core, or none."""
    gray, fluid = head.tissue[_GRAY], head.tissue[_FLUID]
    signal = _mix(signal, 0.5 * (gray + fluid), 0.8 * ramp(1.75, 1.25, rho))
    if head.infiltrating:
        return _mix(signal, 0.85 * gray, ramp(1.1, 0.9, rho) * (0.7 + 0.3 * ramp(0.0, 1.0, fine)))
    signal = _mix(signal, head.tissue[_DURA], ramp(1.05, 0.95, rho) * ramp(-1.2, 0.6, fine))
    return _mix(signal, 0.8 * gray, ramp(0.75, 0.62, rho + 0.1 * fine))


def _attach(signal: np.ndarray, rho: np.ndarray, depth: np.ndarray, fine: np.ndarray, head: Head) -> np.ndarray:
    """Add a meningioma: smooth, evenly bright, on the dura, with a cleft of fluid around it and a dural tail."""
    bright = head.tissue[_DURA] * (1.0 + 0.03 * fine)
    signal = _mix(signal, head.tissue[_FLUID], 0.8 * ramp(1.16, 1.06, rho))
    signal = _mix(signal, bright, ramp(2.0, 1.5, rho) * ramp(4.0, 2.5, depth))
    return _mix(signal, bright, ramp(1.04, 0.97, rho))


def _skull(signal: np.ndarray, shell: np.ndarray, fine: np.ndarray, head: Head) -> np.ndarray:
    """Surround the head with bone, scalp and air."""
    signal = _mix(signal, head.tissue[_BONE] * (1.0 + 0.2 * fine), ramp(0.995, 1.015, shell))
    signal = _mix(signal, head.tissue[_SCALP] * (1.0 + 0.08 * fine), ramp(1.07, 1.09, shell))
    return _mix(signal, 0.0, ramp(1.17, 1.19, shell))
