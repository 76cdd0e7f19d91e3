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
from dataset_folders import FILES, listed, manifest, rows, six, touch

from monai_weckd.data.datalist import known_groups, load_datalist
from monai_weckd.data.manifest import manifest_columns
from monai_weckd.utils.enums import UNLABELED


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


def test_they_are_read_beside_findings(tmp_path):
    (tmp_path / "manifest.csv").write_text("file,finding:mass,sex\na.png,1,F\nb.png,,M\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    assert manifest_columns(tmp_path, ATTRIBUTES) == {"sex": {"a.png": "F", "b.png": "M"}}


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
