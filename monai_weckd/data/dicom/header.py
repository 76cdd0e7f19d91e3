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

"""Read the header elements that make up an image, and refuse objects that are not pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydicom import dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, RTDoseStorage, SegmentationStorage, VLWholeSlideMicroscopyImageStorage

from monai_weckd.data.dicom.codestream import open_dicom
from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.utils.budget import budgeted, claim

__all__ = [
    "check_is_picture",
    "claim_sequences",
    "frame_module",
    "frame_size",
    "numbers",
    "read_dicom",
    "standard_name",
]

# All elements that are kept: they include no name, number or date of a patient, so none can leak.
_KEYWORDS = (
    "SOPClassUID",
    "SeriesInstanceUID",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "LossyImageCompression",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "FloatPixelPaddingValue",
    "FloatPixelPaddingRangeLimit",
    "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "SliceThickness",
    "SpacingBetweenSlices",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "ModalityLUTSequence",
    "RescaleSlope",
    "RescaleIntercept",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenter",
    "WindowWidth",
    *(f"{color}PaletteColorLookupTableDescriptor" for color in ("Red", "Green", "Blue")),
    *(f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    *(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")),
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "PixelData",
    "FloatPixelData",
    "DoubleFloatPixelData",
)
_TAGS = [Tag(tag) for tag in map(tag_for_keyword, _KEYWORDS) if tag is not None]

_AS_OBJECTS = 150  # bytes in memory for each byte of a sequence that pydicom makes objects of

# newer than pydicom's dictionary
_NEW_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.8.1": "Deflated Image Frame Compression",
}

# objects that hold pixels but no picture to classify, and what they hold instead
_NOT_A_PICTURE = {
    SegmentationStorage: "a mask",
    UID("1.2.840.10008.5.1.4.1.1.66.7"): "a mask",  # Label Map Segmentation, newer than pydicom's dictionary
    RTDoseStorage: "a dose grid",
    VLWholeSlideMicroscopyImageStorage: "tiles of a slide: use monai.data.WSIReader",
}


@budgeted
def read_dicom(name: str, *, tags: Sequence[int] = (), pixels: bool = True) -> Dataset:
    """Read the elements of one file that make up an image, and no others.

    Args:
        name: path of the file.
        tags: further elements to keep.
        pixels: ``False`` stops before the pixel data.
    """
    with open_dicom(name) as file:
        dataset = dcmread(file, specific_tags=[*_TAGS, *tags], stop_before_pixels=not pixels)
    claim_sequences(dataset)
    return dataset


def claim_sequences(dataset: Dataset) -> None:
    """Claim what the sequences of a data set become when they are looked at: an item of 8 bytes is an object then.

    Args:
        dataset: as read, its elements not yet parsed.

    """
    raw = [one for one in dataset.values() if isinstance(one, RawDataElement)]
    values = [one.value for one in raw if one.VR in ("SQ", "UN", None)]
    claim(sum(_AS_OBJECTS * len(value) for value in values if isinstance(value, bytes)))


def standard_name(uid: UID) -> str:
    """Return the name of a SOP class or transfer syntax, else ``"unknown"``: a damaged header may hold any text.

    Args:
        uid: unique identifier.
    """
    return uid.name if uid.name != uid else _NEW_NAMES.get(uid, "unknown")


def check_is_picture(dataset: Dataset, *, max_pixels: int, slices: int = 1) -> int:
    """Refuse what is not a picture, and sizes beyond ``max_pixels``, before anything is decoded.

    Args:
        dataset: what :py:func:`read_dicom` gave, pixels included.
        max_pixels: maximum number of samples (rows x columns x frames x channels) by the header.
        slices: how many such files make up the image. Defaults to 1.

    Returns:
        How many samples the frames of the file have by the header: rows x columns x channels x frames.

    Raises:
        DicomReadError: When the object is not a picture (no pixels, a mask, a dose, slide tiles), or is too large.
    """
    sop_class = UID(dataset.get("SOPClassUID") or "")
    kind = standard_name(sop_class).removesuffix(" Storage")
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise DicomReadError(f"expected an image, got a DICOM object without pixels ({kind}). Leave it out.")
    if sop_class in _NOT_A_PICTURE:
        raise DicomReadError(f"expected an image, got {_NOT_A_PICTURE[sop_class]} ({kind}). Leave it out.")
    if dataset.get("BitsAllocated") == 1:
        raise DicomReadError(f"expected an image, got a mask of 1 bit per pixel ({kind}). Leave it out.")
    rows, columns, samples = _sizes(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    count = rows * columns * samples * frames
    if count * slices > max_pixels:
        size = f"{columns} x {rows} pixels x {frames * slices} frames x {samples} samples"
        raise DicomReadError(f"the header claims {size}, more than max_pixels={max_pixels}. Raise it if that is right.")
    return count


def frame_size(dataset: Dataset) -> int:
    """Return how many samples a frame has by the header: rows x columns x channels.

    Args:
        dataset: an image.

    """
    return math.prod(_sizes(dataset))


def _sizes(dataset: Dataset) -> tuple[int, int, int]:
    rows, columns, samples = (int(dataset.get(keyword) or 1) for keyword in ("Rows", "Columns", "SamplesPerPixel"))
    return rows, columns, samples


def frame_module(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """Return the dataset that holds a module of a frame: its own functional group, the shared one, or the top level.

    Args:
        dataset: a single-frame or multi-frame image.
        frame: index of the frame, from 0.
        sequence: the functional group, e.g. ``"PlanePositionSequence"``.
    """
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        items = dataset.get(groups) or ()
        module = items[index].get(sequence) if index < len(items) else None
        if module:
            return module[0]
    return dataset


def numbers(module: Dataset, keyword: str, count: int) -> np.ndarray | None:
    """Return the values of a numeric element as float64, or ``None`` if it is absent or empty.

    Args:
        module: where the element is kept.
        keyword: name of the element.
        count: how many values there must be.

    Raises:
        DicomReadError: When there are more or fewer values, or one is not finite.
    """
    value = module.get(keyword)
    if value is None or (isinstance(value, Sequence) and len(value) == 0):
        return None
    values = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if values.shape != (count,) or not np.isfinite(values).all():
        raise DicomReadError(f"{keyword}: expected {count} finite number(s), got {values.tolist()}. Repair the header.")
    return values
