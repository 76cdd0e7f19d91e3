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


"""Nothing of a header reaches the log or the screen, whatever is wrong with it."""

from __future__ import annotations

import io
import logging
import struct
import threading
import warnings

import numpy as np
import pytest
from dicom_files import dicom_dataset
from pydicom import misc
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag
from pydicom.valuerep import VR

from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.patients import read_keys
from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.data.dicom.sr import ClassificationSRWriter
from monai_weckd.data.dicom.sr_reading import read_classification_sr

MARKER = "Marker"
VRS = sorted(vr.value for vr in VR if len(vr.value) == 2)
LONG = {"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"}
# elements that some reader of this package looks at, and one that none does
PLACES = (
    *("SpecificCharacterSet", "SOPClassUID", "StudyDate", "Modality", "PatientName", "PatientID", "PatientBirthDate"),
    *("StudyInstanceUID", "SeriesInstanceUID", "PixelSpacing", "ImageOrientationPatient", "NumberOfFrames", "Rows"),
    *("PhotometricInterpretation", "BitsStored", "WindowCenter", "WindowWidth", "RescaleSlope", "StudyComments"),
    *("ModalityLUTSequence", "SharedFunctionalGroupsSequence", "TransferSyntaxUID", "MediaStorageSOPClassUID"),
)
VALUES = {
    "ascii": b"Marker 19730423^Jane-and much longer than a value of most kinds may be, Marker Marker Marker Marker!",
    "bytes": b"Marker\\\xff\xfe\\\x1b$B1\\'Marker\" it's \x00Marker",
    "number": b"19.73.Marker",
    "single": b"Marker",
}


def element(tag, vr, value):
    value += b" " * (len(value) % 2)
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode()
    return head + (b"\0\0" + struct.pack("<I", len(value)) if vr in LONG else struct.pack("<H", len(value))) + value


def file_with(keyword, vr, value):
    """Return a picture with one element of this kind and value, in its place among the others."""
    buffer = io.BytesIO()
    dataset = dicom_dataset(np.zeros((4, 4), np.uint8), StudyInstanceUID="1.2")
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if keyword in dataset:
        del dataset[keyword]
    dataset.save_as(buffer, enforce_file_format=True)
    content, tag = buffer.getvalue(), Tag(tag_for_keyword(keyword))
    meta = 144 + struct.unpack("<I", content[140:144])[0]
    place = 144 if tag.group == 2 else meta
    while place < len(content) and tag.group != 2:
        group, number = struct.unpack("<HH", content[place : place + 4])
        if (group << 16 | number) > tag:
            break
        kind = content[place + 4 : place + 6].decode()
        wide = kind in LONG
        length = struct.unpack("<I" if wide else "<H", content[place + 8 - 2 * (not wide) :][: 4 if wide else 2])[0]
        place += (12 if wide else 8) + length
    added = element(tag, vr, value)
    if tag.group != 2:
        return content[:place] + added + content[place:]
    size = struct.pack("<I", meta - 144 + len(added))
    head = content[:140] + size
    return head + (added + content[144:] if tag.element < 0x10 else content[144:meta] + added + content[meta:])


@pytest.fixture
def said(caplog, capfd):
    """Return a function that gives what was said: log, warnings and screen."""
    caplog.set_level(logging.DEBUG)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield lambda: "".join((caplog.text, *(str(one.message) for one in warned), *capfd.readouterr()))


def write_report(path):
    ClassificationSRWriter(["a", "b"], model="m", version="1", bundle="b").write(
        path.with_name("r.dcm"), [0.25, 0.75], source=path
    )


READERS = {
    "image": lambda path: DicomReader().get_data(DicomReader().read(path)),
    "window": lambda path: DicomReader(window="dicom").get_data(DicomReader(window="dicom").read(path)),
    "tags": lambda path: DicomReader(tags=PLACES[:-2]).get_data(DicomReader(tags=PLACES[:-2]).read(path)),
    "header": lambda path: read_header(path, *PLACES[:-2]),
    "keys": read_keys,
    "report": read_classification_sr,
}


@pytest.mark.parametrize("vr", VRS)
def test_no_value_of_any_kind_is_said(tmp_path, said, vr):
    pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")
    errors = []
    for number, keyword in enumerate(PLACES):
        path = tmp_path / f"{keyword}.dcm"
        path.write_bytes(file_with(keyword, vr, list(VALUES.values())[number % 3]))
        for read in READERS.values():
            try:
                read(path)
            except DicomReadError as error:
                errors.append(str(error))
                logging.getLogger("server").error("refused", exc_info=error)
    assert errors  # some reader refuses some of it
    assert MARKER not in said()
    assert [error for error in errors if MARKER in error] == []


@pytest.mark.parametrize("value", VALUES.values(), ids=list(VALUES))
@pytest.mark.parametrize("vr", ["UI", "PN", "DS", "SQ", "UN"])
def test_no_report_says_what_it_repeats(tmp_path, said, vr, value):
    pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")
    for keyword in ("PatientName", "PatientBirthDate", "StudyInstanceUID", "SOPInstanceUID", "SpecificCharacterSet"):
        path = tmp_path / f"{keyword}.dcm"
        path.write_bytes(file_with(keyword, vr, value))
        try:
            write_report(path)
        except DicomReadError as error:
            logging.getLogger("server").error("refused", exc_info=error)
    assert MARKER not in said()


def test_pydicom_would_say_it(tmp_path, said, monkeypatch):
    # so that the test above can fail
    monkeypatch.setattr(misc, "warnings", warnings)
    monkeypatch.setattr(misc.LOGGER, "filters", [])
    monkeypatch.setattr(misc.LOGGER, "level", logging.DEBUG)
    path = tmp_path / "image.dcm"
    path.write_bytes(file_with("StudyInstanceUID", "UI", VALUES["ascii"]))
    read_keys(path)
    assert said().count(MARKER) > 2


def test_threads_do_not_undo_it_for_each_other(tmp_path, said):
    path = tmp_path / "image.dcm"
    path.write_bytes(file_with("StudyInstanceUID", "UI", VALUES["ascii"]))
    threads = [threading.Thread(target=read_header, args=(path, "StudyInstanceUID")) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert MARKER not in said()


@pytest.mark.parametrize(
    "name", ["pydicom", "pydicom.pixels", "pydicom.pixels.decoders.base", "highdicom.sr", "openjpeg"]
)
def test_loggers_below_are_silent_as_well(said, name):
    logging.getLogger(name).error("Invalid value for VR UI: 'Marker'")
    assert said() == ""
