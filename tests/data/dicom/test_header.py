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

import tracemalloc

import numpy as np
import pytest
from dicom_files import PATIENT, dicom_dataset, read, refused, write_dicom
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    UID,
    HTJ2KLossless,
    RLELossless,
)

from monai_weckd.data.dicom.header import read_dicom

RNG = np.random.default_rng(0)


GRAY = RNG.integers(0, 4096, (5, 7), dtype=np.uint16)


COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def test_a_presentation_state_is_refused_by_name(tmp_path):
    ds = dicom_dataset(GRAY, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1")
    del ds.PixelData, ds.Rows
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "without pixels (Grayscale Softcopy Presentation State)" in refused(tmp_path / "a.dcm")


def test_a_film_is_refused(tmp_path):
    ds = dicom_dataset(COLOR)
    ds.compress(RLELossless)
    ds.file_meta.TransferSyntaxUID = MPEG2MPML
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "expected a still image, got MPEG2 Main Profile / Main Level data. Convert" in refused(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("syntax", "name"),
    [
        ("1.2.840.10008.1.2.4.110", "JPEG XL Lossless"),
        ("1.2.840.10008.1.2.4.112", "JPEG XL"),
        ("1.2.840.10008.1.2.4.55", "JPEG Full Progression, Non-Hierarchical (Process 10 and 12)"),
        ("1.2.840.113619.5.2", "private (1.2.840.113619.5.2)"),
        ("1.3.46.670589.33.1.4.1", "private (1.3.46.670589.33.1.4.1)"),
    ],
)
def test_a_syntax_that_nothing_decodes_is_named(tmp_path, syntax, name):
    ds = dicom_dataset(COLOR, PixelData=encapsulate([b"\0" * 16]))
    # pydicom does not write syntaxes newer than its dictionary
    written = HTJ2KLossless if "JPEG XL" in name else UID(syntax)
    ds.file_meta.TransferSyntaxUID = written
    ds["PixelData"].is_undefined_length = True
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True, implicit_vr=False, little_endian=True)
    content = (tmp_path / "a.dcm").read_bytes().replace(written.encode(), syntax.encode())
    (tmp_path / "a.dcm").write_bytes(content)
    assert f"expected a transfer syntax that can be decoded, got {name} data. Convert" in refused(tmp_path / "a.dcm")


def test_claims_beyond_max_pixels_are_refused_before_memory_is_taken(tmp_path):
    ds = dicom_dataset(GRAY.astype(np.uint8))
    ds.compress(RLELossless)
    ds.Rows = ds.Columns = 30000
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    tracemalloc.start()
    assert "more than max_pixels=536870912. Raise it if that is right." in refused(tmp_path / "a.dcm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23
    assert read(write_dicom(tmp_path / "b.dcm", GRAY), max_pixels=35)[0].size == 35
    assert "more than max_pixels=34" in refused(tmp_path / "b.dcm", max_pixels=34)


def test_what_is_read_has_no_patient(tmp_path):
    ds = read_dicom(write_dicom(tmp_path / "a.dcm", GRAY))
    assert "Rows" in ds
    assert "PixelData" in ds
    assert not [keyword for keyword in (*PATIENT, "StudyDate", "SOPInstanceUID") if keyword in ds]
