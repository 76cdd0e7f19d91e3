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

"""Check the size that a compressed DICOM stream declares before anything decodes it."""

from __future__ import annotations

import zlib
from itertools import islice
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from monai_weckd.data.dicom.errors import DicomReadError

__all__ = ["check_codestreams", "check_deflated"]

_MAX_INFLATED = 2**30  # bytes; what is deflated in practice are small secondary captures
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # the last is JPEG-LS
_JPEG_2000_SIZE = b"\xff\x4f\xff\x51"  # start of codestream and its first segment, SIZ


def check_codestreams(dataset: Dataset) -> None:
    """Refuse JPEG, JPEG-LS and JPEG 2000 frames whose own size is not that of the header.

    A decoder goes by the stream: it would fill the memory for a damaged size, and another size with the same
    number of pixels would be reshaped into a wrong picture.

    Args:
        dataset: an image with its pixel data.

    Raises:
        DicomReadError: When a frame has another size, or none can be found in it.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in JPEG2000TransferSyntaxes:
        size_of = _jpeg_2000_size
    elif syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        size_of = _jpeg_size
    else:
        return
    count = int(dataset.get("NumberOfFrames") or 1)
    offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths) if _has_offsets(dataset) else None
    frames = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    for k, stream in enumerate(islice(frames, count)):
        found, claimed = size_of(stream), (dataset.Columns, dataset.Rows)
        if found != claimed:
            raise DicomReadError(
                f"frame {k + 1}: expected {claimed} pixels (columns, rows) by the header, got {found}. Repair the file."
            )


def _has_offsets(dataset: Dataset) -> bool:
    return "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """Return columns and rows of a JPEG or JPEG-LS stream (ISO/IEC 10918-1, B.2.2)."""
    position = 2  # after the start of the image
    while position + 9 <= len(stream) and stream[position] == 0xFF:
        if stream[position + 1] in _START_OF_FRAME:
            rows, columns = (int.from_bytes(stream[position + k : position + k + 2], "big") for k in (5, 7))
            return columns, rows
        if stream[position + 1] == 0xFF:  # a fill byte
            position += 1
        else:
            position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
    return None


def _jpeg_2000_size(stream: bytes) -> tuple[int, int] | None:
    """Return columns and rows of a JPEG 2000 codestream, with or without a JP2 file around it (ISO 15444-1, A.5.1)."""
    start = stream.find(_JPEG_2000_SIZE)
    if start < 0:
        return None
    right, bottom, left, top = (int.from_bytes(stream[start + k : start + k + 4], "big") for k in (8, 12, 16, 20))
    return right - left, bottom - top


def check_deflated(file: BinaryIO) -> None:
    """Refuse a deflated file that would inflate beyond 1 GiB, because pydicom inflates it whatever its size.

    Args:
        file: a DICOM file, open at its start, where it will be again.

    Raises:
        DicomReadError: When the file is too large inflated, or does not say where its data begin.
    """
    head = file.read(1024)
    file.seek(0)
    if DeflatedExplicitVRLittleEndian.encode() not in head:
        return
    # PS3.10 7.1: preamble, prefix, then the length of the meta header, which is never deflated
    if head[132:140] != b"\x02\x00\x00\x00UL\x04\x00":
        raise DicomReadError("expected the length of the meta header first, got another element. Repair the file.")
    file.seek(144 + int.from_bytes(head[140:144], "little"))
    inflater, total, rest = zlib.decompressobj(-zlib.MAX_WBITS), 0, file.read()
    file.seek(0)
    while rest and not inflater.eof:
        total += len(inflater.decompress(rest, 2**20))
        rest = inflater.unconsumed_tail
        if total > _MAX_INFLATED:
            raise DicomReadError(f"expected at most {_MAX_INFLATED} bytes inflated, got more. Save it without deflate.")
