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

"""Decode pictures with Pillow, and refuse variants that Pillow opens but decodes wrongly."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from PIL import Image, ImageOps

__all__ = ["picture_array"]

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

# TIFF 6.0: photometric interpretation, sample format (1 unsigned, 2 signed, 3 float) and bits that are read as written
_LAYOUTS = {
    **dict.fromkeys([(photometric, 1, bits) for photometric in (0, 1) for bits in (1, 2, 4, 8)], "gray"),
    **dict.fromkeys([(1, 1, 16), (1, 1, 32), (1, 2, 16), (1, 2, 32), (1, 3, 32)], "gray"),
    **dict.fromkeys([(2, 1, 8), (2, 1, 16)], "RGB"),
    **dict.fromkeys([(3, 1, bits) for bits in (1, 2, 4, 8)], "palette"),
    (5, 1, 8): "CMYK",
    (6, 1, 8): "YCbCr",
    (8, 1, 8): "LAB",  # refused by its mode
}
_JPEG = 7
_LOSSLESS = (1, 5, 8, 32773, 32946, 34925, 50000)  # none, LZW, deflate, PackBits, old deflate, LZMA, Zstandard
_PREDICTED = (5, 8, 32946, 34925, 50000)  # LZW, deflate, old deflate, LZMA, Zstandard
_FAX = (2, 3, 4)  # of 1 bit only


def picture_array(image: Image.Image) -> tuple[np.ndarray, str]:
    """Decode a picture upright, as gray ``(rows, columns)`` or RGB ``(rows, columns, 3)``.

    Args:
        image: an open PNG, JPEG, TIFF or BMP.

    Returns:
        The array, and the property that Pillow may decode wrongly; ``""`` if there is none.
    """
    fault = _tiff_fault(image.tag_v2) if image.format == "TIFF" else _other_fault(image)  # type: ignore[attr-defined]
    if fault:
        return np.empty(0), fault
    is_deep = _with_deep_gray(image)
    is_unsigned = image.format == "TIFF" and image.mode == "I" and 2 not in image.tag_v2.get(339, (1,))  # type: ignore[attr-defined]
    ImageOps.exif_transpose(image, in_place=True)
    if is_deep:
        high, low = (np.asarray(image)[..., k].astype(np.uint16) for k in (0, 1))
        return high << 8 | low, ""
    mode = _CONVERTED_MODES.get(image.mode, image.mode)
    array = np.asarray(image if mode == image.mode else image.convert(mode))
    return (array.view(np.uint32) if is_unsigned else array), "" if mode in _PLAIN_MODES else f"mode {mode}"


def _with_deep_gray(image: Image.Image) -> bool:
    """Decode 16-bit gray with alpha as bytes, because Pillow's own mode for it keeps only the high bytes."""
    if image.format != "PNG" or not any(tile[3] == "LA;16B" for tile in image.tile):  # type: ignore[attr-defined]
        return False
    image.tile = [tile._replace(args="RGBA") for tile in image.tile]  # type: ignore[attr-defined]
    return True


def _other_fault(image: Image.Image) -> str:
    if image.mode == "CMYK" and "adobe" not in image.info:
        return "CMYK without an Adobe marker, which tells whether it is inverted"
    return ""


def _tiff_fault(tags: Any) -> str:
    """Return the property of a TIFF that Pillow may decode wrongly, ``""`` if there is none."""
    bits, formats = set(tags.get(258, (1,))), set(tags.get(339, (1,)))
    photometric, planar, compression, extra = tags.get(262), tags.get(284, 1), tags.get(259, 1), tags.get(338, ())
    samples = tags.get(277, 1)
    layout = (photometric, *formats, *bits)
    kind = _LAYOUTS.get(layout, "")
    if kind == "gray" and samples - len(extra) != 1:
        kind = ""
    if not kind:
        return f"TIFF of photometric interpretation {photometric}, sample format {sorted(formats)}, bits {sorted(bits)}"
    if planar == 2 and samples > 1 and (layout != (2, 1, 8) or extra):
        return f"separate planes of {samples} samples, bits {sorted(bits)}"
    if extra and (kind not in ("gray", "RGB") or not set(extra) <= {0, 1, 2}):
        return f"{kind} with extra samples {list(extra)}"
    return _storage_fault(tags, kind, compression, max(bits)) or _meaning_fault(tags)


def _storage_fault(tags: Any, kind: str, compression: int, bits: int) -> str:
    is_fax, is_jpeg = compression in _FAX and bits == 1, compression == _JPEG and kind in ("gray", "RGB", "YCbCr")
    if not (compression in _LOSSLESS or is_fax or is_jpeg):
        return f"{kind} with compression {compression}"
    if kind == "YCbCr" and not is_jpeg:
        return "YCbCr without JPEG compression"
    # libtiff returns the machine's own byte order, which Pillow takes into account for only one of these layouts
    if compression != 1 and tags.prefix == b"MM" and (bits > 16 or (bits == 16 and tags.get(339, (1,))[0] != 1)):
        return f"big-endian {bits} bits with compression {compression}"
    # libtiff leaves such differences as they are, other programs add them up
    if tags.get(317, 1) != 1 and compression not in _PREDICTED:
        return f"a predictor with compression {compression}"
    if tags.get(266, 1) != 1 and bits != 1:
        return f"fill order {tags[266]} of {bits} bits"
    return ""


def _meaning_fault(tags: Any) -> str:
    """Return why decoded pixels would not be the picture, ``""`` if they are."""
    if tags.get(332, 1) != 1:
        return f"inks other than CMYK (ink set {tags[332]})"
    if tags.get(32997, 1) != 1:
        return f"a volume of depth {tags[32997]}"
    if 0 < max(tags.get(320, (0,))) < 256:
        return "a color map of 8 bits in 16"
    stack = re.match(r"ImageJ=.*^images=(\d+)", str(tags.get(270, "")), re.DOTALL | re.MULTILINE)
    return f"an ImageJ stack of {stack[1]} images" if stack and int(stack[1]) > 1 else ""
