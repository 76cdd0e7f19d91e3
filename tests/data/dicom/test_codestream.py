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

import numpy as np
import pytest
from dicom_files import dicom_dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.uid import JPEG2000, JPEGBaseline8Bit

from monai_weckd.data.dicom.codestream import check_codestreams
from monai_weckd.data.dicom.errors import DicomReadError

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
