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

import pytest
from dicom_files import errors_of_dciodvfy
from pydicom import dcmread
from sr_reports import CLASSES, NAMES, PROBABILITIES, save, write_image, write_study, writer

from monai_weckd.data import DicomReadError, read_classification_sr

highdicom = pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")


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
    for keyword in ("StudyDate", "StudyTime", "PatientBirthDate"):
        path = write_image(tmp_path, **{keyword: "secret"})
        with pytest.raises(
            DicomReadError, match=f"image.dcm: expected a valid {keyword}, to refer to the image, got an"
        ):
            writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    (tmp_path / "text.dcm").write_text("text")
    with pytest.raises(DicomReadError, match=r"text\.dcm: expected a DICOM file"):
        writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=tmp_path / "text.dcm")
    assert not (tmp_path / "sr.dcm").exists()


def test_dates_of_before_dicom_are_read(tmp_path):
    path = write_image(tmp_path, StudyDate="1994.11.05", StudyTime="11:20:00.5", PatientBirthDate="")
    writer().write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    found = dcmread(tmp_path / "sr.dcm")
    assert (found.StudyDate, found.StudyTime, found.PatientBirthDate) == ("19941105", "112000.5", "")


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


def test_findings_are_present_or_absent(tmp_path):
    study = write_study(tmp_path / "study")
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
