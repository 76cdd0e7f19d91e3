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

import unicodedata

import pytest
from dataset_folders import manifest, rows, touch

from monai_weckd.data.datalist import known_groups, load_datalist
from monai_weckd.data.manifest import manifest_columns
from monai_weckd.utils.enums import UNLABELED

FILES = "a.png b.png c.png d.png e.png f.png"


def listed(root, header, *lines, files=FILES):
    return load_datalist(manifest(root, rows(*lines, header=header), files=files))


def six(column, labels="xyxyxy"):
    """Return lines of six files with a label and one more column."""
    return [f"{name}.png,{label},{value}" for name, label, value in zip("abcdef", labels, column, strict=True)]


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


@pytest.mark.parametrize(
    "missing",
    ["nan", "NaN", "None", "NA", "N/A", "<NA>", "null", " ", "-nan", "?", ".", "#VALUE!", "#REF!", "#N/A N/A"],
)
def test_missing_labels_and_groups(tmp_path, missing):
    lines = [f"a.png,x,{missing}", f"b.png,y,{missing}", f"c.png,{missing},p", "d.png,x,p"]
    found = listed(tmp_path, "file,label,group", *lines)
    assert found.classes == ("x", "y")
    assert [item["label"] for item in found.items] == [0, 1, UNLABELED, 0]
    assert [item["group"] for item in found.items] == ["a.png", "b.png", "p", "p"]
    told = f"read as missing: 3 (group {missing!r} 2, label {missing!r} 1)" if missing.strip() else ""
    assert found.passed_over.text() == told


@pytest.mark.parametrize("label", ["unlabeled", "Unlabelled", "not annotated", "no_label"])
def test_a_label_that_says_there_is_none_is_missing(tmp_path, label):
    found = listed(tmp_path, "file,label", "a.png,x", "b.png,y", f"c.png,{label}")
    assert [item["label"] for item in found.items] == [0, 1, UNLABELED]
    assert found.passed_over.text() == f"read as missing: 1 (label {label!r} 1)"


@pytest.mark.parametrize("label", ["x|y", "y;x", "x | y", '"x, y"'])
def test_several_labels_in_a_cell_are_refused(tmp_path, label):
    with pytest.raises(ValueError, match=r"row 4: expected one label, got '.*', which joins '[xy]' and '[xy]'\."):
        listed(tmp_path, "file,label", "a.png,x", "b.png,y", f"c.png,{label}")
    assert len(listed(tmp_path, "file,label", "a.png,x", "b.png,y", "c.png,x|z").classes) == 3


@pytest.mark.parametrize("group", ["1.23E+11", "4E+10", "1,23E+12", "1.23457e+11"])
def test_a_number_that_a_spreadsheet_has_rounded_is_no_group(tmp_path, group):
    with pytest.raises(ValueError, match=r"row 2: expected a group, got '.*', which a spreadsheet has rounded\."):
        listed(tmp_path, "file,label,group", f'a.png,x,"{group}"', "b.png,y,p")


@pytest.mark.parametrize(
    ("mask", "image"),
    [
        *(("masks/a.png", "images/a.png"), ("p/labelsTr/a.png", "p/imagesTr/b.png"), ("masks/a.png", "a.png")),
        *(("a_mask.png", "a.png"), ("p/mask_1.png", "p/1.png"), ("p/seg.png", "p/t1.png"), ("p1_seg.png", "p1_t1.png")),
    ],
)
def test_masks_that_a_manifest_lists_beside_their_images_are_refused(tmp_path, mask, image):
    lines = [f"{image},x", f"{mask},y"]
    with pytest.raises(ValueError, match=rf"row 3: expected images, got '{mask}' beside '{image}', which looks like"):
        listed(tmp_path, "file,label", *lines, files=f"{image} {mask}")
    alone = mask.replace("masks", "scans")
    found = listed(tmp_path, "file,label", f"{alone},x", "d/c.png,y", files=f"{alone} d/c.png")
    assert len(found.items) == 2


def test_a_class_that_is_given_is_not_missing(tmp_path):
    root = manifest(tmp_path, rows("a.png,None,,", "b.png,NA,,", "c.png,none,,"))
    found = load_datalist(root, classes=["None", "ill"])
    assert [item["label"] for item in found.items] == [0, UNLABELED, 0]


SPELLINGS = {
    "case": ("Normal", "normal", "'normal' as 'Normal'"),
    "white_space": ("no tumor", "no  tumor", "'no  tumor' as 'no tumor'"),
    "no_break_space": ("no tumor", "no\u00a0tumor", r"'no\xa0tumor' as 'no tumor'"),
    "zero_width": ("ill", "ill\u200b", r"'ill\u200b' as 'ill'"),
    "byte_order_mark": ("ill", "\ufeffill", r"'\ufeffill' as 'ill'"),
    "inside": ("dry ear", "dry\u2060 ear", r"'dry\u2060 ear' as 'dry ear'"),
    "number": ("1", "1.0", "'1.0' as '1'"),
    "large_number": ("-12", "-12.00", "'-12.00' as '-12'"),
    "hyphen": ("non-ill", "non\u2011ill", r"'non\u2011ill' as 'non-ill'"),
    "dash": ("non-ill", "non\u2013ill", r"'non\u2013ill' as 'non-ill'"),
    "underscore": ("no tumor", "no_tumor", "'no_tumor' as 'no tumor'"),
    "plus": ("1", "+1", "'+1' as '1'"),
    "point": ("1", "1.", "'1.' as '1'"),
    "digit": ("1", "\u0661", r"'\u0661' as '1'"),
    "turkish": ("ill", "\u0130ll", r"'\u0130ll' as 'ill'"),
    "apostrophe": ("l'oeil", "l\u2019oeil", "'l\\u2019oeil' as \"l'oeil\""),
    "direction": ("ill", "\u202eill\u202c", r"'\u202eill\u202c' as 'ill'"),
    "variation": ("ill", "ill\ufe0f", r"'ill\ufe0f' as 'ill'"),
    "full_width": ("ill", "\uff49\uff4c\uff4c", r"'\uff49\uff4c\uff4c' as 'ill'"),
    "look_alike": ("normal", "n\u043erm\u0430l", r"'n\u043erm\u0430l' as 'normal'"),
    "look_alike_capital": ("C1", "\u04211", r"'\u04211' as 'C1'"),
    "cyrillic_case": ("\u043d\u043e\u0441", "\u041d\u041e\u0421", r"'\u041d\u041e\u0421' as '\u043d\u043e\u0441'"),
    "compatible": ("grade 2", "grade \uff12", r"'grade \uff12' as 'grade 2'"),
}


@pytest.mark.parametrize(("usual", "other", "told"), SPELLINGS.values(), ids=SPELLINGS)
def test_spellings_of_a_label_or_group_are_joined_and_told(tmp_path, usual, other, told):
    found = listed(tmp_path, "file,label", *[f"{name}.png,{usual}" for name in "ab"], f"c.png,{other}", "d.png,well")
    assert set(found.classes) == {usual, "well"}
    assert found.passed_over.text() == f"spellings joined: 1 (label {told} 1)"
    found = listed(tmp_path, "file,label,group", f"a.png,x,{usual}", f"b.png,y,{usual}", f"c.png,x,{other}")
    assert {item["group"] for item in found.items} == {usual}
    assert found.passed_over.text() == f"spellings joined: 1 (group {told} 1)"


@pytest.mark.parametrize(("one", "other"), [("1", "1.5"), ("v1.0", "v1"), ("a-b", "ab"), ("7", "007"), ("\u0431", "b")])
def test_other_names_stay_apart(tmp_path, one, other):
    assert set(listed(tmp_path, "file,label", f"a.png,{one}", f"b.png,{other}").classes) == {one, other}


def test_a_label_takes_the_spelling_of_the_class(tmp_path):
    root = manifest(tmp_path, rows("a.png,normal,,", "b.png,normal,,", "c.png,ILL,,"))
    found = load_datalist(root, classes=["Normal", "ill"])
    assert (found.classes, [item["label"] for item in found.items]) == (("Normal", "ill"), [0, 0, 1])
    with pytest.raises(ValueError, match=r"classes: expected distinct names, got \['Normal', 'normal'\]"):
        load_datalist(root, classes=["Normal", "normal"])


@pytest.mark.parametrize("name", ["\u00e9", "\u00c5ngstr\u00f6m", "\ud55c\uae00", "\u0439"])
@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_names_in_another_unicode_form_find_their_files(tmp_path, name, on_disk):
    here, there = (unicodedata.normalize(form, name) for form in (on_disk, {"NFC": "NFD", "NFD": "NFC"}[on_disk]))
    assert here != there
    files = [f"{here}/{here}{n}.png" for n in range(2)]
    touch(tmp_path, *files)
    lines = [f"{there}/{there}{n}.png,{'xy'[n]},{[here, there][n]}" for n in range(2)]
    (tmp_path / "manifest.csv").write_text(rows(*lines, header="file,label,group"), encoding="utf-8")
    found = load_datalist(tmp_path)
    assert [item["id"] for item in found.items] == files
    assert {item["group"] for item in found.items} == {unicodedata.normalize("NFC", name)}
    assert known_groups(tmp_path) == {item["id"]: item["group"] for item in found.items}
    assert found.passed_over.text() == ""


def test_a_name_in_another_case_is_no_file_and_the_error_shows_both(tmp_path):
    with pytest.raises(ValueError, match=r"row 2: expected an existing file, got 'A.PNG'.* The folder has 'a.png'\."):
        listed(tmp_path, "file,label", "A.PNG,x", "b.png,y")


ATTRIBUTES = ("scanner", "site", "sex", "age")


@pytest.mark.parametrize("titles", ["scanner,site,sex,age", "Scanner,SITE,Gender,Age", "scanners, Site ,gender,ages"])
def test_what_only_an_audit_uses_is_read_by_name(tmp_path, titles):
    found = listed(tmp_path, f"file,label,{titles},notes", *(f"{line},north,F,40,x" for line in six("PPQQRR")))
    told = [title.strip() for title in titles.split(",")]
    assert found.passed_over.text() == f"columns not used: {', '.join(told)}, notes"
    columns = manifest_columns(tmp_path, ATTRIBUTES, found.passed_over)
    assert columns["scanner"] == {f"{name}.png": value for name, value in zip("abcdef", "PPQQRR", strict=True)}
    assert {name: set(columns[name].values()) for name in ATTRIBUTES[1:]} == {
        "site": {"north"},
        "sex": {"F"},
        "age": {"40"},
    }
    assert found.passed_over.text() == "columns not used: notes"


def test_columns_that_the_manifest_lacks_are_left_out(tmp_path):
    listed(tmp_path, "file,label,sex,patient_age", *(f"{line},7" for line in six(["M", "nan", "", "F", "F", "F"])))
    assert manifest_columns(tmp_path, ATTRIBUTES) == {
        "sex": dict(zip(FILES.split(), ["M", "", "", *"FFF"], strict=True))
    }
    assert manifest_columns(tmp_path / "none", ATTRIBUTES) == {}


def test_two_columns_for_one_attribute_are_refused(tmp_path):
    listed(tmp_path, "file,label,gender,Sex", *(f"{line},M" for line in six("MFMFMF")))
    with pytest.raises(ValueError, match="row 1: expected one column 'sex', got 'gender' and 'Sex'"):
        manifest_columns(tmp_path, ATTRIBUTES)


def moved(tmp_path, *names):
    text = rows("x/a.png,y", "y/b.png,x", header="file,label")
    touch(tmp_path, "x/a.png", "y/b.png")
    for name in names:
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", ["Manifest.csv", "MANIFEST.CSV", "manifest.CSV"])
def test_the_name_of_a_manifest_may_be_in_any_case(tmp_path, name):
    root = moved(tmp_path, name)
    found = load_datalist(root)
    assert [found.classes[item["label"]] for item in found.items] == ["y", "x"]
    (root / name).write_text(rows("x/a.png,p", "y/b.png,q", header="file,group"))
    assert known_groups(root) == {"x/a.png": "p", "y/b.png": "q"}


@pytest.mark.parametrize("name", ["manifest.tsv", "Manifest.xlsx", "manifest.csv.csv", "manifest.txt"])
def test_a_manifest_that_is_no_csv_is_not_passed_over(tmp_path, name):
    with pytest.raises(ValueError, match=rf"expected manifest\.csv or no manifest, got '{name}'\. Save it"):
        load_datalist(moved(tmp_path, name))
    assert load_datalist(moved(tmp_path, name, "manifest.csv")).classes == ("x", "y")


def test_of_two_manifests_the_one_with_the_exact_name_counts(tmp_path):
    with pytest.raises(ValueError, match=r"got 'MANIFEST\.csv' and 'Manifest\.csv'"):
        load_datalist(moved(tmp_path, "Manifest.csv", "MANIFEST.csv"))
    moved(tmp_path, "manifest.csv")
    (tmp_path / "Manifest.csv").write_text("nothing")
    assert len(load_datalist(tmp_path).items) == 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_manifest_in_another_encoding_is_refused(tmp_path, encoding):
    touch(tmp_path, "a.png", "b.png")
    (tmp_path / "manifest.csv").write_bytes(rows("a.png,x", "b.png,y", header="file,label").encode(encoding))
    with pytest.raises(ValueError, match=r"manifest\.csv: expected UTF-8 text, got .*\. Save it as CSV UTF-8\."):
        load_datalist(tmp_path)


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_columns_that_are_not_separated_by_commas_are_refused(tmp_path, separator):
    touch(tmp_path, "a.png", "b.png")
    text = rows("a.png,x", "b.png,y", header="file,label").replace(",", separator)
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ValueError, match=r"row 1: expected a column 'file'.* separate columns by commas\."):
        load_datalist(tmp_path)
