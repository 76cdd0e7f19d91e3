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

"""Scan synthetic heads as MR slices and volumes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from monai_weckd.data.phantoms.head import Head, head_pose, head_signal, turn_about

__all__ = ["BRAIN_FINDINGS", "VOLUME_RADIUS", "Slice", "scan_slice", "scan_volume"]

BRAIN_FINDINGS = ("no_tumor", "glioma", "meningioma")
# range in mm of the radius of tumors in volumes, whose voxels are three times as wide as a slice's pixels
VOLUME_RADIUS = (20.0, 28.0)

_EDGE, _VOLUME = 128, (40, 48, 40)
_VOXEL = (4.2, 4.4, 5.0)
# whether each axis of a volume runs toward right, front and up (1), or away (-1)
_FLIPS = {"RAS": (1, 1, 1), "LAS": (-1, 1, 1), "LPS": (-1, -1, 1)}


@dataclass(frozen=True)
class Slice:
    """One slice of a series and its position.

    Args:
        pixels: uint16 of shape (rows, columns).
        position: center of the first pixel in mm, in the patient's frame of DICOM (left, back, up).
        orientation: direction in which the column index grows (along a row), then that of the row index.
        spacing: of the pixels in mm, rows and columns.
        thickness: in mm; slices touch.
    """

    pixels: np.ndarray
    position: np.ndarray
    orientation: np.ndarray
    spacing: float
    thickness: float


def scan_slice(finding: str, group: np.random.Generator, item: np.random.Generator, index: int) -> Slice:
    """Scan one slice of a synthetic head; a patient's slices lie around the lesion, or where it would be.

    Args:
        finding: one of ``BRAIN_FINDINGS``.
        group: what the patient's slices share: head, pose, geometry and gain.
        item: the noise of this slice.
        index: place of the slice in the series, from 0.
    """
    head = Head.draw(finding, group)
    frame, shift = head_pose(group)
    tilt = turn_about(group.uniform(-0.2, 0.2), 0)
    spacing, thickness = group.uniform(1.45, 1.75), head.lesion.radius * group.uniform(0.20, 0.28)
    middle = frame @ head.lesion.center + shift
    # even the outermost of four slices lie within half a radius of the middle of the lesion, so each of them shows it
    height = (tilt.T @ middle)[2] + thickness * (index - 1.5) + group.uniform(-1.0, 1.0)
    axis = (np.arange(_EDGE) - 0.5 * (_EDGE - 1)) * spacing
    column, row = np.meshgrid(-axis, -axis)
    corner = tilt @ np.array([-axis[0], -axis[0], height])
    points = np.stack([column, row, np.full_like(column, height)], axis=-1) @ tilt.T
    pixels = _receive(head_signal((points - shift) @ frame, head), group, item)
    to_lps = np.array([-1.0, -1.0, 1.0])
    orientation = np.concatenate([to_lps * -tilt[:, 0], to_lps * -tilt[:, 1]])
    return Slice(pixels, to_lps * corner, orientation, spacing, thickness)


def scan_volume(finding: str, group: np.random.Generator, item: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Scan a synthetic head as a volume.

    Args:
        finding: one of ``BRAIN_FINDINGS``.
        group: what the patient's volumes share: head and gain.
        item: pose, orientation and noise of this volume.

    Returns:
        int16 array of shape (40, 48, 40), and its affine to right, front and up in mm: voxels of 4.2 x 4.4 x 5.0 mm,
        turned by a few degrees, with axis codes RAS, LAS or LPS.
    """
    head = Head.draw(finding, group, radius=VOLUME_RADIUS)
    frame, shift = head_pose(item)
    flip = np.array(_FLIPS[str(item.choice(list(_FLIPS)))], dtype=float)
    affine = np.eye(4)
    oblique = turn_about(item.uniform(-0.12, 0.12), 0) @ turn_about(item.uniform(-0.12, 0.12), 2)
    affine[:3, :3] = oblique * (flip * _VOXEL)
    affine[:3, 3] = item.uniform(-6.0, 6.0, 3) - affine[:3, :3] @ ((np.array(_VOLUME) - 1) / 2)
    index = np.moveaxis(np.indices(_VOLUME), 0, -1)
    points = index @ affine[:3, :3].T + affine[:3, 3]
    voxels = _receive(head_signal((points - shift) @ frame, head), group, item)
    return voxels.astype(np.int16), affine


def _receive(signal: np.ndarray, group: np.random.Generator, item: np.random.Generator) -> np.ndarray:
    """Add the noise of a magnitude image and an arbitrary gain, which makes mean intensity meaningless."""
    sigma = group.uniform(0.015, 0.045)
    noise = item.normal(0.0, sigma, (2, *signal.shape))
    gain = 500.0 * np.exp(group.normal(0.0, 0.35) + item.normal(0.0, 0.05))
    return np.round(np.hypot(signal + noise[0], noise[1]) * gain).clip(0, 32767).astype(np.uint16)
