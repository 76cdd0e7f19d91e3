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
import sys
import warnings

import numpy as np
import pytest
from dicom_files import errors_of_dciodvfy, write_dicom, write_series
from pydicom import dcmread
from pydicom.uid import CTImageStorage

from monai_weckd import __version__
from monai_weckd.data import ClassificationSRWriter, DicomReadError, read_classification_sr

highdicom = pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

CLASSES = ["tumor", "=no tumor", 'Größe, "ß"']
PROBABILITIES = [0.12345678, 0.87654321, 1e-17]
NAMES = {"model": "Brain chain, no. 1", "version": "0.1.0, weights 0123", "bundle": "brain_mri_chain_classification"}
STUDY = {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.7", "AccessionNumber": "A1", "SOPClassUID": CTImageStorage}


def write_image(folder, **elements):
    return write_dicom(folder / "image.dcm", np.zeros((8, 9), dtype=np.uint16), **{**STUDY, **elements})


def writer(classes=CLASSES, **changes):
    return ClassificationSRWriter(classes, **{**NAMES, **changes})


@pytest.mark.parametrize(
    ("classes", "changes", "message"),
    [
        ([], {}, "classes: expected at least one class, got none. Name it."),
        (["a"], {"model": ""}, "model: expected at least one character, got none. Name it."),
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


def test_a_threshold_for_each_finding():
    with pytest.raises(ValueError, match=r"thresholds: expected 3, got 2\. Pass one for each\."):
        writer(thresholds=[0.5, 0.5])


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
    (report,), image = read_classification_sr(tmp_path / "sr.dcm"), dcmread(path)
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


def test_an_archive_can_list_the_report(tmp_path):
    path = write_image(tmp_path, SeriesNumber=9001)
    writer(model="Name with \\ and \n" + 70 * "x").write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    dataset = dcmread(tmp_path / "sr.dcm")
    assert dataset.SeriesDescription == ("Classes by Name with   and  " + 70 * "x")[:64]
    assert dataset.ManufacturerModelName == ("Name with   and  " + 70 * "x")[:64]
    assert list(dataset.SoftwareVersions) == [NAMES["version"], f"monai_weckd {__version__}"]
    assert (dataset.SeriesNumber, dataset.InstanceNumber) == (9002, 1)  # the image has the first free one
    assert errors_of_dciodvfy(tmp_path / "sr.dcm") == []


def save(dataset, path):
    dataset.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def study(tmp_path):
    """Images of one study, in two series."""
    folder, study = tmp_path / "study", {"StudyInstanceUID": "1.2.3", "SOPClassUID": CTImageStorage}
    folder.mkdir()
    pixels = np.zeros((8, 9), dtype=np.uint16)
    return [
        write_dicom(folder / f"{number}.dcm", pixels, **study, SeriesInstanceUID=f"1.2.3.{number % 2 + 1}")
        for number in range(4)
    ]


def test_one_report_of_a_study(study, tmp_path):
    values = [[0.1 * number, 1 - 0.1 * number, 0] for number in range(4)]
    path = save(writer().build(list(zip(values, study, strict=True))), tmp_path / "sr.dcm")
    reports = read_classification_sr(path)
    assert [list(report.probabilities.values()) for report in reports] == values
    assert [report.images for report in reports] == [(dcmread(image).SOPInstanceUID,) for image in study]
    assert {report.predicted for report in reports} == {"=no tumor"}
    assert errors_of_dciodvfy(path) == []
    (evidence,) = dcmread(path).CurrentRequestedProcedureEvidenceSequence
    assert sorted(len(series.ReferencedSOPSequence) for series in evidence.ReferencedSeriesSequence) == [2, 2]


def test_a_report_of_several_studies_is_refused(study, tmp_path):
    images = [(PROBABILITIES, study[0]), (PROBABILITIES, write_image(tmp_path))]
    with pytest.raises(
        ValueError, match=r"images: expected those of one study, got 2 studies. Write a report for each."
    ):
        writer().build(images)
    with pytest.raises(ValueError, match=r"images: expected those of one study, got 0 studies"):
        writer().build([])


def test_findings_are_present_or_absent(study, tmp_path):
    findings = writer(thresholds=[0.1, 0.9, None])
    values = [[0.1, 0.2, 0.9], [0.09, 0.95, 0]]
    path = save(findings.build(list(zip(values, study[:2], strict=True))), tmp_path / "sr.dcm")
    first, second = read_classification_sr(path)
    assert (first.predicted, second.predicted) == ("", "")
    assert first.present == {"tumor": True, "=no tumor": False}
    assert second.present == {"tumor": False, "=no tumor": True}
    assert [list(report.probabilities.values()) for report in (first, second)] == values
    assert dcmread(path).SeriesDescription == "Findings by Brain chain, no. 1"
    assert errors_of_dciodvfy(path) == []
    # as a stranger reads it, with public codes
    content = highdicom.sr.srread(path).content
    evaluations = [group.get_qualitative_evaluations() for group in content.get_image_measurement_groups()]
    told = [
        [(item.name.meaning, item.value.value, item.value.scheme_designator) for item in row] for row in evaluations
    ]
    assert told == [
        [("tumor", "52101004", "SCT"), ("=no tumor", "272519000", "SCT")],
        [("tumor", "272519000", "SCT"), ("=no tumor", "52101004", "SCT")],
    ]


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
        (found,) = read_classification_sr(tmp_path / "sr.dcm")
        assert sorted(found.images) == sorted(dcmread(name).SOPInstanceUID for name in files)
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
    with pytest.raises(DicomReadError, match=r"other\.dcm: expected the classification of an image, got none."):
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
        (report,) = read_classification_sr(tmp_path / path.name)
        assert list(report.probabilities.values()) == PROBABILITIES
        assert report.images == (dcmread(path, stop_before_pixels=True).SOPInstanceUID,)
        assert errors_of_dciodvfy(tmp_path / path.name) == [], path.name
        count += 1
    # no DICOM prefix, UIDs that are none, times of before DICOM
    assert refused == ["OT-PAL-8-face.dcm", "bad_sequence.dcm", "color-pl.dcm", "color-px.dcm", "no_meta.dcm"]
    assert count > 40
