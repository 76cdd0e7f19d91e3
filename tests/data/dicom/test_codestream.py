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

from io import BytesIO

import numpy as np
import pytest
from dicom_files import dicom_dataset
from PIL import Image
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGBaseline8Bit

from monai_weckd.data.dicom.codestream import check_codestreams
from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.pixels import picture_frames

ROWS, COLUMNS = 20, 30


def big(*values: int, size: int = 2) -> bytes:
    return b"".join(value.to_bytes(size, "big") for value in values)


def jpeg(rows: int, columns: int, *, marker: bytes = b"\xff\xc0") -> bytes:
    """A JPEG header (ISO/IEC 10918-1): start, JFIF, a fill byte, a quantization table, a frame header."""
    jfif = b"\xff\xe0" + big(16) + b"JFIF\0" + b"\0" * 9
    table = b"\xff\xff\xdb" + big(67) + b"\0" * 65
    return b"\xff\xd8" + jfif + table + marker + big(17) + b"\x08" + big(rows, columns) + b"\x01" * 10


def jpeg_2000(left: int, top: int, right: int, bottom: int, *, before: bytes = b"") -> bytes:
    """A JPEG 2000 header (ISO/IEC 15444-1, A.5.1): the picture is a part of the reference grid."""
    return before + b"\xff\x4f\xff\x51" + big(41, 0) + big(right, bottom, left, top, size=4) + b"\0" * 20


def dataset(streams, syntax=JPEGBaseline8Bit, *, extended=False):
    frames = np.zeros((len(streams), ROWS, COLUMNS), np.uint8)
    ds = dicom_dataset(frames, PixelData=b"")
    ds.file_meta.TransferSyntaxUID = syntax
    if extended:
        ds.PixelData, ds.ExtendedOffsetTable, ds.ExtendedOffsetTableLengths = encapsulate_extended(streams)
    else:
        ds.PixelData = encapsulate(streams)
    return ds


@pytest.mark.parametrize("marker", [b"\xff\xc0", b"\xff\xc2", b"\xff\xc3", b"\xff\xf7"])
def test_the_size_of_a_jpeg_is_found(marker):
    check_codestreams(dataset([jpeg(ROWS, COLUMNS, marker=marker)]))
    with pytest.raises(DicomReadError, match=r"frame 1: expected \(30, 20\) .*, got \(20, 30\)\. Repair"):
        check_codestreams(dataset([jpeg(COLUMNS, ROWS, marker=marker)]))


@pytest.mark.parametrize("before", [b"", b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 50], ids=["stream", "JP2 file"])
def test_the_size_of_a_jpeg_2000_is_that_of_its_part_of_the_grid(before):
    check_codestreams(dataset([jpeg_2000(5, 7, 5 + COLUMNS, 7 + ROWS, before=before)], JPEG2000))
    with pytest.raises(DicomReadError, match=r"frame 1: expected \(30, 20\) .*, got \(35, 27\)\. Repair"):
        check_codestreams(dataset([jpeg_2000(0, 0, 5 + COLUMNS, 7 + ROWS, before=before)], JPEG2000))


@pytest.mark.parametrize(("stream", "syntax"), [(b"\xff\xd8\xff\xd9", JPEGBaseline8Bit), (b"\0" * 40, JPEG2000)])
def test_a_stream_without_a_size_is_refused(stream, syntax):
    with pytest.raises(DicomReadError, match=r"frame 1: expected .*, got None"):
        check_codestreams(dataset([stream], syntax))


@pytest.mark.parametrize("extended", [False, True])
def test_each_frame_is_checked(extended):
    good, bad = jpeg(ROWS, COLUMNS), jpeg(65500, 65500)
    check_codestreams(dataset([good, good], extended=extended))
    with pytest.raises(DicomReadError, match="frame 2: expected"):
        check_codestreams(dataset([good, bad], extended=extended))


PICTURE = np.zeros((32, 48, 3), np.uint8)
PICTURE[..., 0], PICTURE[:16, :, 1], PICTURE[:, 24:, 2] = 200, 60, 90
JFIF = b"\xff\xe0" + big(16) + b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0"


def adobe(transform: int) -> bytes:
    return b"\xff\xee" + big(14) + b"Adobe\0\x64\0\0\0\0" + bytes([transform])


def colored(*, marks: bytes = b"", names: bytes = b"\1\2\3", **options) -> bytes:
    """Return PICTURE as JPEG with these application segments alone, and these names of its components."""
    buffer = BytesIO()
    Image.fromarray(PICTURE).save(buffer, "JPEG", quality=98, **options)
    rest, kept = buffer.getvalue()[2:], bytearray(b"\xff\xd8" + marks)
    while True:
        size = 2 + int.from_bytes(rest[2:4], "big")
        segment, marker = bytearray(rest[:size]), rest[1]
        if marker == 0xC0:
            segment[10:19:3] = names
        if marker == 0xDA:
            segment[5:11:2] = names
            return bytes(kept + segment + rest[size:])
        if marker not in (0xE0, 0xEE):
            kept += segment
        rest = rest[size:]


def in_dicom(streams, label):
    frames = np.stack([PICTURE] * len(streams))
    ds = dicom_dataset(frames, PhotometricInterpretation=label, PixelData=encapsulate(streams))
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return ds


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("label", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": 1},
        {"subsampling": 2},
        {"subsampling": 0, "marks": JFIF},
        {"subsampling": 0, "marks": adobe(1)},
        {"subsampling": 2, "marks": adobe(1)},
        {"keep_rgb": True, "marks": adobe(0)},
        {"keep_rgb": True, "names": b"RGB"},
        {"keep_rgb": True, "names": b"rgb"},
        {"keep_rgb": True, "names": b"RGB", "marks": adobe(0)},
    ],
    ids=str,
)
def test_the_stream_decides_on_its_color_model(label, options):
    (frame,) = picture_frames(in_dicom([colored(**options)], label))
    np.testing.assert_allclose(frame[4, 4], PICTURE[4, 4], atol=5)
    np.testing.assert_allclose(frame[28, 44], PICTURE[28, 44], atol=5)


@pytest.mark.parametrize(
    ("label", "options"),
    [("YBR_FULL", {"subsampling": 0}), ("YBR_FULL_422", {"subsampling": 0}), ("RGB", {"keep_rgb": True})],
)
def test_the_header_decides_where_the_stream_does_not(label, options):
    (frame,) = picture_frames(in_dicom([colored(**options)], label))
    np.testing.assert_allclose(frame[4, 4], PICTURE[4, 4], atol=5)


@pytest.mark.parametrize("label", ["RGB", "YBR_FULL_422"])
@pytest.mark.parametrize(
    "streams",
    [
        [colored(subsampling=2, marks=adobe(0))],
        [colored(subsampling=2, names=b"RGB")],
        [colored(subsampling=0, marks=JFIF + adobe(0))],
        [colored(subsampling=2), colored(keep_rgb=True, names=b"RGB")],
    ],
)
def test_marks_that_contradict_each_other_are_refused(label, streams):
    with pytest.raises(DicomReadError, match=r"expected one color model in the JPEG stream, got marks of RGB and of"):
        picture_frames(in_dicom(streams, label))


@pytest.mark.parametrize("label", ["RGB", "YBR_RCT", "YBR_FULL", "YBR_FULL_422"])
def test_the_transform_of_a_jpeg_2000_stream_decides_on_its_color_model(label):
    picture = np.repeat(np.repeat(PICTURE, 2, axis=0), 2, axis=1)
    ds = dicom_dataset(picture, PhotometricInterpretation="YBR_RCT")
    ds.compress(JPEG2000Lossless)  # with a transform, as this label asks for
    ds.PhotometricInterpretation = label
    (frame,) = picture_frames(ds)
    np.testing.assert_array_equal(frame, picture)
