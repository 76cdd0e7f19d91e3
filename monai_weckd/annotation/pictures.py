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


from __future__ import annotations

import io
import os
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from monai_weckd.transforms.load import LoadMedicalImage

__all__ = ["describe_image", "image_png"]


def describe_image(path: str) -> dict[str, Any]:
    """Return what is needed to show an image.

    Args:
        path: a file, or the folder of a DICOM series.

    Returns:
        ``kind`` ("color", "gray" or "volume"), ``shape`` (spatial, in the order X, Y, Z), number of ``slices``, and as
        ``window`` the ``center`` and ``width`` that show most of the values; None for color.

    Raises:
        ValueError: When the image cannot be read.

    """
    array = _read(path)
    shape = list(array.shape[1:])
    kind = "volume" if len(shape) == 3 else "color" if array.shape[0] == 3 else "gray"
    window = None if array.shape[0] == 3 else dict(zip(("center", "width"), _window(array), strict=True))
    return {"kind": kind, "shape": shape, "slices": shape[2] if len(shape) == 3 else 1, "window": window}


def image_png(
    path: str, *, number: int | None = None, center: float | None = None, width: float | None = None
) -> bytes:
    """Return one slice of an image as an 8-bit PNG, with X to the right and Y downwards.

    Args:
        path: a file, or the folder of a DICOM series.
        number: number of the slice, from 0, default None: the middle one.
        center: value that becomes middle gray, default None: see :py:func:`describe_image`. Not for color.
        width: range of values from black to white, likewise.

    Raises:
        ValueError: When the image cannot be read, or there is no such slice or window.

    """
    array = _read(path)
    slices = array.shape[3] if array.ndim == 4 else 1
    number = slices // 2 if number is None else number
    if not 0 <= number < slices:
        raise ValueError(f"slice: expected a number from 0 to {slices - 1}, got {number}. Pass another.")
    if width is not None and not width > 0:
        raise ValueError(f"width: expected a number above 0, got {width}. Pass another.")
    plane = array[..., number] if array.ndim == 4 else array
    if array.shape[0] != 3 or array.dtype != np.uint8:
        found = _window(array)
        low = (found[0] if center is None else center) - (found[1] if width is None else width) / 2
        high = low + (found[1] if width is None else width)
        plane = np.clip((plane.astype(np.float32) - low) * (255 / (high - low)), 0, 255).round().astype(np.uint8)
    picture = Image.fromarray(plane[0].T if plane.shape[0] == 1 else plane.transpose(2, 1, 0))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _window(array: np.ndarray) -> tuple[float, float]:
    if array.dtype == np.uint8:
        return 127.5, 255.0
    low, high = (float(value) for value in np.percentile(array, (1, 99)))
    return (low + high) / 2, max(high - low, 1e-6)


def _read(path: str) -> np.ndarray:
    return _kept(path, os.stat(path).st_mtime_ns)


# who looks at a volume looks at one slice after the other
@lru_cache(maxsize=4)
def _kept(path: str, changed: int) -> np.ndarray:
    return LoadMedicalImage().read(path)[0]
