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

import json

import numpy as np
import pytest
from dicom_files import errors_of_dciodvfy, write_dicom, write_series
from PIL import Image
from pydicom import dcmread

pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")

import highdicom

from monai_weckd.cli.main import main
from monai_weckd.data import read_classification_sr

GIVEN = {
    "0.dcm": ("ill", "Ada Lovelace"),
    "1.dcm": ("well", "Ada Lovelace"),
    "2.dcm": ("ill", ""),
    "3.dcm": ("well", "=Größe\\^"),
    "picture.png": ("ill", "Ada Lovelace"),
    "gone.dcm": ("ill", "Ada Lovelace"),
}
READER = ["--verified_by", "Doe^Jane", "--organization", "Clinic of Größe"]


@pytest.fixture
def images(tmp_path):
    """Pictures of two studies, 0 and 2 of one, 1 and 3 of the other; the last of them has no label."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        keys = {"StudyInstanceUID": f"1.2.{number % 2}", "SeriesNumber": 9001}
        write_dicom(folder / f"{number}.dcm", np.zeros((4, 4), np.uint8), **keys)
    Image.new("L", (4, 4)).save(folder / "picture.png")
    return folder


@pytest.fixture
def labels(tmp_path):
    entries = {name: {"label": label, "ts": 1, "who": person} for name, (label, person) in GIVEN.items()}
    return write_labels(tmp_path, entries)


def write_labels(folder, entries):
    path = folder / "labels.json"
    path.write_text(json.dumps({"format": 1, "labels": entries}))
    return path


def export(images, labels, folder, *options):
    command = ["label_sr", "--dataset_dir", images, "--labels", labels, "--write_sr", folder, *options]
    return main(list(map(str, command)))


def reports_of(folder):
    files = sorted(folder.glob("*.dcm"))
    return {path: read_classification_sr(path) for path in files}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (READER[:2], "verified_by, organization: expected both, got one. Pass the other, or leave both out."),
        (READER[2:], "verified_by, organization: expected both, got one. Pass the other, or leave both out."),
        (["--verified_by", "Jane Doe", *READER[2:]], "verified_by: expected Family^Given of at most 64 characters"),
        (["--verified_by", "Doe^\\", *READER[2:]], "verified_by: expected Family^Given of at most 64 characters"),
        ([*READER[:2], "--organization", " "], "organization: expected 1 to 64 characters without backslash, got ' '."),
        (["--sr_per", "person"], "sr_per: expected one of ('image', 'study'), got 'person'."),
        (["--labels", "none.json"], "labels: expected labels.json of `label`, got no none.json. Correct the path."),
    ],
)
def test_wrong_options_are_told_before_anything_is_written(capsys, images, labels, options, message, tmp_path):
    assert export(images, labels, tmp_path / "reports", *options) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "reports").exists()


def test_a_folder_with_files_is_refused(capsys, images, labels):
    assert export(images, labels, images) == 1
    assert "error: write_sr: expected an empty folder, got " in capsys.readouterr().err


def test_labels_go_out_unverified(capsys, images, labels, tmp_path):
    assert export(images, labels, tmp_path / "reports") == 0
    assert capsys.readouterr().out == (
        "labels  1 passed over: of images other than DICOM\nlabels  1 passed over: of images that are gone\n"
        f"reports of 4 images in {tmp_path / 'reports'}, unverified\n"
    )
    found = reports_of(tmp_path / "reports")
    told = {}
    for path, (report,) in found.items():
        dataset = dcmread(path)
        assert (dataset.VerificationFlag, dataset.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
        assert (dataset.SeriesDescription, dataset.SeriesNumber) == ("Labels by people", 9002)
        assert "VerifyingObserverSequence" not in dataset
        assert errors_of_dciodvfy(path) == []
        assert (report.verified, report.probabilities, report.model) == (False, {}, "")
        told[report.images] = (report.predicted, report.person)
    expected = {**GIVEN, "3.dcm": ("well", "Größe ^")}
    assert told == {(dcmread(images / f"{n}.dcm").SOPInstanceUID,): expected[f"{n}.dcm"] for n in range(4)}
    assert len({dcmread(path).SeriesInstanceUID for path in found}) == 2


def test_a_person_verifies_them(capsys, images, labels, tmp_path):
    assert export(images, labels, tmp_path / "reports", *READER) == 0
    assert "verified by Doe^Jane\n" in capsys.readouterr().out
    for path, (report,) in reports_of(tmp_path / "reports").items():
        assert report.verified
        dataset = dcmread(path)
        assert (dataset.VerificationFlag, dataset.PreliminaryFlag) == ("VERIFIED", "FINAL")
        (observer,) = dataset.VerifyingObserverSequence
        assert observer.VerifyingObserverName == "Doe^Jane"
        assert observer.VerifyingOrganization == "Clinic of Größe"
        assert errors_of_dciodvfy(path) == []


def test_a_study_has_a_report_of_each_person(images, labels, tmp_path):
    assert export(images, labels, tmp_path / "reports", "--sr_per", "study") == 0
    found = reports_of(tmp_path / "reports")
    assert sorted(len(reports) for reports in found.values()) == [1, 1, 1, 1]
    one_person = {name: {"label": label, "who": "Ada"} for name, (label, _) in GIVEN.items()}
    assert export(images, write_labels(tmp_path, one_person), tmp_path / "ada", "--sr_per", "study") == 0
    found = reports_of(tmp_path / "ada")
    assert sorted(len(reports) for reports in found.values()) == [2, 2]
    for path in found:
        assert errors_of_dciodvfy(path) == []
        # as a stranger reads it
        content = highdicom.sr.srread(path).content
        (context,) = content.get_observer_contexts()
        assert context.observer_identifying_attributes.name == "Ada"
        assert {group.finding_type.meaning for group in content.get_image_measurement_groups()} <= {"ill", "well"}


def test_a_label_of_a_series_refers_to_its_slices(images, tmp_path):
    files = write_series(images / "s", np.zeros((4, 5, 3), np.int16), np.eye(4), StudyInstanceUID="1.2.9")
    assert export(images, write_labels(tmp_path, {"s": {"label": "ill", "ts": 1}}), tmp_path / "reports") == 0
    ((report,),) = reports_of(tmp_path / "reports").values()
    assert sorted(report.images) == sorted(dcmread(file).SOPInstanceUID for file in files)


def test_labels_of_pictures_alone_are_told(capsys, images, tmp_path):
    labels = write_labels(tmp_path, {"picture.png": {"label": "ill"}})
    assert export(images, labels, tmp_path / "reports") == 1
    assert "error: labels: expected some of DICOM images, got none in " in capsys.readouterr().err


@pytest.mark.parametrize("verified", [True, False])
def test_they_are_labels_again(images, tmp_path, verified):
    """The circle closes by way of the manifest of fetched series."""
    series = tmp_path / "fetched" / "1.2.3.4"
    series.mkdir(parents=True)
    dataset = dcmread(images / "0.dcm")
    dataset.SeriesInstanceUID = "1.2.3.4"
    file = series / f"{dataset.SOPInstanceUID}.dcm"
    dataset.save_as(file)
    text = f"series,group,instances,bytes,digest\r\n1.2.3.4,p,1,{file.stat().st_size},d\r\n"
    (tmp_path / "fetched" / "index.csv").write_text(text)
    name = f"1.2.3.4/{file.name}"
    labels = write_labels(tmp_path, {name: {"label": "ill", "ts": 1}})
    assert export(tmp_path / "fetched", labels, tmp_path / "reports", *(READER if verified else [])) == 0
    command = ["manifest", "--dataset_dir", tmp_path / "fetched", "--reports", tmp_path / "reports"]
    assert main(list(map(str, command))) == (0 if verified else 1)
    if verified:
        assert f"{name},ill,p" in (tmp_path / "fetched" / "manifest.csv").read_text()
