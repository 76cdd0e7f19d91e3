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

"""Refuse NIfTI volumes whose header does not say where their voxels lie: readers repair it without a word."""

from __future__ import annotations

from typing import Any

import numpy as np
from nibabel.orientations import aff2axcodes

__all__ = ["volume_fault"]

_SMALLEST, _LARGEST = 1e-4, 1e3  # mm, of a voxel
_FLATTEST = 1e-3  # volume of the body that three directions of length 1 span
_DIFFERENT, _EQUAL = 0.01, 1e-5  # of the largest number in the affine


def volume_fault(header: Any, sizes: tuple[int, ...], affine: np.ndarray) -> str:
    """Return what about the geometry of a volume is wrong, with the remedy; empty if nothing.

    Args:
        header: the header as it is stored, not as nibabel mends it.
        sizes: numbers of voxels.
        affine: maps indices to mm.

    """
    shape = " x ".join(map(str, sizes))
    if 0 in sizes:
        return f"expected voxels, got none ({shape}). Repair the file or leave it out."
    if 1 in sizes:
        flat = " x ".join(str(size) for size in sizes if size > 1)
        return f"expected a picture or a volume, got one slice ({shape}). Save it as {flat}."
    unit = header.get_xyzt_units()[0]
    if unit not in ("mm", "unknown"):
        return f"expected millimeters, got {unit}. Convert the header."
    claimed = header["pixdim"][1:4]
    if not header["sform_code"] and not ((claimed > 0) & np.isfinite(claimed)).all():
        return f"expected three voxel sizes above 0, got {_text(claimed)}. Correct the header."
    best = header.get_best_affine()
    return _affine_fault(best[:3, :3]) or _disagreement(header, affine, best)


def _disagreement(header: Any, taken: np.ndarray, best: np.ndarray) -> str:
    """Return that the header has two geometries; MONAI takes the one, other programs the other."""
    largest = np.abs(best[:3, :3]).max()
    differs = np.abs(taken - best)[:3, :3].max() > _DIFFERENT * largest
    if header["sform_code"] and header["qform_code"]:
        sform, qform = best, header.get_qform()  # the best is the sform then
        # those that are nearly equal have the same main directions, unless these are two at once
        if np.abs(sform - qform)[:3, :3].max() > _EQUAL * largest:
            differs |= aff2axcodes(sform) != aff2axcodes(qform)
    return "expected one geometry, got an sform unlike qform or pixdim. Correct the header." if differs else ""


def _affine_fault(matrix: np.ndarray) -> str:
    lengths = np.sqrt((matrix * matrix).sum(axis=0))
    sound = bool(np.isfinite(matrix).all()) and bool(((lengths >= _SMALLEST) & (lengths <= _LARGEST)).all())
    if sound and abs(np.linalg.det(matrix / lengths)) >= _FLATTEST:
        return ""
    return (
        f"expected voxels of {_SMALLEST:g} to {_LARGEST:g} mm along three directions, got {_text(lengths)}"
        f"{' along fewer' if sound else ''}. Correct the header."
    )


def _text(values: np.ndarray) -> str:
    return " x ".join(f"{value:g}" for value in values)
