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

"""A MONAI image reader for DICOM files and series."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data.image_reader import ImageReader, is_dicom_path
from monai.utils import MetaKeys, SpaceKeys, ensure_tuple
from pydicom.datadict import keyword_dict, tag_for_keyword
from pydicom.dataset import Dataset

from monai_weckd.data.dicom.errors import DicomReadError, named_errors
from monai_weckd.data.dicom.geometry import ImagePlane, image_plane, order_planes, pixel_spacing, plane_affine
from monai_weckd.data.dicom.header import check_is_picture, frame_size
from monai_weckd.data.dicom.padding import fill_padding
from monai_weckd.data.dicom.pixels import Window, picture_frames
from monai_weckd.data.dicom.series import read_series
from monai_weckd.utils.budget import borrowed, budgeted, claim
from monai_weckd.utils.messages import nearest

__all__ = ["DicomReader"]


_FLOAT = 4 + 1  # bytes of a sample of the array, and of the mask of its padding


class DicomReader(ImageReader):
    """Read DICOM images for classification correctly, or raise a one-line :py:class:`DicomReadError`.

    One frame is 2-D, ``(X, Y)`` or ``(X, Y, 3)``. A folder or list of files is one series, ``(X, Y, Z)`` or
    ``(X, Y, Z, 3)``, and so are several frames in one file; a folder with one image is read like that file.
    Axes, ``original_channel_dim`` and the RAS ``affine`` are those that :py:class:`monai.data.NibabelReader`
    gives for the same image saved as NIfTI. The array is float32.

    - Values are modality values (e.g. HU): rescale or modality table applied, each frame with its own.
    - Padding (``PixelPaddingValue``, ``PixelPaddingRangeLimit``) is background: it takes the darkest value of the
      rest of the image, after polarity and window. Darker zeros stay 0.
    - Bright means MONOCHROME2: a MONOCHROME1 image is inverted, and ``meta["inverted"]`` is ``True``.
    - Palettes and YBR become RGB; colors and palette entries of more than 8 bits lose the low ones.
    - Slices are sorted by position along their normal. Mixed series, orientations or shapes, duplicate or missing
      slices and uneven gaps are errors. Frames of a file without positions, or at one position, stay as stored.
    - Without position and orientation, ``meta["has_geometry"]`` is ``False`` and the affine holds the pixel
      spacing alone, or is the identity. ``meta["spacing_from"]`` names the element the spacing is from:
      ``"PixelSpacing"``, ``"ImagerPixelSpacing"`` (on the detector, so larger than in the patient) or ``""``.
    - Segmentations, doses, slide tiles, 1-bit masks and objects without pixels are refused.
    - In a folder, other files and DICOM objects without pixels are ignored; sub-folders are not searched.
    - Only the elements that make up an image are read: no name, number or date of a patient is kept.

    Errors come from :py:meth:`get_data`: after an error in :py:meth:`read`, :py:class:`monai.transforms.LoadImage`
    would try its other readers.

    Args:
        series_uid: which series of a folder or list to read. Defaults to ``None``: there must be only one.
        window: ``None`` (default) for modality values, ``"dicom"`` for the window or VOI table of each header,
            ``(center, width)`` for that window. Both windows give 0..1 and refuse color images.
        tags: keywords of further elements to copy to ``meta`` as text, from the first slice; ``""`` if absent.
            Defaults to none.
        gap_tolerance: maximum deviation of a step between slices from the usual step, as a fraction of it.
            Defaults to 0.1.
        max_pixels: maximum number of samples of an image, checked before it is decoded. Defaults to 2**29, 2 GiB.

    Raises:
        ValueError: When an argument is not as described.

    Example::

        >>> from monai.transforms import LoadImaged
        >>> from monai_weckd.data import DicomReader
        >>> load = LoadImaged("image", reader=DicomReader(window=(40, 400)), ensure_channel_first=True)
    """

    def __init__(
        self,
        series_uid: str | None = None,
        window: str | Sequence[float] | None = None,
        *,
        tags: Sequence[str] = (),
        gap_tolerance: float = 0.1,
        max_pixels: int = 2**29,
    ) -> None:
        super().__init__()
        self.series_uid = series_uid
        self.window = _checked_window(window)
        self.tags = {keyword: _checked_tag(keyword) for keyword in ensure_tuple(tags)}
        self.gap_tolerance = gap_tolerance
        self.max_pixels = max_pixels
        if not gap_tolerance >= 0:
            raise ValueError(f"gap_tolerance: expected a fraction of at least 0, got {gap_tolerance}. Pass e.g. 0.1.")
        if max_pixels < 1:
            raise ValueError(f"max_pixels: expected at least 1, got {max_pixels}. Pass e.g. 2**29.")

    def verify_suffix(self, filename: Sequence[PathLike] | PathLike) -> bool:
        """Return whether every path is a folder, ends in ``.dcm``, or has the ``DICM`` prefix.

        Args:
            filename: path or paths to test.
        """
        return all(is_dicom_path(name) for name in ensure_tuple(filename))

    def read(self, data: Sequence[PathLike] | PathLike, **kwargs: Any) -> list[str]:
        """Return the paths as text; :py:meth:`get_data` opens them.

        Args:
            data: a file, a folder that holds a series, or the files of a series.
            kwargs: must be empty; part of the signature of :py:class:`monai.data.ImageReader`.

        Raises:
            TypeError: When there are ``kwargs``.
        """
        if kwargs:
            raise TypeError(f"kwargs: expected none, got {sorted(kwargs)}. Pass options to DicomReader().")
        return [str(name) for name in ensure_tuple(data)]

    @budgeted
    def get_data(self, img: Sequence[str]) -> tuple[np.ndarray, dict[str, Any]]:
        """Read, check and order the files, and return the array and its metadata.

        Args:
            img: what :py:meth:`read` gave.

        Raises:
            DicomReadError: When the input is not one image; the message names the file and what to do.
        """
        slices = read_series(list(ensure_tuple(img)), self.series_uid, tags=tuple(self.tags.values()))
        if len(slices) > 1:
            return self._volume(slices)
        name, dataset = slices[0]
        with named_errors(name):
            return self._single(dataset)

    def _single(self, dataset: Dataset) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the one frame of a file as a picture, or its frames as a volume."""
        claim(_FLOAT * check_is_picture(dataset, max_pixels=self.max_pixels))
        frames = picture_frames(dataset, self.window)
        if len(frames) == 1:
            array = np.ascontiguousarray(np.swapaxes(np.ma.getdata(frames[0]), 0, 1), dtype=np.float32)
            if np.ma.is_masked(frames[0]):
                fill_padding(array, np.swapaxes(np.ma.getmaskarray(frames[0]), 0, 1))
            plane = image_plane(dataset, 0, "frame 1")
            affine = plane_affine(plane, plane.normal * plane.thickness) if plane else None
            return array, self._meta(dataset, array, affine, rank=2)
        order, affine = self._frame_order(dataset, len(frames))
        volume = _stack(((f"frame {k + 1}", frames[k]) for k in order), len(frames))
        return volume, self._meta(dataset, volume, affine, rank=3)

    def _frame_order(self, dataset: Dataset, count: int) -> tuple[list[int], np.ndarray | None]:
        """Return the order of frames and their affine; the stored order and ``None`` if they are no volume."""
        stored = list(range(count))
        if "PerFrameFunctionalGroupsSequence" not in dataset:
            return stored, None
        planes = [image_plane(dataset, k, f"frame {k + 1}") for k in stored]
        known = [plane for plane in planes if plane is not None]
        if len(known) < count or all(np.array_equal(plane.origin, known[0].origin) for plane in known):
            return stored, None
        order, step = order_planes(known, gap_tolerance=self.gap_tolerance)
        return order, plane_affine(known[order[0]], step)

    def _volume(self, slices: Sequence[tuple[str, Dataset]]) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the sorted slices of one series as a volume."""
        planes = []
        for name, dataset in slices:
            with named_errors(name):
                planes.append(self._slice_plane(dataset, name, len(slices)))
        order, step = order_planes(planes, gap_tolerance=self.gap_tolerance)
        with named_errors(slices[0][0]):
            claim(_FLOAT * frame_size(slices[0][1]) * len(slices))
        volume = _stack((self._slice_frame(*slices[k]) for k in order), len(slices))
        first, affine = order[0], plane_affine(planes[order[0]], step)
        return volume, self._meta(slices[first][1], volume, affine, rank=3)

    def _slice_plane(self, dataset: Dataset, name: str, count: int) -> ImagePlane:
        """Check that a file can be one slice of a series, and return where it lies."""
        check_is_picture(dataset, max_pixels=self.max_pixels, slices=count)
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames > 1:
            raise DicomReadError(f"expected one frame in each file of a series, got {frames}. Pass this file alone.")
        plane = image_plane(dataset, 0, name)
        if plane is None:
            raise DicomReadError("expected position, orientation and spacing of a slice, got none. Pass it alone.")
        return plane

    def _slice_frame(self, name: str, dataset: Dataset) -> tuple[str, np.ndarray]:
        with named_errors(name), borrowed():
            return name, picture_frames(dataset, self.window)[0]

    def _meta(self, dataset: Dataset, array: np.ndarray, affine: np.ndarray | None, *, rank: int) -> dict[str, Any]:
        """Return what MONAI needs, what this reader decided, and the elements asked for; nothing else."""
        spacing, source = pixel_spacing(dataset)
        has_geometry = affine is not None
        affine = np.diag([*spacing, 1.0, 1.0]) if affine is None else affine
        return {
            MetaKeys.AFFINE: affine,
            MetaKeys.ORIGINAL_AFFINE: affine.copy(),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape[:rank]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if array.ndim == rank else -1,
            "has_geometry": has_geometry,
            "spacing_from": source,
            "inverted": dataset.PhotometricInterpretation == "MONOCHROME1",
            **{keyword: "" if dataset.get(keyword) is None else str(dataset[keyword].value) for keyword in self.tags},
        }


def _stack(frames: Iterable[tuple[str, np.ndarray]], count: int) -> np.ndarray:
    """Stack frames ``(rows, columns[, 3])`` as ``(X, Y, Z[, 3])`` in float32."""
    volume, first, padded = np.empty(0, dtype=np.float32), "", np.empty(0, dtype=bool)
    for k, (name, frame) in enumerate(frames):
        turned = np.swapaxes(np.ma.getdata(frame), 0, 1)
        if k == 0:
            first, volume = name, np.empty((*turned.shape[:2], count, *turned.shape[2:]), dtype=np.float32)
        if turned.shape != volume[:, :, 0].shape:
            raise DicomReadError(
                f"{first} and {name}: expected slices of one shape, got {volume[:, :, 0].shape} and {turned.shape}. "
                "Pass the slices of one shape."
            )
        volume[:, :, k] = turned
        if np.ma.is_masked(frame):
            padded = padded if padded.size else np.zeros(volume.shape, dtype=bool)
            padded[:, :, k] = np.swapaxes(np.ma.getmaskarray(frame), 0, 1)
    if padded.size:
        fill_padding(volume, padded)
    return volume


def _checked_window(window: str | Sequence[float] | None) -> Window:
    """Return ``None``, ``"dicom"`` or a pair of floats (a configuration gives a list)."""
    if window is None or window == "dicom":
        return window
    if not isinstance(window, str) and len(window) == 2:
        center, width = float(window[0]), float(window[1])
        if np.isfinite(center) and 0 < width < np.inf:
            return center, width
    raise ValueError(f"window: expected None, 'dicom' or (center, width > 0), got {window!r}. Pass one of these.")


def _checked_tag(keyword: str) -> int:
    """Return the number of an element that is given by its keyword."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        hint = nearest(keyword, keyword_dict, otherwise="Pass e.g. 'StudyDate'.")
        raise ValueError(f"tags: expected DICOM keywords, got {keyword!r}. {hint}")
    return tag
