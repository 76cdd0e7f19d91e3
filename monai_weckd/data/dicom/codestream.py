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

"""Check the size and color model that a compressed DICOM stream declares, before anything decodes it."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import BinaryIO

from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.utils.budget import CountedBytes, CountedFile, claim

__all__ = ["check_codestreams", "check_frames", "open_dicom"]

_PREFIX_END, _MOST_META = 132, 1000  # bytes of preamble and prefix; elements of a meta header
_LONG = (b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV")  # PS3.5 7.1.2
_DEFLATED, _PLAIN = DeflatedExplicitVRLittleEndian.encode(), ExplicitVRLittleEndian.encode()
_PIECE, _HEAD = 2**20, 2**10
_MAX_INFLATED = 2**30  # bytes; what is deflated in practice are small secondary captures
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}  # the last is JPEG-LS
_JPEG_2000_SIZE = b"\xff\x4f\xff\x51"  # start of codestream and its first segment, SIZ
# of JPEG and JPEG-LS, of a JPEG 2000 codestream, and of a JP2 file around one
_STARTS = (b"\xff\xd8\xff", _JPEG_2000_SIZE, b"\0\0\0\x0cjP")


def check_codestreams(dataset: Dataset) -> str | None:
    """Refuse JPEG, JPEG-LS and JPEG 2000 frames whose own size is not that of the header; return their color model.

    A decoder trusts the stream: a damaged size would fill the memory, and a different size with the same
    number of pixels would become a wrong picture.

    Args:
        dataset: an image with its pixel data.

    Returns:
        For lossy color JPEG, the color model that the stream declares, else that of the header; for JPEG 2000 whose
        stream says that it has transformed colors, RGB; ``None`` otherwise.

    Raises:
        DicomReadError: When there are more frames than the header claims, a frame has another size, or no size can be
            found in it, or its marks of a color model contradict each other or those of another frame.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return None
    count = int(dataset.get("NumberOfFrames") or 1)
    check_frames(_frames_in(dataset, count), count)
    if syntax in JPEG2000TransferSyntaxes:
        size_of = _jpeg_2000_size
    elif syntax in JPEGTransferSyntaxes or syntax in JPEGLSTransferSyntaxes:
        size_of = _jpeg_size
    else:
        return None
    has_color = dataset.get("SamplesPerPixel") == 3
    is_lossy_jpeg = syntax in (JPEGBaseline8Bit, JPEGExtended12Bit)
    labeled = str(dataset.get("PhotometricInterpretation")).removesuffix("_422")
    models: set[str] = set()
    offsets = (dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths) if _has_offsets(dataset) else None
    frames = generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets)
    for k, stream in enumerate(islice(frames, count)):
        found, claimed = size_of(stream), (dataset.Columns, dataset.Rows)
        if found != claimed:
            raise DicomReadError(
                f"frame {k + 1}: expected {claimed} pixels (columns, rows) by the header, got {found}. Repair the file."
            )
        if has_color and is_lossy_jpeg:
            models |= _color_models(stream) or {labeled}
        if has_color and size_of is _jpeg_2000_size and _has_transform(stream):
            models.add("RGB")  # the decoder undoes it
    if len(models) > 1:
        raise DicomReadError(
            "expected one color model in the JPEG stream, got marks of RGB and of YCbCr. Save the picture again."
        )
    return models.pop() if models else None


def check_frames(found: int, claimed: int) -> None:
    """Refuse more frames than the header claims.

    Args:
        found: how many the pixels have.
        claimed: how many the header claims.

    Raises:
        DicomReadError: When there are more.

    """
    if found > claimed:
        raise DicomReadError(f"NumberOfFrames: expected {found} by the pixels, got {claimed}. Repair the header.")


def _frames_in(dataset: Dataset, claimed: int) -> int:
    """Return how many frames compressed pixel data have at least, as far as that is easily told."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if "PixelData" not in dataset:
        return 0
    if _has_offsets(dataset):
        return len(dataset.ExtendedOffsetTable) // 8
    offsets = parse_basic_offsets(dataset.PixelData)
    if offsets or claimed > 1:
        return len(offsets)
    return sum(_starts_frame(fragment, syntax) for fragment in generate_fragments(dataset.PixelData))


def _starts_frame(fragment: bytes, syntax: UID) -> bool:
    # of run-length encoding, the first segment begins behind the 64 bytes of the header (PS3.5 G.5)
    return fragment[4:8] == b"\x40\0\0\0" if syntax == RLELossless else fragment.startswith(_STARTS)


def _has_transform(stream: bytes) -> bool:
    """Return whether a JPEG 2000 codestream transforms its colors (ISO 15444-1, A.6.1)."""
    start = stream.find(b"\xff\x52", stream.find(_JPEG_2000_SIZE))
    return start >= 0 and stream[start + 8 : start + 9] == b"\1"


def _has_offsets(dataset: Dataset) -> bool:
    return "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset


def _jpeg_size(stream: bytes) -> tuple[int, int] | None:
    """Return columns and rows of a JPEG or JPEG-LS stream (ISO/IEC 10918-1, B.2.2)."""
    for marker, content in _jpeg_segments(stream):
        if marker in _START_OF_FRAME:
            rows, columns = (int.from_bytes(content[k : k + 2], "big") for k in (1, 3))
            return columns, rows
    return None


def _color_models(stream: bytes) -> set[str]:
    """Return the color models that marks in a JPEG stream of three components declare."""
    found: set[str] = set()
    for marker, content in _jpeg_segments(stream):
        if marker == 0xE0 and content.startswith(b"JFIF\0"):
            found.add("YBR_FULL")
        if marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12:  # its transform is the last byte
            found.add("RGB" if content[11] == 0 else "YBR_FULL")
        if marker in _START_OF_FRAME:
            names, samplings = content[6:15:3], content[7:15:3]
            if names in (b"RGB", b"rgb"):
                found.add("RGB")
            if len(set(samplings)) > 1:  # only chroma is subsampled, so this is YCbCr
                found.add("YBR_FULL")
    return found


def _jpeg_segments(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the marker and the content of each segment up to the start of the frame, included."""
    position = 2  # after the start of the image
    while position + 9 <= len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        end = position + 2 + int.from_bytes(stream[position + 2 : position + 4], "big")
        yield marker, stream[position + 4 : end]
        if marker in _START_OF_FRAME:
            return
        position = end


def _jpeg_2000_size(stream: bytes) -> tuple[int, int] | None:
    """Return columns and rows of a JPEG 2000 codestream, with or without a JP2 file around it (ISO 15444-1, A.5.1)."""
    start = stream.find(_JPEG_2000_SIZE)
    if start < 0:
        return None
    right, bottom, left, top = (int.from_bytes(stream[start + k : start + k + 4], "big") for k in (8, 12, 16, 20))
    return right - left, bottom - top


@contextmanager
def open_dicom(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a DICOM file. All code opens files here, so that all that is read is claimed, and inflated within a limit.

    A deflated file is given inflated, with the transfer syntax that its elements then have.

    Args:
        path: the file.

    Raises:
        DicomReadError: When the file is too large inflated, or its meta header is unsound.

    """
    with CountedFile(path) as file:
        values, end = _deflated(file)
        file.seek(0)
        if not values:
            with _checked(file):
                yield file
            return
        head = bytearray(file.read(end))
        for start, stop in values:
            head[start:stop] = _PLAIN.ljust(stop - start, b"\0")
        with _inflated(bytes(head), file) as content, _checked(content):
            yield content


@contextmanager
def _checked(content: CountedFile | CountedBytes) -> Iterator[None]:
    """Raise what a read has raised: pydicom catches all that comes from one within a sequence."""
    try:
        yield
    finally:
        content.check()


def _inflated(head: bytes, file: CountedFile) -> CountedBytes:
    """Return a header followed by what the rest of a file inflates to; its size is found before it is kept."""
    packed, total = file.read(), 0
    for piece in _pieces(packed):
        total += len(piece)
        if total > _MAX_INFLATED:
            raise DicomReadError(f"expected at most {_MAX_INFLATED} bytes inflated, got more. Save it without deflate.")
    claim(2 * total)  # a buffer that grows is copied
    content = CountedBytes()
    content.write(head)
    for piece in _pieces(packed):
        content.write(piece)
    content.seek(0)
    return content


def _pieces(packed: bytes) -> Iterator[bytes]:
    inflater, rest = zlib.decompressobj(-zlib.MAX_WBITS), packed
    while rest and not inflater.eof:
        yield inflater.decompress(rest, _PIECE)
        rest = inflater.unconsumed_tail
    if not inflater.eof:
        raise zlib.error("Error -5: incomplete or truncated stream")  # as zlib itself says of all at once


def _deflated(file: BinaryIO) -> tuple[list[tuple[int, int]], int]:
    """Return where a meta header says that the rest is deflated, and where that begins.

    This goes through the header as pydicom does. The length that it claims for itself (PS3.10 7.1) is not trusted.
    """
    values: list[tuple[int, int]] = []
    known = file.read(_HEAD)  # parsed here, since every call of a file takes as long as all else of an element
    if known[_PREFIX_END - 4 : _PREFIX_END] != b"DICM":
        return values, 0  # pydicom will refuse it

    def at(start: int, count: int) -> bytes:
        if start + count <= len(known):
            return known[start : start + count]
        file.seek(start)
        return file.read(count)

    place = _PREFIX_END
    for _ in range(_MOST_META):
        start, head = place, at(place, 8)
        if head[:2] != b"\x02\x00" or len(head) < 8:
            return values, start
        kind = head[4:6]
        if not (kind.isalpha() and kind.isupper()):
            raise DicomReadError("expected a meta header with explicit VR, got another. Repair the file.")
        is_long = kind in _LONG
        length = int.from_bytes(at(start + 8, 4) if is_long else head[6:8], "little")
        place = start + (12 if is_long else 8)
        if head[2:4] == b"\x10\x00":
            syntax = at(place, length)
            if _DEFLATED in syntax:
                if syntax.rstrip(b"\0 ") != _DEFLATED:
                    raise DicomReadError("expected one transfer syntax, got deflate and others. Repair the file.")
                values.append((place, place + len(syntax)))
        place += length
    raise DicomReadError(f"expected a meta header of at most {_MOST_META} elements, got more. Repair the file.")
