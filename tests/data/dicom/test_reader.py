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

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_files import PATIENT, read, refused, write_dicom
from monai.bundle import ConfigParser
from monai.transforms import LoadImage, LoadImaged
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    RTDoseStorage,
    SegmentationStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from monai_weckd.data.dicom import codestream as dicom_codestream
from monai_weckd.data.dicom import pixels as dicom_pixels
from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.data.dicom.sr_reading import read_classification_sr

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 4096, (5, 7), dtype=np.uint16)
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


# arguments


@pytest.mark.parametrize("window", ["Dicom", (40,), (40, 0), (40, -1), (float("nan"), 1), (1, 2, 3)])
def test_a_window_is_none_dicom_or_center_and_width(window):
    with pytest.raises(ValueError, match=r"window: expected None, 'dicom' or \(center, width > 0\), got"):
        DicomReader(window=window)


def test_a_tag_is_a_keyword_and_an_unknown_one_names_the_nearest():
    with pytest.raises(ValueError, match=r"tags: expected DICOM keywords, got 'StudyDat'\. Did you mean 'StudyDate'\?"):
        DicomReader(tags=("StudyDat",))
    with pytest.raises(ValueError, match=r"tags: expected DICOM keywords, got '\?'\. Pass e\.g\. 'StudyDate'\."):
        DicomReader(tags=("?",))


def test_limits_are_checked():
    with pytest.raises(ValueError, match=r"gap_tolerance: expected a fraction of at least 0, got -0\.1"):
        DicomReader(gap_tolerance=-0.1)
    with pytest.raises(ValueError, match="max_pixels: expected at least 1, got 0"):
        DicomReader(max_pixels=0)


def test_read_takes_no_options():
    with pytest.raises(TypeError, match=r"kwargs: expected none, got \['force'\]\. Pass options to DicomReader"):
        DicomReader().read("a.dcm", force=True)


def test_verify_suffix_goes_by_folder_suffix_or_prefix(tmp_path):
    file = Path(write_dicom(tmp_path / "no_suffix", GRAY))
    other = tmp_path / "a.png"
    other.write_bytes(b"\x89PNG")
    reader = DicomReader()
    assert reader.verify_suffix(tmp_path)
    assert reader.verify_suffix([file, "absent.dcm"])
    assert not reader.verify_suffix([file, other])


# refusals


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"SOPClassUID": SegmentationStorage}, "expected an image, got a mask (Segmentation). Leave it out."),
        ({"SOPClassUID": RTDoseStorage}, "expected an image, got a dose grid (RT Dose). Leave it out."),
        ({"SOPClassUID": VLWholeSlideMicroscopyImageStorage}, "got tiles of a slide: use monai.data.WSIReader"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "expected an image, got a mask of 1 bit per pixel"),
        (
            {"PhotometricInterpretation": "HSV"},
            "PhotometricInterpretation: expected gray, palette, RGB or YBR, got HSV.",
        ),
        (
            {"PhotometricInterpretation": "RGB"},
            "PhotometricInterpretation: expected gray, palette, RGB or YBR, got RGB.",
        ),
        ({"PixelData": b"\0\0"}, "it ends too early, after 2 of 70 bytes of pixels"),
        ({"Rows": 65535, "Columns": 65535}, "the header claims 65535 x 65535 pixels x 1 frames x 1 samples, more than"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, elements, message):
    path = write_dicom(tmp_path / "a.dcm", GRAY, **elements)
    assert message in refused(path)
    assert refused(path).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reportsi.dcm", "expected an image, got a DICOM object without pixels (Basic Text SR). Leave it out."),
        ("rtplan.dcm", "got a DICOM object without pixels (RT Plan)"),
        ("waveform_ecg.dcm", "got a DICOM object without pixels (12-lead ECG Waveform)"),
        ("meta_missing_tsyntax.dcm", "expected a transfer syntax in the file's meta header, got none"),
        ("no_meta.dcm", "expected a DICOM file, got one without the 'DICM' prefix."),
        ("README.txt", "expected a DICOM file, got one without the 'DICM' prefix."),
    ],
)
def test_other_objects_are_refused_by_name(name, message):
    assert message in refused(SAMPLES / name)


def test_a_missing_file_is_named(tmp_path):
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "absent.dcm")


def test_a_missing_decoder_names_the_extra(monkeypatch):
    monkeypatch.setattr(dicom_pixels, "get_decoder", Decoder)  # without its plugins
    message = refused(SAMPLES / "MR_small_jpeg_ls_lossless.dcm")
    assert (
        'no decoder for JPEG-LS Lossless Image Compression is installed. Run: pip install "monai-weckd[dicom]"'
        in message
    )


@pytest.mark.parametrize(
    ("name", "marker", "at"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", b"\xff\xc0\x00\x11\x08", 5),
        ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xc3\x00\x11\x08", 5),
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xf7\x00\x0b", 5),
        ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 10),
    ],
)
def test_a_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path, name, marker, at):
    data = bytearray((SAMPLES / name).read_bytes())
    start = data.index(marker) + at
    data[start : start + 2] = b"\xff\xff"
    (tmp_path / name).write_bytes(data)
    message = refused(tmp_path / name)
    assert "frame 1: expected" in message
    assert "65535" in message


def test_a_stream_without_a_size_is_refused(tmp_path):
    data = (SAMPLES / "SC_rgb_jpeg_dcmtk.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xda\x00\x11\x08"))
    assert "pixels (columns, rows) by the header, got None" in refused(tmp_path / "a.dcm")


def test_a_deflated_file_is_read_and_one_too_large_is_refused(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((500, 500), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    assert Path(path).stat().st_size < 5000
    assert read(path)[0].shape == (500, 500)
    monkeypatch.setattr(dicom_codestream, "_MAX_INFLATED", 400_000)
    assert "expected at most 400000 bytes inflated, got more. Save it without deflate." in refused(path)


@pytest.mark.parametrize("padding", [0, 900, 1500, 70_000, 3_000_000])
@pytest.mark.parametrize("says_length", [True, False])
def test_a_long_meta_header_hides_no_deflated_file(tmp_path, monkeypatch, padding, says_length):
    path = Path(write_dicom(tmp_path / "a.dcm", np.zeros((500, 500), np.uint16), syntax=DeflatedExplicitVRLittleEndian))
    data, extra = path.read_bytes(), b"\x02\x00\x01\x00OB\0\0" + padding.to_bytes(4, "little") + bytes(padding)
    length = int.from_bytes(data[140:144], "little") + len(extra)
    first = data[132:140] + length.to_bytes(4, "little") if says_length else b""
    path.write_bytes(data[:132] + first + extra + data[144:])
    monkeypatch.setattr(dicom_codestream, "_MAX_INFLATED", 400_000)
    expected = "expected at most 400000 bytes inflated"
    assert expected in refused(path)
    with pytest.raises(DicomReadError, match=expected):
        read_header(path, "Modality")
    with pytest.raises(DicomReadError, match=expected):
        read_classification_sr(path)


@pytest.mark.parametrize("claimed", [0, 7, 2**31, 2**32 - 1])
def test_the_claimed_length_of_the_meta_header_hides_no_deflated_file(tmp_path, monkeypatch, claimed):
    path = Path(write_dicom(tmp_path / "a.dcm", np.zeros((500, 500), np.uint16), syntax=DeflatedExplicitVRLittleEndian))
    data = bytearray(path.read_bytes())
    data[140:144] = claimed.to_bytes(4, "little")
    path.write_bytes(data)
    monkeypatch.setattr(dicom_codestream, "_MAX_INFLATED", 400_000)
    assert "expected at most 400000 bytes inflated" in refused(path)


def test_an_unsound_meta_header_is_refused(tmp_path):
    path = Path(write_dicom(tmp_path / "a.dcm", GRAY, syntax=DeflatedExplicitVRLittleEndian))
    data = path.read_bytes()
    path.write_bytes(data[:132] + 1001 * b"\x02\x00\x02\x01UL\x00\x00" + data[132:])
    assert "expected a meta header of at most 1000 elements, got more" in refused(path)
    path.write_bytes(data[:132] + b"\x02\x00\x02\x01\x04\x00\x00\x00abcd" + data[132:])
    assert "expected a meta header with explicit VR, got another" in refused(path)
    path.write_bytes(data[:-8] + b"\0" * 8)
    assert "cannot be decoded (it ends too early)" in refused(path)


# in MONAI


def test_load_image_falls_back_to_no_other_reader(tmp_path):
    # stock readers give this mask as an image of 0 and 255
    path = str(SAMPLES / "liver_1frame.dcm")
    with pytest.raises(DicomReadError, match=r"got a mask \(Segmentation\)"):
        LoadImage(reader=DicomReader())(path)
    with pytest.raises(DicomReadError, match="No such file"):
        LoadImage(reader=DicomReader())(tmp_path / "absent.dcm")


def test_a_configuration_builds_it(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY)
    config = {
        "load": {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": {"_target_": "monai_weckd.data.dicom.reader.DicomReader", "window": [1000, 500]},
            "ensure_channel_first": True,
        }
    }
    load = ConfigParser(config).get_parsed_content("load")
    assert isinstance(load, LoadImaged)
    image = load({"image": path})["image"]
    assert image.shape == (1, 7, 5)
    assert image.max() <= 1


def test_one_reader_serves_many_threads(tmp_path):
    paths = [write_dicom(tmp_path / f"{k}.dcm", np.full((50, 50), k, np.uint8)) for k in range(32)]
    load = LoadImage(reader=DicomReader())
    with ThreadPoolExecutor(8) as pool:
        assert [float(image.mean()) for image in pool.map(load, paths)] == list(range(32))


# patients


def test_nothing_of_the_patient_gets_out(tmp_path, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    path = write_dicom(tmp_path / "a.dcm", GRAY, PixelSpacing=[2, 1])
    texts = [repr(read(path)[1]), repr(LoadImage(reader=DicomReader())(path).meta)]
    texts.append(refused(write_dicom(tmp_path / "b.dcm", GRAY, PixelData=b"\0\0")))
    texts += [caplog.text, *(str(warning.message) for warning in recwarn)]
    for secret in (*PATIENT.values(), "Doe", "Jane"):
        assert not [text for text in texts if secret in text]
    keys = {"affine", "original_affine", "space", "spatial_shape", "original_channel_dim"}
    assert set(read(path)[1]) == keys | {"has_geometry", "spacing_from", "inverted"}


@pytest.mark.filterwarnings("ignore:.*Invalid value for VR:UserWarning")
def test_a_damaged_header_does_not_quote_the_patient(tmp_path):
    data = Path(write_dicom(tmp_path / "a.dcm", GRAY)).read_bytes()
    # longer by the next elements: the class of the object, then the spacing of a row, swallow the patient's name
    for element in (b"\x08\x00\x16\x00UI", b"\x28\x00\x04\x00CS", b"\x28\x00\x10\x00US"):
        start = data.index(element) + 6
        broken = data[:start] + (900).to_bytes(2, "little") + data[start + 2 :]
        (tmp_path / "b.dcm").write_bytes(broken)
        with pytest.raises(DicomReadError) as caught:
            read(tmp_path / "b.dcm")
        assert caught.value.__suppress_context__  # a printed traceback has no cause that quotes
        assert not [secret for secret in PATIENT.values() if secret in str(caught.value)]


def test_tags_are_copied_if_asked_for(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY, InstanceNumber=0)
    _, meta = read(path, tags=("StudyDate", "BodyPartExamined", "PatientID", "InstanceNumber"))
    assert (meta["StudyDate"], meta["BodyPartExamined"], meta["InstanceNumber"]) == ("20200131", "", "0")
    assert meta["PatientID"] == PATIENT["PatientID"]
