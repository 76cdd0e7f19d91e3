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

"""Render images for a viewer: PNG slices with window, pixel size and orientation."""

from __future__ import annotations

import hashlib
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from threading import BoundedSemaphore
from typing import Any

import numpy as np
from monai.utils import MetaKeys
from PIL import Image

from monai_weckd.annotation.flights import Flights
from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.image_reader import read_image

__all__ = ["describe_image", "image_png", "thumbnail"]

_WINDOW = ("WindowCenter", "WindowWidth")
_ORIGIN = ("Modality", "SeriesInstanceUID")
_CLIPPED = 0.98  # share of values that are all black, or all white, in a window that shows nothing
_BYTES = (127.5, 255.0)
_SAMPLES = 2**20
_THUMBNAIL = 128  # pixels
# direction of the first pixel on an axis that runs to the left, back or feet
_EDGES = ("R", "A", "S")


# concurrent requests for one image decode it once, and no more than two images are decoded at a time
_few = BoundedSemaphore(2)


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class _Shown:
    """An image prepared for display: ``array`` is (C, columns, rows[, slices])."""

    array: np.ndarray
    window: tuple[float, float]
    auto: tuple[float, float]
    limits: tuple[float, float]
    modality: str
    series: str
    pixel: tuple[float, float]
    edges: tuple[str, str] | None

    @property
    def is_color(self) -> bool:
        return self.array.shape[0] == 3

    @property
    def slices(self) -> int:
        return self.array.shape[3] if self.array.ndim == 4 else 1


_shown: Flights[_Shown] = Flights(kept=4, few=_few)  # scrolling requests one slice after the other
_small: Flights[bytes] = Flights(kept=4000, few=_few)  # some kilobytes each


def describe_image(path: str) -> dict[str, Any]:
    """Return what a viewer needs to show an image.

    Args:
        path: a file, or the folder of a DICOM series.

    Returns:
        ``kind`` ("color", "gray" or "volume"); ``shape`` in columns, rows and, for a volume, slices; the number of
        ``slices``; ``pixel``, width and height of a pixel in mm if known; ``edges``, the directions in the patient
        (R, A, S) of the ``left`` and ``top`` edge, None if unknown; ``modality`` and ``series`` (a digest of its UID)
        of a DICOM file, else ""; for gray, the initial ``window`` (``center``, ``width``: a DICOM file's own, unless
        nearly all would be black, or white; the full range for bytes; else as ``auto``), the window ``auto``, which
        covers most values, and the ``limits`` of all values (``low``, ``high``), None for color.

    Raises:
        ValueError: When the image cannot be read.

    """
    shown = _read(path)
    volume, gray = shown.array.ndim == 4, not shown.is_color
    windows = {"window": shown.window, "auto": shown.auto}
    return {
        "kind": "volume" if volume else "gray" if gray else "color",
        "shape": list(shown.array.shape[1:]),
        "slices": shown.slices,
        "pixel": list(shown.pixel),
        "edges": dict(zip(("left", "top"), shown.edges, strict=True)) if shown.edges else None,
        "modality": shown.modality,
        "series": shown.series,
        **{
            name: dict(zip(("center", "width"), window, strict=True)) if gray else None
            for name, window in windows.items()
        },
        "limits": dict(zip(("low", "high"), shown.limits, strict=True)) if gray else None,
    }


def image_png(
    path: str, *, number: int | None = None, center: float | None = None, width: float | None = None
) -> bytes:
    """Return one slice of an image as an 8-bit PNG.

    If the file gives the orientation in the patient, the image is flipped, or its axes are swapped, to the
    radiological view: the patient's right is at the left, and the front or the head is at the top.

    Args:
        path: a file, or the folder of a DICOM series.
        number: number of the slice, from 0, default None: the middle one.
        center: value that becomes middle gray, default None: see :py:func:`describe_image`.
        width: range of values from black to white, default None: see :py:func:`describe_image`.

    Raises:
        ValueError: When the image cannot be read, or the slice or window is out of range.

    """
    shown = _read(path)
    number = shown.slices // 2 if number is None else number
    center, width = shown.window[0] if center is None else center, shown.window[1] if width is None else width
    if not 0 <= number < shown.slices:
        raise ValueError(f"slice: expected a number from 0 to {shown.slices - 1}, got {number}. Pass another.")
    if not math.isfinite(center):
        raise ValueError(f"center: expected a finite number, got {center}. Pass another.")
    if not 0 < width < math.inf:
        raise ValueError(f"width: expected a finite number above 0, got {width}. Pass another.")
    plane = shown.array[..., number] if shown.array.ndim == 4 else shown.array
    with _few:
        return _png(plane, center, width)


def thumbnail(path: str) -> bytes:
    """Return a small JPEG of the middle slice of an image, at most 128 pixels wide and high; the last ones are kept.

    Args:
        path: a file, or the folder of a DICOM series.

    Raises:
        ValueError: When the image cannot be read.

    """
    return _small.get((path, os.stat(folder_of(path)).st_mtime_ns), lambda: _thumbnail(path))


def _thumbnail(path: str) -> bytes:
    shown = _decoded(path)
    plane = shown.array[..., shown.slices // 2] if shown.array.ndim == 4 else shown.array
    width, height = (size * pixel for size, pixel in zip(plane.shape[1:], shown.pixel, strict=True))
    step = max(1, min(plane.shape[1:]) // (4 * _THUMBNAIL))  # what is left is still reduced by a filter
    picture = Image.fromarray(_bytes(plane[:, ::step, ::step], *shown.window))
    scale = _THUMBNAIL / max(width, height)
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


def _png(plane: np.ndarray, center: float, width: float) -> bytes:
    """Return the PNG of (C, columns, rows) in a window."""
    buffer = io.BytesIO()
    # fast rather than small: the browser usually runs on the same machine
    Image.fromarray(_bytes(plane, center, width)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def _bytes(plane: np.ndarray, center: float, width: float) -> np.ndarray:
    """Return (C, columns, rows) in a window as bytes, (rows, columns[, 3]).

    Rows are converted to float in chunks, to save memory.
    """
    channels, columns, rows = plane.shape
    pixels = np.empty((rows, columns, channels), np.uint8)
    step = max(1, _SAMPLES // (columns * channels))
    for first in range(0, rows, step):
        gray = (plane[..., first : first + step].astype(np.float64) - center) * (255 / width) + _BYTES[0]
        pixels[first : first + step] = np.clip(gray.round(), 0, 255).astype(np.uint8).transpose(2, 1, 0)
    return pixels if channels == 3 else pixels[..., 0]


def _read(path: str) -> _Shown:
    return _shown.get((path, os.stat(folder_of(path)).st_mtime_ns), lambda: _decoded(path))


def _decoded(path: str) -> _Shown:
    array, meta = read_image(path, dicom_reader=DicomReader(tags=(*_WINDOW, *_ORIGIN)))
    if array.shape[0] != 1 and not meta["is_color"]:
        raise ValueError(f"image: expected gray or color, got {array.shape[0]} channels. Convert it.")
    limits = float(array.min()), float(array.max())
    window, auto = _windows(array, meta, limits)
    turned, pixel, edges = _turned(array, meta)
    modality, uid = (str(meta.get(keyword, "")) for keyword in _ORIGIN)
    series = hashlib.sha256(uid.encode()).hexdigest()[:16] if uid else ""
    return _Shown(turned, window, auto, limits, modality, series, pixel, edges)


def _windows(
    array: np.ndarray, meta: Mapping[str, Any], limits: tuple[float, float]
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the window to begin with, and the one that covers most values."""
    values = array.ravel()
    values = values[:: 1 + values.size // _SAMPLES]
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    low, high = (low, high) if high > low else limits  # a few bright pixels on a flat background
    auto = (low + high) / 2, high - low or 1.0
    color = array.shape[0] == 3
    if array.dtype == np.uint8 or (color and limits[0] >= 0 and 1 < limits[1] <= 255):
        return _BYTES, auto
    own = _own_window(meta)
    return (auto if own is None or _shows_nothing(values, *own) else own), auto


def _shows_nothing(values: np.ndarray, center: float, width: float) -> bool:
    """Return whether nearly all values are black in a window, or nearly all white."""
    return max((values <= center - width / 2).mean(), (values >= center + width / 2).mean()) >= _CLIPPED


def _own_window(meta: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return the first window in a DICOM header, None if it has no usable one."""
    if meta.get("inverted", True):  # not DICOM, or the window refers to values before inversion
        return None
    try:
        center, width = (float(meta[keyword].strip("[]").split(",")[0]) for keyword in _WINDOW)
    except ValueError:
        return None
    return (center, width) if math.isfinite(center) and 0 < width < math.inf else None


def _turned(
    array: np.ndarray, meta: Mapping[str, Any]
) -> tuple[np.ndarray, tuple[float, float], tuple[str, str] | None]:
    """Return an image in its display orientation, its pixel width and height, and the directions of its edges."""
    axes = np.asarray(meta[MetaKeys.AFFINE])[:3, :2]
    sizes = [float(size) for size in np.linalg.norm(axes, axis=0)]
    pixel = (sizes[0], sizes[1]) if min(sizes) > 0 else (1.0, 1.0)
    if not meta["has_geometry"] or min(sizes) == 0:
        return array, pixel, None
    first = int(np.abs(axes[:, 0]).argmax())
    second = max({0, 1, 2} - {first}, key=lambda place: abs(axes[place, 1]))
    # of left-right, front-back and head-feet, the axis named first is horizontal; both run opposite to RAS on the
    # screen
    flipped = tuple(1 + axis for axis, place in enumerate((first, second)) if axes[place, axis] > 0)
    array = np.flip(array, flipped)
    if first < second:
        return array, pixel, (_EDGES[first], _EDGES[second])
    return np.swapaxes(array, 1, 2), pixel[::-1], (_EDGES[second], _EDGES[first])
