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

import gzip
import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from monai.config import PathLike
from monai.data.image_reader import ImageReader, NibabelReader
from monai.data.utils import is_no_channel
from monai.utils import MetaKeys, SpaceKeys
from nibabel import Nifti1Header, Nifti2Header
from PIL import Image

from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.data.dicom.references import parse_series
from monai_weckd.data.file_names import DICOM_SUFFIXES, NIFTI_SUFFIXES, PICTURE_HEADS
from monai_weckd.data.medmnist import read_medmnist
from monai_weckd.data.nifti_geometry import volume_fault
from monai_weckd.data.picture import picture_array
from monai_weckd.utils.budget import BudgetError, CountedFile, borrowed, budgeted, claim
from monai_weckd.utils.errors import plain_reason

__all__ = ["check_bits", "decoding", "read_image"]

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_PIXEL = 14  # bytes of a pixel on its way: decoded, turned, converted, copied
_SMALL, _OF_PARTS = 2**16, 375  # bytes of a picture; what parsers keep for each: 1500 for a part of 4
_MOST_EXTENSIONS = 2**24  # bytes of a NIfTI file before its voxels
_AS_OBJECTS = 150  # bytes that one of them may become
_LABELS = (1002, 1005)  # NIfTI intents: indices of labels, names of structures
_MAX_VOXELS = 2**29  # as DicomReader has it: 2 GiB in float32


@budgeted
def read_image(path: PathLike, *, dicom_reader: ImageReader | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Read an image as it is stored, channel-first, with its geometry; this includes every step that can fail.

    Args:
        path: a file, a folder that holds one DICOM series, or a reference into a MedMNIST archive.
        dicom_reader: reads DICOM files and folders, default None: ``DicomReader()``.

    Returns:
        The array, and its metadata. ``is_color`` tells RGB channels from three volumes.

    Raises:
        FileNotFoundError: When there is nothing at ``path``.
        ValueError: When it is not one image of a known format, is damaged or too large, or holds NaN or infinity.
    """
    path = Path(path).expanduser()
    array = read_medmnist(str(path))
    if array is not None:
        meta = _meta(np.eye(4), has_geometry=False)
    elif path.is_file():
        array, meta = _read_file(path, dicom_reader)
    elif path.exists() or parse_series(path):  # a folder, or one of its series
        array, meta = _read_dicom(path, dicom_reader)
    else:
        got = "a link that leads nowhere. Correct it" if path.is_symlink() else "nothing there. Correct the path"
        raise FileNotFoundError(f"{path}: expected a file or folder, got {got}.")
    _check_finite(array, path)
    meta.setdefault("is_color", len(array) == 3)
    return array, meta


def check_bits(array: np.ndarray, bits: int, path: PathLike) -> None:
    """Refuse values beyond some bits, and fractions up to 1: transforms would clip them, or make them all dark.

    Args:
        array: finite values.
        bits: how many bits the transforms expect.
        path: the image.

    Raises:
        ValueError: When a value is negative or needs more bits, or all are at most 1 and some are fractions.

    """
    if array.dtype.kind in "bu" and 8 * array.dtype.itemsize <= bits:
        return
    low, high = float(array.min()), float(array.max())
    is_fraction = array.dtype.kind == "f" and 0 < high <= 1 and bool((array % 1 > 0).any())
    if low < 0 or high >= 2**bits or is_fraction:
        raise ValueError(
            f"{path}: expected values of {bits} bits, 0 to {2**bits - 1}, got {low:g} to {high:g}. "
            "Scale them and save the image again, or leave it out."
        )


def _read_file(path: Path, dicom_reader: ImageReader | None) -> tuple[np.ndarray, dict[str, Any]]:
    """Return a channel-first array and its geometry, by the format of the file."""
    with CountedFile(path) as file:
        head = file.read(132)  # tells the format
        is_dicom, is_nifti = head[128:] == b"DICM", path.name.lower().endswith(NIFTI_SUFFIXES)
        if head.startswith(PICTURE_HEADS) and not (is_dicom or is_nifti):
            file.seek(0)
            with decoding(path):
                content = _small_picture(file, head)
            return _read_picture(path, content or file)
    if is_dicom:
        return _read_dicom(path, dicom_reader)
    if not head:
        raise ValueError(f"{path}: expected an image, got an empty file. Copy it again or leave it out.")
    if is_nifti:
        return _read_nifti(path)
    if path.suffix.lower() in DICOM_SUFFIXES:
        return _read_dicom(path, dicom_reader)  # says what is wrong with it
    got = "a file of a .hdr and .img pair. Save it as .nii.gz" if _is_of_pair(path) else "another format. Convert it"
    raise ValueError(f"{path}: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM, got {got}.")


def _small_picture(file: CountedFile, head: bytes) -> BinaryIO | None:
    """Return a small picture in memory, where reads cost less; None for TIFF, which may name one place many times."""
    if file.size > _SMALL or head.startswith((b"II", b"MM")):
        return None
    claim(_OF_PARTS * file.size)
    return io.BytesIO(file.read())


def _is_of_pair(path: Path) -> bool:
    """Return whether a file is a part of an image of Analyze or NIfTI; the sides of the first kind are not known."""
    return path.name.lower().removesuffix(".gz").endswith((".hdr", ".img"))


def _read_dicom(path: Path, dicom_reader: ImageReader | None) -> tuple[np.ndarray, dict[str, Any]]:
    reader = dicom_reader or DicomReader()
    array, meta = reader.get_data(reader.read(str(path)))
    return _channel_first(array, meta[MetaKeys.ORIGINAL_CHANNEL_DIM]), meta


def _read_picture(path: Path, file: BinaryIO) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a picture from an open file with Pillow, upright, as gray or RGB."""
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    # an open file, not a path: given a path, Pillow 13 maps uncompressed TIFF and scrambles orientations 5 to 8
    with decoding(path), Image.open(file, formats=_FORMATS) as image:
        # Pillow itself only warns up to twice this limit
        if math.prod(image.size) > limit:
            raise Image.DecompressionBombError
        claim(_PIXEL * math.prod(image.size))
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO is JPEG with previews
        array, fault = picture_array(image)
    if pages > 1:
        raise ValueError(f"{path}: expected one picture, got {pages} pages or frames. Split it, or save it as NIfTI.")
    if fault:
        raise ValueError(f"{path}: expected a gray or RGB picture, got {fault[:200]}. Convert it.")
    affine, channel_dim = np.eye(4), float("nan") if array.ndim == 2 else -1
    return _channel_first(np.swapaxes(array, 0, 1), channel_dim), _meta(affine, has_geometry=False)


def _read_nifti(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a NIfTI file with MONAI's reader; RGB24 voxels become channels, one slice becomes 2-D."""
    reader = NibabelReader(squeeze_non_spatial_dims=True)
    with decoding(path):
        raw = _nifti_header(path)
        shape, voxel = raw.get_data_shape(), _voxel_bytes(raw)
    if math.prod(shape) > _MAX_VOXELS:
        raise ValueError(f"{path}: expected at most {_MAX_VOXELS:,} voxels, got {shape}. Crop or resample it.")
    if (intent := int(raw["intent_code"])) in _LABELS:
        raise ValueError(f"{path}: expected an image, got a map of labels (NIfTI intent {intent}). Leave it out.")
    with decoding(path):
        claim(math.prod(shape) * voxel)
        image = reader.read(str(path))
    with decoding(path):
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
    if array.ndim == 4:
        with decoding(path):
            fault = volume_fault(raw, array.shape[1:], header[MetaKeys.AFFINE])
        if fault:
            raise ValueError(f"{path}: {fault}")
    has_geometry = bool(header["sform_code"] or header["qform_code"])
    return array, {**_meta(header[MetaKeys.AFFINE], has_geometry=has_geometry), "is_color": bool(names)}


def _nifti_header(path: Path) -> Nifti1Header:
    """Return the header of a NIfTI file as it is stored: nibabel mends what it checks.

    Nothing beyond the header is parsed before its size is checked.
    """
    with gzip.open(path) if path.name.lower().endswith(".gz") else path.open("rb") as file:
        block = file.read(Nifti2Header.template_dtype.itemsize + 4)
        version = Nifti2Header if Nifti2Header.may_contain_header(block) else Nifti1Header
        size = version.template_dtype.itemsize
        header = version(block[:size], check=False)
        if not 0 <= (start := float(header["vox_offset"])) <= _MOST_EXTENSIONS:
            raise ValueError(f"the voxels begin at byte {start:g}, of at most {_MOST_EXTENSIONS}")
        if block[size : size + 1] > b"\0":  # there are extensions
            content = block + file.read(max(0, int(start) - len(block)))
            _check_extensions(content[size + 4 : int(start)], header.endianness)
    return header


def _voxel_bytes(header: Nifti1Header) -> int:
    """Return how many bytes a voxel takes until it is given."""
    kind, (slope, shift) = header.get_data_dtype(), header.get_slope_inter()
    # as read and as copied, red, green and blue apart; scaled and shifted in float64
    return (3 if kind.names else 2) * int(kind.itemsize) + (0 if (slope or 1, shift or 0) == (1, 0) else 16)


def _check_extensions(content: bytes, order: str) -> None:
    """Refuse extensions that are longer than what lies before the voxels: nibabel would read as much as they claim."""
    claim(_AS_OBJECTS * len(content))
    at = 0
    while at + 8 <= len(content) or not at:
        length = int.from_bytes(content[at : at + 4], "little" if order == "<" else "big", signed=True)
        if not 8 <= length <= len(content) - at:
            raise ValueError(f"an extension of {length} bytes where there are {len(content) - at} before the voxels")
        at += length


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Turn any error of a decoder into a one-line error that names the file.

    Args:
        path: the file.

    """
    try:
        yield
    except BudgetError as error:
        raise ValueError(f"{path}: {error}") from None
    except MemoryError:
        raise ValueError(f"{path}: expected memory to decode it, got too little. Make it smaller.") from None
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
    with np.errstate(over="ignore"), decoding(path), borrowed():
        claim(array.size * (1 + 4 * (array.dtype != np.float32)))
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
