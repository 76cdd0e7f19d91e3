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

import pytest
from dataset_folders import listed, rows, six

from monai_weckd.data.columns import Line, column_values, further_column
from monai_weckd.data.datalist import load_datalist


@pytest.mark.parametrize(
    "title",
    [
        *("group", "Group", "GROUPS", "patient", "patient_id", "PatientID", "Patient ID", "patient-id", "Patients"),
        *("subject", "subject_id", "SubjectNo", "participant_id", "group id", "patient\u200b", "Patient_Number"),
        *("PATIENT", "Patient No.", "patient#", "patient_identifier", "subject_uuid", "ID_patient"),
    ],
)
def test_near_names_of_the_group_are_taken(tmp_path, title):
    found = listed(tmp_path, f"File,Labels,{title}", *six("PPQQRR"))
    assert [item["group"] for item in found.items] == list("PPQQRR")
    assert found.passed_over.text() == ""


@pytest.mark.parametrize(
    ("title", "value"),
    [
        *(("Split", "Training"), ("splits", "TRAIN"), ("subset", "train_set"), ("Dataset", "Train")),
        *(("fold", "train"), ("train/test", "training"), ("partition", "Training set"), ("Usage", "train")),
    ],
)
def test_near_names_of_splits_are_taken(tmp_path, title, value):
    found = listed(tmp_path, f"file,label,{title}", *six([value, "valid", "Validation", "testing", "TEST", "val"]))
    assert [item["split"] for item in found.items] == ["train", "val", "val", "test", "test", "val"]


@pytest.mark.parametrize(
    "title",
    [
        *("ID", "id", "case_id", "StudyUID", "lesion_id", "Patient Name", "grup", "patinet", "caseid", "sub", "MRN"),
        *("person", "Donor No", "AccessionNumber", "hospital number", "bids_subject", "Patientennummer", "paciente"),
        *("patient_pid", "PatientenID", "Mouse", "video", "record_id", "visitid", "seriesuid", "study number"),
        *("Pt No", "nhs_number", "SSN", "chart no", "medical record number", "hosp_no", "patient_id_hash", "sujet"),
        *("id_paciente", "anon_patient_id", "client", "household", "video_name", "encounter_id", "UHID", "EMPI"),
    ],
)
def test_a_column_that_may_tell_patients_apart_is_refused(tmp_path, title):
    with pytest.raises(
        ValueError, match=rf"row 1: expected a column 'group' or nothing like it, got '{title}'. Rename"
    ) as error:
        listed(tmp_path, f"file,label,{title}", *six("PPQQRR"))
    assert "\n" not in str(error.value)
    # the column that is named decides, even an empty one
    (tmp_path / "manifest.csv").write_text(
        rows(*[f"{line}," for line in six("PPQQRR")], header=f"file,label,{title},group")
    )
    found = load_datalist(tmp_path)
    assert [item["group"] for item in found.items] == [item["id"] for item in found.items]
    assert found.passed_over.text() == f"columns not used: {title}"


@pytest.mark.parametrize("title", ["splt", "spilt", "Split1", "is_train", "test", "purpose", "group_split"])
def test_a_column_that_may_be_the_split_is_refused(tmp_path, title):
    with pytest.raises(ValueError, match=rf"expected a column 'split' or nothing like it, got '{title}'"):
        listed(tmp_path, f"file,label,{title}", *six(["train", "test"] * 3))


@pytest.mark.parametrize("title", ["subset", "set", "fold"])
def test_a_column_of_splits_with_an_unknown_one_is_not_passed_over(tmp_path, title):
    with pytest.raises(ValueError, match=r"row 3: expected a split of .*, got 'dev'"):
        listed(tmp_path, f"file,label,{title}", *six(["train", "dev", "test"] * 2))


@pytest.mark.parametrize("title", ["filename", "FileName", "file_path", "File Path"])
def test_near_names_of_the_file_are_taken(tmp_path, title):
    assert len(listed(tmp_path, f"{title},label", "a.png,x", "b.png,y").items) == 2


@pytest.mark.parametrize(("header", "near"), [("file,class", "class"), ("file,dx", "dx"), ("image,label", "label")])
def test_a_column_that_is_absent_is_named_with_the_nearest_other_one(tmp_path, header, near):
    with pytest.raises(ValueError, match=rf"row 1: expected a column '.*', got 2 others, the nearest \['{near}'\]"):
        listed(tmp_path, header, "a.png,x", "b.png,y")


@pytest.mark.parametrize(
    ("title", "column"),
    [
        ("id", "123456"),  # a number of the row
        ("site_id", "123123"),
        ("class_id", "101010"),
        ("patient_age", "556677"),
        ("age_group", "112233"),
        ("original_split", "112233"),
        ("original_split", ["train", "test"] * 3),
        ("fold", "112233"),
        ("carotid", "112233"),
        ("slice_number", "112233"),
        ("visit_number", "112233"),
        ("series no", "112233"),
        ("num_patients", "112233"),
        ("control group", "112233"),
        ("set", "112233"),
        ("covid", "112233"),
    ],
)
def test_other_columns_are_listed_and_not_used(tmp_path, title, column):
    found = listed(tmp_path, f"file,label,{title}", *six(column))
    assert [item["group"] for item in found.items] == [item["id"] for item in found.items]
    assert found.passed_over.text() == f"columns not used: {title}"


@pytest.mark.parametrize("titles", ["patient,subject_id", "Group,patient", "Patient,PATIENT"])
def test_two_columns_for_one_thing_are_refused(tmp_path, titles):
    first, second = titles.split(",")
    with pytest.raises(ValueError, match=rf"expected one column 'group', got '{first}' and '{second}'. Rename one"):
        listed(tmp_path, f"file,label,{titles}", *[f"{line},Z" for line in six("PPQQRR")])


def test_a_title_that_is_written_exactly_takes_precedence():
    assert further_column("age", ["file", "Age", "age"], "m.csv") == 2
    assert further_column("fold", ["file", "k-fold"], "m.csv") == 1
    assert further_column("site", ["file", "side"], "m.csv") is None


def test_the_values_of_a_column_are_those_that_are_there():
    lines = [Line(number, fields) for number, fields in enumerate([["a", " x "], ["b", "nan"], ["c"], ["d", "y"]], 2)]
    assert column_values(1, lines) == ["x", "y"]
