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

"""Read an image as it is stored, by the content of the file: pictures, NIfTI, DICOM, MedMNIST archives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import PathLike
from monai.data.image_reader import ImageReader, NibabelReader
from monai.data.utils import is_no_channel
from monai.utils import MetaKeys, SpaceKeys
from PIL import Image

from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.data.dicom.references import parse_series
from monai_weckd.data.file_names import DICOM_SUFFIXES, NIFTI_SUFFIXES, PICTURE_HEADS
from monai_weckd.data.medmnist import read_medmnist
from monai_weckd.data.nifti_geometry import volume_fault
from monai_weckd.data.picture import picture_array
from monai_weckd.utils.errors import plain_reason

__all__ = ["read_image"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_MAX_VOXELS = 2**29  # as DicomReader has it: 2 GiB in float32


def read_image(path: PathLike, *, dicom_reader: ImageReader | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image as it is stored, channel-first, with its geometry; this includes every step that can fail.

    Args:
        path: a file, a folder that holds one DICOM series, or a reference into a MedMNIST archive.
        dicom_reader: reads DICOM files and folders, default None: ``DicomReader()``.

    Returns:
        The array, and its metadata. ``is_color`` tells red, green and blue from three volumes of another kind.

    Raises:
        FileNotFoundError: When there is nothing at ``path``.
        ValueError: When it is not one image of a known format, is damaged or too large, or holds NaN or infinity.
    """
    path = Path(path).expanduser()
    array = read_medmnist(str(path))
    if array is not None:
        meta = _meta(np.eye(4), has_geometry=False)
    elif path.exists() or parse_series(path):
        array, meta = _read(path, dicom_reader or DicomReader())
    else:
        got = "a link that leads nowhere. Correct it" if path.is_symlink() else "nothing there. Correct the path"
        raise FileNotFoundError(f"{path}: expected a file or folder, got {got}.")
    _check_finite(array, path)
    meta.setdefault("is_color", len(array) == 3)
    return array, meta


def _read(path: Path, dicom_reader: ImageReader) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a channel-first array and its geometry, by the format of the file."""
    head = _head(path) if path.is_file() else b""  # a folder, or one of its series
    if not path.is_file() or head[128:] == b"DICM":
        return _read_dicom(path, dicom_reader)
    if not head:
        raise ValueError(f"{path}: expected an image, got an empty file. Copy it again or leave it out.")
    if path.name.lower().endswith(NIFTI_SUFFIXES):
        return _read_nifti(path)
    if head.startswith(PICTURE_HEADS):
        return _read_picture(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        return _read_dicom(path, dicom_reader)  # says what is wrong with it
    got = "a file of a .hdr and .img pair. Save it as .nii.gz" if _is_of_pair(path) else "another format. Convert it"
    raise ValueError(f"{path}: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM, got {got}.")


def _is_of_pair(path: Path) -> bool:
    """Return whether a file is a part of an image of Analyze or NIfTI; the sides of the first kind are not known."""
    return path.name.lower().removesuffix(".gz").endswith((".hdr", ".img"))


def _read_dicom(path: Path, dicom_reader: ImageReader) -> tuple[np.ndarray, dict[str, Any]]:
    array, meta = dicom_reader.get_data(dicom_reader.read(str(path)))
    return _channel_first(array, meta[MetaKeys.ORIGINAL_CHANNEL_DIM]), meta


def _head(path: Path) -> bytes:
    """Return the first bytes of a file, which tell its format."""
    with path.open("rb") as file:
        return file.read(132)


def _read_picture(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a picture with Pillow, upright, as gray or RGB."""
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    # an open file, not a path: given a path, Pillow 13 maps uncompressed TIFF and scrambles orientations 5 to 8
    with path.open("rb") as file, _decoding(path), Image.open(file, formats=_FORMATS) as image:
        # Pillow itself only warns up to twice this limit
        if math.prod(image.size) > limit:
            raise Image.DecompressionBombError
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO is JPEG with previews
        array, fault = picture_array(image)
    if pages > 1:
        raise ValueError(f"{path}: expected one picture, got {pages} pages or frames. Split it, or save it as NIfTI.")
    if fault:
        raise ValueError(f"{path}: expected a gray or RGB picture, got {fault}. Convert it.")
    affine, channel_dim = np.eye(4), float("nan") if array.ndim == 2 else -1
    return _channel_first(np.swapaxes(array, 0, 1), channel_dim), _meta(affine, has_geometry=False)


def _read_nifti(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a NIfTI file with MONAI's reader; RGB24 voxels become channels, one slice becomes 2-D."""
    reader = NibabelReader(squeeze_non_spatial_dims=True)
    with _decoding(path):
        image = reader.read(str(path))
    if math.prod(image.shape) > _MAX_VOXELS:
        raise ValueError(f"{path}: expected at most {_MAX_VOXELS:,} voxels, got {image.shape}. Crop or resample it.")
    with _decoding(path):
        array, header = reader.get_data(image)
    channel_dim = header[MetaKeys.ORIGINAL_CHANNEL_DIM]
    names = array.dtype.names
    if names:
        array, channel_dim = np.stack([array[name] for name in names[:3]], axis=-1), -1
    array = _channel_first(array, channel_dim)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or np.iscomplexobj(array):
        raise ValueError(f"{path}: expected a real 2-D or 3-D image, got {array.shape} {array.dtype}. Convert it.")
    if array.ndim == 4 and (fault := volume_fault(path, image, array.shape[1:], header[MetaKeys.AFFINE])):
        raise ValueError(f"{path}: {fault}")
    has_geometry = bool(header["sform_code"] or header["qform_code"])
    return array, {**_meta(header[MetaKeys.AFFINE], has_geometry=has_geometry), "is_color": bool(names)}


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn any error of a decoder into a one-line error that names the file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path}: expected at most {Image.MAX_IMAGE_PIXELS:,} pixels, got more. Resize it or cut it into tiles."
        ) from error
    except Exception as error:
        raise ValueError(
            f"{path}: cannot be decoded ({plain_reason(error)}). Repair the file or leave it out."
        ) from error


def _check_finite(array: np.ndarray, path: Path) -> None:
    """Refuse NaN and values that are infinite in float32, because normalization spreads one such voxel to all."""
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore"):
        bad = array.size - int(np.isfinite(array.astype(np.float32, copy=False)).sum())
    if bad:
        raise ValueError(
            f"{path}: expected finite values, got {bad} of {array.size} that are NaN or infinite. "
            "Replace them, by 0 where they are background, or leave the file out."
        )


def _meta(affine: np.ndarray, *, has_geometry: bool) -> dict[str, Any]:
    return {
        MetaKeys.AFFINE: affine,
        MetaKeys.ORIGINAL_AFFINE: affine.copy(),
        MetaKeys.SPACE: SpaceKeys.RAS,
        "has_geometry": has_geometry,
    }


def _channel_first(array: np.ndarray, channel_dim: float) -> np.ndarray:
    return array[None] if is_no_channel(channel_dim) else np.moveaxis(array, int(channel_dim), 0)
