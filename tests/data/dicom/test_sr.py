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

import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest
from dicom_files import write_dicom, write_series
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from monai_weckd.data import ClassificationSRWriter, DicomReadError, read_classification_sr

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

CLASSES = ["tumor", "=no tumor", 'Größe, "ß"']
PROBABILITIES = [0.12345678, 0.87654321, 1e-17]
NAMES = {"model": "Brain chain, no. 1", "version": "0.1.0, weights 0123", "bundle": "brain_mri_chain_classification"}
STUDY = {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.7", "AccessionNumber": "A1", "SOPClassUID": CTImageStorage}


def write_image(folder, **elements):
    return write_dicom(folder / "image.dcm", np.zeros((8, 9), dtype=np.uint16), **{**STUDY, **elements})


def writer(classes=CLASSES, **changes):
    return ClassificationSRWriter(classes, **{**NAMES, **changes})


def errors_of_dciodvfy(path):
    """Return the errors that an independent validator finds."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, errors="replace")
    lines = (done.stdout + done.stderr).splitlines()
    assert "ComprehensiveSR" in lines
    return [line for line in lines if line.startswith("Error")]


@pytest.mark.parametrize(
    ("classes", "changes", "message"),
    [
        ([], {}, "classes: expected at least one character or class, got none. Name it."),
        (["a"], {"model": ""}, "model: expected at least one character or class, got none. Name it."),
        (["a", "a"], {}, r"classes: expected different names, got \['a', 'a'\]. Rename one."),
        (["a" * 50], {}, "classes: expected names of 1 to 49 characters without backslash, line break or space around"),
        (["a\\b"], {}, r"got 'a\\\\b'. Rename it."),
        (["a\nb"], {}, r"got 'a\\nb'. Rename it."),
        (["a "], {}, "got 'a '. Rename it."),
    ],
)
def test_names_that_no_report_can_hold(classes, changes, message):
    with pytest.raises(ValueError, match=message):
        writer(classes, **changes)


@pytest.mark.parametrize("values", [[0.5, 0.5], [0.5, 0.6, -0.1], [float("nan"), 0, 0]])
def test_probabilities_that_are_none(tmp_path, values):
    with pytest.raises(ValueError, match=r"probabilities: expected 3 from 0 to 1, got \[.* Apply a softmax."):
        writer().write(tmp_path / "sr.dcm", values, source=write_image(tmp_path))


def test_an_image_that_cannot_be_referred_to(tmp_path):
    for keyword, uid in {"StudyInstanceUID": "", "SeriesInstanceUID": "12abc"}.items():
        path = write_image(tmp_path, **{keyword: uid})
        with pytest.raises(DicomReadError, match=f"image.dcm: expected a valid {keyword}, to refer to the image, got"):
            writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    path = write_image(tmp_path, PatientSex="secret")
    with pytest.raises(DicomReadError, match="PatientSex") as error:
        writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    assert "secret" not in str(error.value)
    (tmp_path / "text.dcm").write_text("text")
    with pytest.raises(DicomReadError, match=r"text\.dcm: expected a DICOM file"):
        writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=tmp_path / "text.dcm")
    assert not (tmp_path / "sr.dcm").exists()


def test_a_report_keeps_classes_probabilities_and_where_they_are_from(tmp_path):
    path = write_image(tmp_path, PatientName="Müller^Änne", SpecificCharacterSet="ISO_IR 100")
    writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    report, image = read_classification_sr(tmp_path / "sr.dcm"), dcmread(path)
    assert report.predicted == "=no tumor"
    assert list(report.probabilities) == CLASSES
    assert list(report.probabilities.values()) == PROBABILITIES
    assert {"model": report.model, "version": report.version, "bundle": report.bundle} == NAMES
    assert report.images == (image.SOPInstanceUID,)
    assert not report.verified
    dataset = dcmread(tmp_path / "sr.dcm")
    assert str(dataset.PatientName) == "Müller^Änne"
    for keyword in ("PatientID", "PatientBirthDate", "StudyInstanceUID", "StudyDate", "AccessionNumber"):
        assert dataset[keyword].value == image[keyword].value
    assert dataset.SeriesInstanceUID != image.SeriesInstanceUID
    assert (dataset.VerificationFlag, dataset.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    reference = dataset.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == image.SeriesInstanceUID
    assert reference.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    # one class has one code, whatever model it is from; each report has a name of its own
    writer(CLASSES[::-1], model="Other").write(tmp_path / "other.dcm", PROBABILITIES[::-1], source=path)
    other = dcmread(tmp_path / "other.dcm")
    assert code_of_finding(other) == code_of_finding(dataset)
    assert other.SOPInstanceUID != dataset.SOPInstanceUID


def code_of_finding(dataset):
    """Return the value of the coded finding, found without highdicom."""
    items = [item for element in dataset.iterall() if element.keyword == "ContentSequence" for item in element.value]
    (finding,) = (item for item in items if item.ConceptNameCodeSequence[0].CodeValue == "121071")
    return finding.ConceptCodeSequence[0].CodeValue


def test_a_report_is_valid_to_dciodvfy(tmp_path):
    writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=write_image(tmp_path))
    assert errors_of_dciodvfy(tmp_path / "sr.dcm") == []


def test_no_warning_quotes_the_patient(tmp_path):
    path = write_image(tmp_path, PatientName="Doe")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    assert dcmread(tmp_path / "sr.dcm").PatientName == "Doe"


def test_a_series_is_referred_to_slice_by_slice(tmp_path):
    study = {key: value for key, value in STUDY.items() if key != "SOPClassUID"}
    files = write_series(tmp_path / "series", np.zeros((4, 5, 3), dtype=np.int16), np.eye(4), **study)
    (tmp_path / "series" / "notes.txt").touch()
    for source in (tmp_path / "series", files):
        writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=source)
        found = read_classification_sr(tmp_path / "sr.dcm").images
        assert sorted(found) == sorted(dcmread(name).SOPInstanceUID for name in files)
    assert errors_of_dciodvfy(tmp_path / "sr.dcm") == []


def test_what_is_no_report_of_ours_is_refused(tmp_path):
    with pytest.raises(DicomReadError, match=r"image.dcm: expected a structured report, got another object\."):
        read_classification_sr(write_image(tmp_path))
    writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=write_image(tmp_path))
    dataset = dcmread(tmp_path / "sr.dcm")
    for element in dataset.iterall():
        if element.keyword == "CodingSchemeDesignator" and element.value == "99WECKD":
            element.value = "99OTHER"
    dataset.save_as(tmp_path / "other.dcm")
    with pytest.raises(DicomReadError, match=r"other\.dcm: expected the classification of one image, got 0."):
        read_classification_sr(tmp_path / "other.dcm")


def test_without_highdicom_the_error_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "highdicom", None)
    message = r"highdicom: expected to be installed, got none. Run pip install 'monai-weckd\[sr\]'"
    with pytest.raises(ImportError, match=message):
        writer()
    with pytest.raises(ImportError, match=message):
        read_classification_sr(tmp_path / "sr.dcm")


@pytest.mark.shared
def test_reports_of_real_images(shared_data, tmp_path):
    folder, count = shared_data("dicom_variety") / "files", 0
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    refused = []
    for path in sorted(folder.glob("*.dcm")):
        try:
            writer().write(tmp_path / path.name, PROBABILITIES, source=path)
        except DicomReadError:
            refused.append(path.name)
            continue
        report = read_classification_sr(tmp_path / path.name)
        assert list(report.probabilities.values()) == PROBABILITIES
        assert report.images == (dcmread(path, stop_before_pixels=True).SOPInstanceUID,)
        assert errors_of_dciodvfy(tmp_path / path.name) == [], path.name
        count += 1
    # no DICOM prefix, UIDs that are none, times of before DICOM
    assert refused == ["OT-PAL-8-face.dcm", "bad_sequence.dcm", "color-pl.dcm", "color-px.dcm", "no_meta.dcm"]
    assert count > 40
