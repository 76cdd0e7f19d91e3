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

"""Tell padding from the patient, and make it background."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import HTJ2K, JPEG2000, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from monai_weckd.data.dicom.errors import DicomReadError

__all__ = ["check_sharp", "fill_padding", "is_padding"]

_LOSSY = (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless, JPEG2000, HTJ2K)
_NEAR = 4  # lossy compression leaves such small differences


def is_padding(stored: np.ndarray, dataset: Dataset, bits: int) -> np.ndarray | None:
    """Return which stored values are padding by the header (PS3.3 C.7.5.1.1.2), ``None`` if it names no padding.

    Args:
        stored: values before any table or rescale, of any shape.
        dataset: the image they are from.
        bits: how many bits of each are stored; ignored for floats.

    Raises:
        DicomReadError: When there is padding that the stored bits cannot hold, or half a range.
    """
    kind = {"f4": "Float", "f8": "DoubleFloat"}.get(stored.dtype.str[1:], "")
    value, limit = (dataset.get(f"{kind}PixelPadding{end}") for end in ("Value", "RangeLimit"))
    if value is None:
        if limit is not None:
            raise DicomReadError(
                "PixelPaddingValue: expected one beside PixelPaddingRangeLimit, got none. Repair the header."
            )
        return None
    ends = [value] if limit is None else [value, limit]
    if kind:
        return np.isnan(stored) if np.isnan(ends).any() else (stored >= min(ends)) & (stored <= max(ends))
    # the header may name a negative number as a positive one of as many bits, or the reverse
    ends = [_wrapped(int(end), 8 * stored.dtype.itemsize, stored.dtype.kind) for end in ends]
    if any(_wrapped(end, bits, stored.dtype.kind) != end for end in ends):
        _check_absent(ends, dataset, stored.dtype, bits)
    return (stored >= min(ends)) & (stored <= max(ends))


def _check_absent(ends: list[int], dataset: Dataset, dtype: np.dtype, bits: int) -> None:
    """Refuse padding that does not fit the stored bits, since it looks like tissue; only the header may have it."""
    syntax = dataset.file_meta.TransferSyntaxUID
    dtype = dtype if syntax.is_little_endian else dtype.newbyteorder(">")
    if not syntax.is_encapsulated and np.isin(np.frombuffer(dataset.PixelData, dtype), ends).any():
        raise DicomReadError(f"PixelPaddingValue: expected one of {bits} bits, got {ends[0]}. Repair the header.")


def _wrapped(value: int, bits: int, kind: str) -> int:
    value %= 2**bits
    return value - 2**bits if kind == "i" and value >= 2 ** (bits - 1) else value


def check_sharp(stored: np.ndarray, padded: np.ndarray, values: np.ndarray, dataset: Dataset) -> None:
    """Refuse padding that lossy compression has blurred, without a range of padding values, unless it is 0 anyway.

    Args:
        stored: values before any table or rescale, of any shape.
        padded: which of them are padding, at least one.
        values: what they stand for, high is bright.
        dataset: the image they are from.

    Raises:
        DicomReadError: When some values are nearly those of padding.
    """
    is_lossy = dataset.file_meta.TransferSyntaxUID in _LOSSY or dataset.get("LossyImageCompression") == "01"
    if not is_lossy or dataset.get("PixelPaddingRangeLimit") is not None:
        return
    distances = np.abs(stored.astype(np.int64) - int(stored[padded][0]))
    if ((distances > 0) & (distances < _NEAR)).any() and (values.min() < 0 or values[padded].any()):
        raise DicomReadError(
            "PixelPaddingRangeLimit: expected a value, because lossy compression has blurred the padding, got none. "
            "Add it, or use the original."
        )


def fill_padding(image: np.ndarray, padded: np.ndarray) -> None:
    """Give padding the darkest value of the rest of the image, in place; darker zeros stay 0.

    So it is background after any window, and not darker than what was measured. Zeros around a head in MR stay 0, so
    that normalization of the foreground leaves them out. An image of padding alone is blank.

    Args:
        image: values in which high is bright, of any shape.
        padded: which of them are padding, of the same shape.
    """
    rest = image[~padded]
    darkest = (rest if rest.size else image).min()
    image[padded & ((image != 0) | (darkest < 0))] = darkest
