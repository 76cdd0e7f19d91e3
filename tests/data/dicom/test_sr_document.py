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

import warnings

import numpy as np
import pytest
from dicom_files import errors_of_dciodvfy, write_series
from pydicom import dcmread
from sr_reports import NAMES, PROBABILITIES, STUDY, save, write_image, write_study, writer

from monai_weckd import __version__
from monai_weckd.data import read_classification_sr

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")


def test_an_archive_can_list_the_report(tmp_path):
    path = write_image(tmp_path, SeriesNumber=9001)
    writer(model="Name with \\ and \n" + 70 * "x").write(tmp_path / "sr.dcm", PROBABILITIES, source=path)
    dataset = dcmread(tmp_path / "sr.dcm")
    assert dataset.SeriesDescription == ("Classes by Name with   and  " + 70 * "x")[:64]
    assert dataset.ManufacturerModelName == ("Name with   and  " + 70 * "x")[:64]
    assert list(dataset.SoftwareVersions) == [NAMES["version"], f"monai_weckd {__version__}"]
    assert (dataset.SeriesNumber, dataset.InstanceNumber) == (9002, 1)  # the image has the first free one
    assert errors_of_dciodvfy(tmp_path / "sr.dcm") == []


def test_one_report_of_a_study(tmp_path):
    study = write_study(tmp_path / "study")
    values = [[0.1 * number, 1 - 0.1 * number, 0] for number in range(4)]
    path = save(writer().build(list(zip(values, study, strict=True))), tmp_path / "sr.dcm")
    reports = read_classification_sr(path)
    assert [list(report.probabilities.values()) for report in reports] == values
    assert [report.images for report in reports] == [(dcmread(image).SOPInstanceUID,) for image in study]
    assert {report.predicted for report in reports} == {"=no tumor"}
    assert errors_of_dciodvfy(path) == []
    (evidence,) = dcmread(path).CurrentRequestedProcedureEvidenceSequence
    assert sorted(len(series.ReferencedSOPSequence) for series in evidence.ReferencedSeriesSequence) == [2, 2]


def test_a_report_of_several_studies_is_refused(tmp_path):
    study = write_study(tmp_path / "study")
    images = [(PROBABILITIES, study[0]), (PROBABILITIES, write_image(tmp_path))]
    with pytest.raises(
        ValueError, match=r"images: expected those of one study, got 2 studies. Write a report for each."
    ):
        writer().build(images)
    with pytest.raises(ValueError, match=r"images: expected those of one study, got 0 studies"):
        writer().build([])


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
