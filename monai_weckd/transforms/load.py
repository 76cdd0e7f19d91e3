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

import math
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import MetaTensor
from monai.data.image_reader import ImageReader, NibabelReader
from monai.data.utils import is_no_channel
from monai.transforms import MapTransform, Transform
from monai.utils import ImageMetaKey, MetaKeys, SpaceKeys
from PIL import Image, ImageOps

from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.data.medmnist import read_medmnist

__all__ = ["LoadMedicalImage", "LoadMedicalImageD", "LoadMedicalImageDict", "LoadMedicalImaged"]

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_PLAIN_MODES = ("L", "RGB", "I", "F", "I;16", "I;16B", "I;16L", "I;16N")
_CONVERTED_MODES = {
    "1": "L",
    "LA": "L",
    "P": "RGB",
    "PA": "RGB",
    "RGBA": "RGB",
    "RGBX": "RGB",
    "CMYK": "RGB",
    "YCbCr": "RGB",
}
_MAX_VOXELS = 2**29  # as DicomReader has it: 2 GiB in float32
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow's "L"


class LoadMedicalImage(Transform):
    """Load a picture, volume or DICOM series as a channel-first float32 tensor, the same for the same image.

    A 2-D image is ``(C, X, Y)``, a volume ``(C, X, Y, Z)``, with axes, affine and metadata as MONAI's readers give
    them. What is in the file decides, then its suffix: a folder is a DICOM series.

    - PNG, JPEG, TIFF and BMP: stored values (0..255, 0..65535 for 16-bit gray; Pillow reads 16-bit color as
      8-bit), 1-bit as 0 and 255, palettes and CMYK as RGB, transparency dropped. The picture is turned as its EXIF
      orientation says, which is how those who labeled it saw it. Of a camera's MPO, the main picture is taken;
      other files with several pages or frames are refused.
    - NIfTI (``.nii``, ``.nii.gz``): scaled values. One slice, ``(X, Y, 1)``, is 2-D.
    - MedMNIST: a reference ``<archive>.npz::<split>/<index>`` in the place of a path, see
      :py:func:`~monai_weckd.data.medmnist.read_medmnist`.
    - DICOM: as :py:class:`~monai_weckd.data.dicom.reader.DicomReader` gives it.

    ``meta`` has the same keys for each format (DICOM adds some): ``filename_or_obj``, ``affine``,
    ``original_affine``, ``space``, ``spatial_shape``, ``original_channel_dim`` (0) and ``has_geometry``, so that
    images of several formats collate into one batch.

    Args:
        channels: 1 turns RGB into luminance (ITU-R BT.601, unrounded), 3 repeats gray. ``None`` (default) keeps
            the channels of the file.
        dicom_reader: reads DICOM files and folders. Defaults to ``None``: ``DicomReader()``.

    Raises:
        ValueError: When ``channels`` is not 1, 3 or ``None``.

    Example::

        >>> import numpy as np, tempfile
        >>> from PIL import Image
        >>> from monai_weckd.transforms import LoadMedicalImage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(f"{folder}/ear.png")
        ...     LoadMedicalImage(channels=3)(f"{folder}/ear.png").shape
        torch.Size([3, 6, 4])
    """

    def __init__(self, channels: int | None = None, dicom_reader: ImageReader | None = None) -> None:
        if channels not in (None, 1, 3):
            raise ValueError(f"channels: expected 1, 3 or None, got {channels!r}. Pass one of these.")
        self.channels = channels
        self.dicom_reader = DicomReader() if dicom_reader is None else dicom_reader

    def __call__(self, path: PathLike) -> torch.Tensor:
        """Load one image.

        Args:
            path: a file, a folder that holds one DICOM series, or a reference into a MedMNIST archive.

        Raises:
            FileNotFoundError: When there is nothing at ``path``.
            ValueError: When :py:meth:`read` refuses it, or its channels do not fit.
        """
        path = Path(path).expanduser()
        array, meta = self.read(path)
        array = _with_channels(array, self.channels, path)
        meta[MetaKeys.SPATIAL_SHAPE] = np.asarray(array.shape[1:])
        meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
        meta[ImageMetaKey.FILENAME_OR_OBJ] = str(path)
        return MetaTensor.ensure_torch_and_prune_meta(np.ascontiguousarray(array, dtype=np.float32), meta)

    def read(self, path: PathLike) -> tuple[np.ndarray, dict[str, Any]]:
        """Return an image as it is stored, channel-first, and where it lies: all that can fail, and nothing beyond.

        Args:
            path: as for a call.

        Raises:
            FileNotFoundError: When there is nothing at ``path``.
            ValueError: When it is not one image in a known format, is damaged or too large, or holds NaN or infinity.
        """
        path = Path(path).expanduser()
        array = read_medmnist(str(path))
        if array is not None:
            meta = _meta(np.eye(4), has_geometry=False)
        elif path.exists():
            array, meta = self._read(path)
        else:
            raise FileNotFoundError(f"{path}: expected a file or folder, got nothing there. Correct the path.")
        _check_finite(array, path)
        return array, meta

    def _read(self, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
        """Return a channel-first array and where it lies, by the format of the file."""
        head = b"" if path.is_dir() else _head(path)
        if path.is_dir() or head[128:] == b"DICM":
            return self._read_dicom(path)
        if not head:
            raise ValueError(f"{path}: expected an image, got an empty file. Copy it again or leave it out.")
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return _read_nifti(path)
        if head.startswith(_PICTURES):
            return _read_picture(path)
        if path.suffix.lower() in _DICOM_SUFFIXES:
            return self._read_dicom(path)  # says what is wrong with it
        raise ValueError(f"{path}: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM, got another format. Convert it.")

    def _read_dicom(self, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
        array, meta = self.dicom_reader.get_data(self.dicom_reader.read(str(path)))
        return _channel_first(array, meta[MetaKeys.ORIGINAL_CHANNEL_DIM]), meta


class LoadMedicalImaged(MapTransform):
    """Dictionary-based wrapper of :py:class:`LoadMedicalImage`.

    Args:
        keys: keys of the paths to load.
        channels: see :py:class:`LoadMedicalImage`. Defaults to ``None``.
        dicom_reader: see :py:class:`LoadMedicalImage`. Defaults to ``None``.
        allow_missing_keys: do not raise an exception if a key is missing. Defaults to ``False``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int | None = None,
        *,
        dicom_reader: ImageReader | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadMedicalImage(channels, dicom_reader)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the image of each key.

        Args:
            data: an item of a data list.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.loader(d[key])
        return d


def _head(path: Path) -> bytes:
    """Return the bytes that tell the format."""
    with path.open("rb") as file:
        return file.read(132)


def _read_picture(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read a picture with Pillow, upright, as gray or RGB."""
    limit = Image.MAX_IMAGE_PIXELS or math.inf
    # an open file, not a path: of a path, Pillow 13 maps uncompressed TIFF and scrambles orientations 5 to 8
    with path.open("rb") as file, _decoding(path), Image.open(file, formats=_FORMATS) as image:
        # Pillow itself only warns of up to twice as many
        if math.prod(image.size) > limit:
            raise Image.DecompressionBombError
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # MPO is JPEG with previews
        ImageOps.exif_transpose(image, in_place=True)
        mode = _CONVERTED_MODES.get(image.mode, image.mode)
        array = np.asarray(image if mode == image.mode else image.convert(mode))
    if pages > 1:
        raise ValueError(f"{path}: expected one picture, got {pages} pages or frames. Split it, or save it as NIfTI.")
    if mode not in _PLAIN_MODES:
        raise ValueError(f"{path}: expected a gray or RGB picture, got mode {mode}. Convert it.")
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
    if array.dtype.names:
        array, channel_dim = np.stack([array[name] for name in array.dtype.names[:3]], axis=-1), -1
    array = _channel_first(array, channel_dim)
    if array.ndim == 4 and array.shape[3] == 1:
        array = array[..., 0]
    if array.ndim not in (3, 4) or np.iscomplexobj(array):
        raise ValueError(f"{path}: expected a real 2-D or 3-D image, got {array.shape} {array.dtype}. Convert it.")
    return array, _meta(header[MetaKeys.AFFINE], has_geometry=bool(header["sform_code"] or header["qform_code"]))


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    """Turn whatever damaged bytes make a decoder raise into one line that names the file."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"{path}: expected at most {Image.MAX_IMAGE_PIXELS:,} pixels, got more. Resize it or cut it into tiles."
        ) from error
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ValueError(f"{path}: cannot be decoded ({reason}). Repair the file or leave it out.") from error


def _check_finite(array: np.ndarray, path: Path) -> None:
    """Refuse NaN, and what is infinite in float32: one such voxel spreads to all in the first normalization."""
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


def _with_channels(array: np.ndarray, channels: int | None, path: Path) -> np.ndarray:
    """Return the array with as many channels as asked for."""
    found = array.shape[0]
    if channels in (None, found):
        return array
    if found == 1:
        return np.repeat(array, 3, axis=0)
    if found == 3:  # in float64, so that a gray picture saved as RGB comes back exactly
        return np.tensordot(_LUMINANCE, array, axes=1)[None]
    raise ValueError(f"{path}: expected 1 or 3 channels, got {found}. Pass channels=None or convert the file.")


LoadMedicalImageD = LoadMedicalImageDict = LoadMedicalImaged
