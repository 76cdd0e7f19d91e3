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

import hashlib
import hmac
import json
import logging

import numpy as np
import pytest
from dicom_files import PATIENT, refused, write_dicom
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, generate_uid

from monai_weckd import PlanSettings
from monai_weckd.annotation import find_items
from monai_weckd.annotation.export import export_labels
from monai_weckd.data import load_datalist, plan_datalist
from monai_weckd.data.dicom.patients import DicomKeys, image_id, pseudonyms, read_keys

PIXELS = np.zeros((8, 8), np.uint16)


def write_slices(root, *, patients=3, suffix=".dcm", inside="", **elements):
    """Write two slices in each of two class folders for each patient."""
    for patient in range(patients):
        for label in "ab":
            for place in range(2):
                folder = root / label / inside.format(patient)
                folder.mkdir(parents=True, exist_ok=True)
                own = {"PatientID": f"PAT{patient}", "StudyInstanceUID": generate_uid()}
                write_dicom(folder / f"{patient}_{place}{suffix}", PIXELS, **{**own, **elements})


def groups_of(root):
    items = load_datalist(root).items
    found = {}
    for item in items:
        found.setdefault(item["group"], set()).add(item["id"])
    return found


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"suffix": ""},
        {"inside": "p{}"},
        {"syntax": ImplicitVRLittleEndian},
        {"syntax": DeflatedExplicitVRLittleEndian},
    ],
)
def test_the_slices_of_a_patient_are_one_group(tmp_path, options):
    write_slices(tmp_path, **options)
    found = groups_of(tmp_path)
    assert sorted({key.rpartition("/")[2][0] for key in keys} for keys in found.values()) == [{"0"}, {"1"}, {"2"}]
    assert {item["group"] for item in find_items(tmp_path, spatial_dims=2)} == found.keys()


def test_without_a_number_of_the_patient_the_study_and_then_the_series_is_the_group(tmp_path, caplog):
    write_slices(tmp_path / "studies", PatientID="", patients=1)
    assert len(groups_of(tmp_path / "studies")) == 4
    write_slices(tmp_path / "series", PatientID="", StudyInstanceUID="", SeriesInstanceUID="1.2", patients=1)
    assert len(groups_of(tmp_path / "series")) == 1
    write_slices(tmp_path / "none", PatientID="", StudyInstanceUID="", SeriesInstanceUID="", patients=1)
    assert groups_of(tmp_path / "none").keys() == {item["id"] for item in load_datalist(tmp_path / "none").items}
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition("headers: ")[2].partition(".")[0] for line in lines] == ["4 by study", "1 by series"]


def write_each(root, *headers):
    for place, elements in enumerate(headers):
        folder = root / "ab"[place % 2]
        folder.mkdir(exist_ok=True)
        write_dicom(folder / f"{place}.dcm", PIXELS, **{"StudyInstanceUID": generate_uid(), **elements})


SPELLED = {"SpecificCharacterSet": "ISO_IR 192"}


@pytest.mark.parametrize(
    "headers",
    [
        [{"PatientID": "P1"}, {"PatientID": " P1 "}, {"PatientID": "p1"}],
        [{"PatientID": "P1"}, {"PatientID": "P1\0"}],
        [{"PatientID": "Jos\u00e9", **SPELLED}, {"PatientID": "Jose\u0301", **SPELLED}],
        [{"PatientID": "1", "IssuerOfPatientID": "Ours"}, {"PatientID": "1", "IssuerOfPatientID": "OURS "}],
        [{"PatientID": "1", "IssuerOfPatientID": "Ours"}, {"PatientID": "1"}],
        [{"PatientID": "1", "StudyInstanceUID": "1.2"}, {"PatientID": "", "StudyInstanceUID": "1.2"}],
        [{"PatientID": "1", "SeriesInstanceUID": "1.3"}, {"StudyInstanceUID": "", "SeriesInstanceUID": "1.3"}],
        [
            {"PatientID": "", "StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"},
            {"PatientID": "", "StudyInstanceUID": "", "SeriesInstanceUID": "1.3"},
        ],
    ],
)
def test_what_must_be_one_patient_is_one_group(tmp_path, headers):
    write_each(tmp_path, *({"PatientID": "", **elements} for elements in headers))
    assert len(groups_of(tmp_path)) == 1
    assert {item["group"] for item in find_items(tmp_path, spatial_dims=2)} == groups_of(tmp_path).keys()


def test_patients_of_one_study_and_of_unclear_issuers_stay_apart(tmp_path):
    study = {"StudyInstanceUID": "1.2"}
    numbers = [{"PatientID": number, **study} for number in ("1", "2", "")]
    issuers = [{"PatientID": "3", "IssuerOfPatientID": issuer} for issuer in ("ours", "theirs", "")]
    write_each(tmp_path, *numbers, *issuers)
    assert len(groups_of(tmp_path)) == 6


def test_equal_numbers_of_two_issuers_are_two_patients(tmp_path):
    for place, issuer in enumerate(("one", "one", "two", "two")):
        folder = tmp_path / "ab"[place % 2]
        folder.mkdir(exist_ok=True)
        write_dicom(folder / f"{place}.dcm", PIXELS, IssuerOfPatientID=issuer)
    assert sorted(map(len, groups_of(tmp_path).values())) == [2, 2]


def test_a_group_in_the_manifest_wins_and_an_empty_one_does_not(tmp_path):
    write_slices(tmp_path)
    rows = ["file,label,group", "a/0_0.dcm,a,mine", "a/0_1.dcm,a,a/0_1.dcm", "b/1_0.dcm,b,", "a/1_0.dcm,a,"]
    (tmp_path / "manifest.csv").write_text("\n".join(rows))
    found = groups_of(tmp_path)
    assert found["mine"] == {"a/0_0.dcm"}
    assert found["a/0_1.dcm"] == {"a/0_1.dcm"}
    assert {"b/1_0.dcm", "a/1_0.dcm"} in found.values()
    assert find_items(tmp_path, spatial_dims=2)[0]["group"] == "mine"


def test_what_is_written_says_nothing_of_the_patient(tmp_path, caplog):
    write_slices(tmp_path, PatientID=PATIENT["PatientID"])
    (tmp_path / "a" / "0_0.dcm").write_bytes((tmp_path / "a" / "0_0.dcm").read_bytes()[:600])
    with caplog.at_level(logging.DEBUG):
        datalist = load_datalist(tmp_path)
        items = find_items(tmp_path, spatial_dims=2)
    (tmp_path / "labels.json").write_text(json.dumps({"labels": {"a/0_1.dcm": {"label": "a"}}}))
    export_labels(tmp_path, tmp_path / "labels.json", tmp_path / "manifest.csv")
    write_slices(tmp_path / "plain")
    plan = plan_datalist(load_datalist(tmp_path / "plain"), PlanSettings(num_stages=1, missing_classes="allow"))
    said = [caplog.text, str(datalist), str(items), (tmp_path / "manifest.csv").read_text(), plan.to_json()]
    for value in (*map(str, PATIENT.values()), "PAT0"):
        assert not any(value in text for text in said)
    assert "grouped 12 DICOM images by their headers: 1 by patient" in caplog.text
    assert "write a manifest.csv with a column group" in caplog.text


def test_a_listing_says_its_line_once(tmp_path, caplog):
    write_slices(tmp_path)
    for _ in range(3):
        find_items(tmp_path, spatial_dims=2)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("elements", [{}, {"PatientID": "", "StudyInstanceUID": "1.2"}, {"IssuerOfPatientID": "x"}])
def test_an_image_has_the_same_group_whatever_lies_beside_it(tmp_path, elements):
    write_slices(tmp_path, **elements)
    all_of_them = {key: name for name, keys in groups_of(tmp_path).items() for key in keys}
    for path in tmp_path.glob("*/0_*.dcm"):
        path.unlink()
    assert {key: name for name, keys in groups_of(tmp_path).items() for key in keys}.items() <= all_of_them.items()


def test_the_name_of_a_patient_is_a_keyed_digest(tmp_path, monkeypatch):
    keys, names = DicomKeys(("4711", "ours"), "1.2", "1.3"), []
    for secret in (32 * "a", 32 * "b"):
        path = tmp_path / secret[0]
        path.write_text(secret + "\n")
        monkeypatch.setenv("MONAI_WECKD_PSEUDONYM_KEY", str(path))
        names.append(pseudonyms(keys))
        digest = hmac.new(secret.encode(), b"ours\x004711", hashlib.sha256).hexdigest()
        assert names[-1]["patient"] == f"patient-{digest[:16]}"
    assert names[0]["patient"] != names[1]["patient"]
    assert {level: name for level, name in names[0].items() if level != "patient"} == {
        "study": f"study-{hashlib.sha256(b'1.2').hexdigest()[:16]}",
        "series": f"series-{hashlib.sha256(b'1.3').hexdigest()[:16]}",
    }


def test_levels_that_the_header_does_not_tell_have_no_name():
    assert list(pseudonyms(DicomKeys(("", "ours"), "", "1.3"))) == ["series"]
    assert pseudonyms(DicomKeys(("", ""), "", "")) == {}


def test_the_id_of_an_image_is_its_path_in_the_folder(tmp_path):
    (tmp_path / "a").mkdir()
    for path, expected in {"a/b.png": "a/b.png", "a": "a", ".": ".", "a::1.2": "a::1.2"}.items():
        assert image_id(tmp_path / path, tmp_path) == expected
    assert image_id(f"{tmp_path}::1.2", tmp_path) == ".::1.2"
    (tmp_path / "x::y").touch()
    assert image_id(tmp_path / "x::y", tmp_path) == "x::y"


def test_pixels_are_not_read(tmp_path):
    path = tmp_path / "a.dcm"
    write_dicom(path, np.zeros((64, 64), np.uint16))
    path.write_bytes(path.read_bytes()[:-8000])
    assert read_keys(path).patient == (PATIENT["PatientID"], "")
    assert read_keys(tmp_path).patient == (PATIENT["PatientID"], "")


def test_other_files_have_no_keys(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.dcm").write_bytes(b"")
    (tmp_path / "c").symlink_to(tmp_path / "absent")
    for path in (tmp_path, *tmp_path.iterdir()):
        assert read_keys(path) is None


@pytest.mark.parametrize("name", ["IM0007", "1.2.840.7", "last"])
@pytest.mark.parametrize("size", [0, 100])
def test_a_cut_file_among_files_without_suffix_is_refused(tmp_path, name, size):
    write_dicom(tmp_path / "IM0000", PIXELS, SeriesInstanceUID="1.2")
    write_dicom(tmp_path / name, PIXELS, SeriesInstanceUID="1.2")
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:size])
    assert f"{name}: expected a DICOM file" in refused(tmp_path)
