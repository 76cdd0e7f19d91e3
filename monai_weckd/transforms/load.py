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

"""Load pictures, volumes and DICOM series as tensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, PathLike
from monai.data import MetaTensor
from monai.data.image_reader import ImageReader
from monai.transforms import MapTransform, Transform
from monai.utils import ImageMetaKey, MetaKeys

from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.data.image_reader import check_bits, decoding, read_image
from monai_weckd.utils.budget import budgeted, claim

__all__ = ["LoadMedicalImage", "LoadMedicalImageD", "LoadMedicalImageDict", "LoadMedicalImaged"]

_LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601, as in Pillow's "L"


class LoadMedicalImage(Transform):
    """Load a picture, volume or DICOM series as a channel-first float32 tensor.

    A 2-D image is ``(C, X, Y)``, a volume ``(C, X, Y, Z)``, with axes, affine and metadata as MONAI's readers give
    them. The format is recognized by the file's content, and only then by its suffix. A folder is a DICOM series.

    - PNG, JPEG, TIFF and BMP: stored values (0..65535 for 16-bit gray; the high bytes of 16-bit color), fewer than
      8 bits scaled to 0..255, palettes and CMYK as RGB, transparency dropped. The picture is turned by its EXIF
      orientation, as viewers show it to those who label it. From a camera's MPO file, the main picture is read;
      other files with several pages or frames are refused.
    - NIfTI (``.nii``, ``.nii.gz``): scaled values. One slice, ``(X, Y, 1)``, is 2-D. Several volumes (diffusion
      weights, phases, vectors) become channels, and three of them are not taken for RGB; only RGB24 and RGBA32 are
      color.
    - MedMNIST: a reference ``<archive>.npz::<split>/<index>`` instead of a path, see
      :py:func:`~monai_weckd.data.medmnist.read_medmnist`.
    - DICOM: as :py:class:`~monai_weckd.data.dicom.reader.DicomReader` gives it.

    ``meta`` has the same keys for each format (DICOM adds some): ``filename_or_obj``, ``affine``,
    ``original_affine``, ``space``, ``spatial_shape``, ``original_channel_dim`` (0) and ``has_geometry``, so that
    images of several formats collate into one batch.

    Args:
        channels: 1 turns RGB into luminance (ITU-R BT.601, unrounded), 3 repeats gray. ``None`` (default) keeps
            the channels of the file.
        dicom_reader: reads DICOM files and folders. Defaults to ``None``: ``DicomReader()``.
        bits: refuse values that need more bits, negative ones, and fractions up to 1, for transforms that scale a
            fixed range, such as 0..255 for 8 bits. Defaults to ``None``: take any values.

    Raises:
        ValueError: When ``channels`` is not 1, 3 or ``None``, or ``bits`` is below 1.

    Example::

        >>> import numpy as np, tempfile
        >>> from PIL import Image
        >>> from monai_weckd.transforms import LoadMedicalImage
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.zeros((4, 6), dtype=np.uint8)).save(f"{folder}/ear.png")
        ...     LoadMedicalImage(channels=3)(f"{folder}/ear.png").shape
        torch.Size([3, 6, 4])
    """

    def __init__(
        self, channels: int | None = None, dicom_reader: ImageReader | None = None, *, bits: int | None = None
    ) -> None:
        if channels not in (None, 1, 3):
            raise ValueError(f"channels: expected 1, 3 or None, got {channels!r}. Pass one of these.")
        if bits is not None and bits < 1:
            raise ValueError(f"bits: expected at least 1 or None, got {bits!r}. Pass 8 for pictures in 0..255.")
        self.channels, self.bits = channels, bits
        self.dicom_reader = DicomReader() if dicom_reader is None else dicom_reader

    @budgeted
    def __call__(self, path: PathLike) -> torch.Tensor:
        """Load one image.

        Args:
            path: a file, a folder that holds one DICOM series, or a reference into a MedMNIST archive.

        Raises:
            FileNotFoundError: When there is nothing at ``path``.
            ValueError: When :py:func:`~monai_weckd.data.image_reader.read_image` refuses it, or its channels or values
                do not fit.
        """
        path = Path(path).expanduser()
        array, meta = read_image(path, dicom_reader=self.dicom_reader)
        if self.bits is not None:
            check_bits(array, self.bits, path)
        with decoding(path):
            claim(_converted_bytes(array, self.channels))
        array = _with_channels(array, self.channels, path, is_color=meta.pop("is_color"))
        meta[MetaKeys.SPATIAL_SHAPE] = np.asarray(array.shape[1:])
        meta[MetaKeys.ORIGINAL_CHANNEL_DIM] = 0
        meta[ImageMetaKey.FILENAME_OR_OBJ] = str(path)
        return MetaTensor.ensure_torch_and_prune_meta(np.ascontiguousarray(array, dtype=np.float32), meta)


class LoadMedicalImaged(MapTransform):
    """Dictionary-based wrapper of :py:class:`LoadMedicalImage`.

    Args:
        keys: keys of the paths to load.
        channels: see :py:class:`LoadMedicalImage`. Defaults to ``None``.
        dicom_reader: see :py:class:`LoadMedicalImage`. Defaults to ``None``.
        bits: see :py:class:`LoadMedicalImage`. Defaults to ``None``.
        allow_missing_keys: do not raise an exception if a key is missing. Defaults to ``False``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        channels: int | None = None,
        *,
        dicom_reader: ImageReader | None = None,
        bits: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.loader = LoadMedicalImage(channels, dicom_reader, bits=bits)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load the image under each key.

        Args:
            data: an item of a data list.
        """
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.loader(d[key])
        return d


def _converted_bytes(array: np.ndarray, channels: int | None) -> int:
    """Return how many bytes the tensor takes, and what is on the way to it."""
    if channels == 1 and len(array) > 1:
        return 16 * array.size  # the colors in float64, and their sum
    repeated = channels == 3 and len(array) == 1
    return (3 if repeated else 1) * array.size * (array.itemsize * repeated + 4 * (array.dtype != np.float32))


def _with_channels(array: np.ndarray, channels: int | None, path: Path, *, is_color: bool) -> np.ndarray:
    """Return the array with the requested number of channels."""
    found = array.shape[0]
    if channels is None or (found == 1 and channels == 1):
        return array
    if found == 1:
        return np.repeat(array, 3, axis=0)
    if not is_color:
        raise ValueError(
            f"{path}: expected 1 or 3 channels, got {found} volumes. Pass channels=None or save one volume."
        )
    # in float64, so that a gray picture saved as RGB comes back exactly
    return array if channels == 3 else np.tensordot(_LUMINANCE, array, axes=1)[None]


LoadMedicalImageD = LoadMedicalImageDict = LoadMedicalImaged
