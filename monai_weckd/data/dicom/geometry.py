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

"""Slice geometry of DICOM images: pixel spacing, position, slice order and the affine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from monai.data.utils import orientation_ras_lps
from pydicom.dataset import Dataset

from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.header import frame_module, numbers

__all__ = ["ImagePlane", "image_plane", "order_planes", "plane_affine", "pixel_spacing"]

_SAME = 1e-3  # rounding in headers: cosines (absolute), pixel spacing (relative), positions (mm)


@dataclass(frozen=True)
class ImagePlane:
    """One slice in the patient, in DICOM's own directions (LPS, mm).

    Args:
        name: file (and frame) of the slice, for messages.
        origin: center of the first pixel, shape ``(3,)``.
        axes: unit vectors along which the column index and the row index grow, shape ``(2, 3)``.
        spacing: distance of pixels along these two axes, shape ``(2,)``.
        thickness: distance to the next slice that the header claims; 1 if it claims none.
    """

    name: str
    origin: np.ndarray
    axes: np.ndarray
    spacing: np.ndarray
    thickness: float

    @property
    def normal(self) -> np.ndarray:
        """Unit vector perpendicular to the slice, such that columns, rows and slices are right-handed."""
        (a, b, c), (d, e, f) = self.axes.tolist()
        return np.array([b * f - c * e, c * d - a * f, a * e - b * d])  # np.cross takes twenty times as long


def pixel_spacing(dataset: Dataset, frame: int = 0) -> tuple[np.ndarray, str]:
    """Return the pixel spacing along columns and rows (X, Y) and the element it is from; 1 and ``""`` if none.

    ``ImagerPixelSpacing`` (radiography) is the spacing on the detector, larger than in the patient; it is
    used where ``PixelSpacing`` is absent.

    Args:
        dataset: a single-frame or multi-frame image.
        frame: index of the frame. Defaults to 0.

    Raises:
        DicomReadError: When the spacing is not two positive numbers.
    """
    module = frame_module(dataset, frame, "PixelMeasuresSequence")
    for source in ("PixelSpacing", "ImagerPixelSpacing"):
        spacing = numbers(module, source, 2)
        if spacing is not None:
            if not (spacing > 0).all():
                raise DicomReadError(f"{source}: expected 2 positive numbers, got {spacing.tolist()}. Repair it.")
            return spacing[::-1], source  # DICOM gives the distance of rows (along Y) first
    return np.ones(2), ""


def image_plane(dataset: Dataset, frame: int, name: str) -> ImagePlane | None:
    """Return the position of a slice or frame in the patient, or ``None`` if the header does not give it.

    Args:
        dataset: a single-frame image, or a multi-frame image with functional groups.
        frame: index of the frame, from 0.
        name: file (and frame) for messages.

    Raises:
        DicomReadError: When position, orientation or spacing is there but malformed.
    """
    origin = numbers(frame_module(dataset, frame, "PlanePositionSequence"), "ImagePositionPatient", 3)
    axes = numbers(frame_module(dataset, frame, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
    spacing, source = pixel_spacing(dataset, frame)
    if origin is None or axes is None or not source:
        return None
    axes = axes.reshape(2, 3)
    if not _is_near(axes @ axes.T, np.eye(2)):
        raise DicomReadError(f"ImageOrientationPatient: expected 2 orthogonal unit vectors, got {axes.tolist()}.")
    module = frame_module(dataset, frame, "PixelMeasuresSequence")
    claims = [numbers(module, keyword, 1) for keyword in ("SpacingBetweenSlices", "SliceThickness")]
    thickness = next((abs(float(claim[0])) for claim in claims if claim is not None and claim[0] != 0), 1.0)
    return ImagePlane(name=name, origin=origin, axes=axes, spacing=spacing, thickness=thickness)


def order_planes(planes: Sequence[ImagePlane], *, gap_tolerance: float = 0.1) -> tuple[list[int], np.ndarray]:
    """Sort slices along their normal and check that they are one evenly spaced volume.

    Args:
        planes: slices in any order.
        gap_tolerance: maximum deviation of a step between neighbors from the usual step, as a fraction of it.
            Defaults to 0.1.

    Returns:
        The order as indices into ``planes``, and the mean step between slices, shape ``(3,)``, in mm.

    Raises:
        DicomReadError: When slices differ in orientation or spacing, share a position, are missing, or are uneven.
    """
    first = planes[0]
    for plane in planes[1:]:
        if not _is_near(plane.axes, first.axes):
            raise DicomReadError(_apart("orientations", first, plane, "Pass the slices of one orientation."))
        if not np.allclose(plane.spacing, first.spacing, rtol=_SAME):
            raise DicomReadError(_apart("pixel spacings", first, plane, "Pass the slices of one spacing."))
    if len(planes) == 1:
        return [0], first.normal * first.thickness
    normal = first.normal
    heights = [float(plane.origin @ normal) for plane in planes]
    order = sorted(range(len(planes)), key=heights.__getitem__)
    _check_steps([planes[k] for k in order], gap_tolerance)
    return order, (planes[order[-1]].origin - planes[order[0]].origin) / (len(planes) - 1)


def _is_near(one: np.ndarray, other: np.ndarray) -> bool:
    """Return whether directions are the same; np.allclose takes ten times as long."""
    return bool(np.abs(one - other).max() <= _SAME)


def _apart(what: str, one: ImagePlane, other: ImagePlane, remedy: str) -> str:
    return f"{one.name} and {other.name}: expected slices of one volume, got different {what}. {remedy}"


def _check_steps(planes: Sequence[ImagePlane], gap_tolerance: float) -> None:
    """Refuse sorted slices whose steps, as vectors, are not all about the same."""
    steps = np.diff([plane.origin for plane in planes], axis=0)
    gaps = steps @ planes[0].normal
    for one, other, gap in zip(planes, planes[1:], gaps, strict=False):
        if gap < _SAME:
            raise DicomReadError(
                f"{one.name} and {other.name}: share one position. Pass the slices of one volume, each once."
            )
    lengths = np.linalg.norm(steps, axis=1)
    typical = np.argsort(lengths)[(len(lengths) - 1) // 2]  # the lower median: a step too wide is never the rule
    length = float(lengths[typical])
    errors = np.linalg.norm(steps - steps[typical], axis=1) / length
    worst = int(errors.argmax())
    if errors[worst] <= gap_tolerance:
        return
    pair, missing = f"{planes[worst].name} and {planes[worst + 1].name}", round(gaps[worst] / gaps[typical]) - 1
    if missing > 0:
        raise DicomReadError(f"{pair}: {missing} slice(s) missing between them. Complete the series.")
    raise DicomReadError(
        f"{pair}: the step between them differs by {errors[worst]:.0%} from the usual {length:.4g} mm. "
        f"Pass gap_tolerance={errors[worst] + 0.01:.2f} to accept it."
    )


def plane_affine(plane: ImagePlane, step: np.ndarray) -> np.ndarray:
    """Return the affine from ``(X, Y, Z)`` indices to mm in RAS, as NIfTI and MONAI have it (PS3.3 C.7.6.2.1.1).

    Args:
        plane: the first slice.
        step: from one slice to the next, shape ``(3,)``, in mm.
    """
    affine = np.eye(4)
    affine[:3, :2] = (plane.axes * plane.spacing[:, None]).T
    affine[:3, 2] = step
    affine[:3, 3] = plane.origin
    return orientation_ras_lps(affine)
