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

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

from monai_weckd.data import group_images, load_datalist, plan_datalist, read_datalist
from monai_weckd.data.item_level import each_image, images_in, refuse_several
from monai_weckd.data.medmnist import medmnist_items
from monai_weckd.plan import PlanSettings
from monai_weckd.plan.oracle import LabelOracle

HEADER = "file,label,group,study,series\n"
ROWS = """0.png,,p1,s1,a
1.png,ill,p1,s1,a
2.png,ill,p1,s2,
3.png,well,p2,s1,a
4.png,well,p2,s1,b
5.png,,p3,s1,a
6.png,well,,,
"""


def write(folder, rows=ROWS, header=HEADER):
    folder.mkdir(exist_ok=True)
    for place in range(10):
        Image.new("RGB", (4, 4), (place, 0, 0)).save(folder / f"{place}.png")
    (folder / "manifest.csv").write_text(header + rows)
    return folder


def names(items):
    return {item["id"]: [path.rpartition("/")[2] for path in images_in(item)] for item in items}


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("patient", {"p1": 3, "p2": 2, "p3": 1, "6.png": 1}),
        ("study", {"p1/s1": 2, "p1/s2": 1, "p2/s1": 2, "p3/s1": 1, "6.png": 1}),
        ("series", {"p1/s1/a": 2, "2.png": 1, "p2/s1/a": 1, "p2/s1/b": 1, "p3/s1/a": 1, "6.png": 1}),
    ],
)
def test_all_images_of_a_level_are_one_item_with_one_label(tmp_path, level, expected):
    found = read_datalist(write(tmp_path), item_level=level)
    assert {name: len(images) for name, images in names(found.items).items()} == expected
    assert found.item_level == level
    labels = {item["id"]: item["label"] for item in found.items}
    assert {name: value for name, value in labels.items() if name.startswith("p1")} == {
        name: 0 for name in labels if name.startswith("p1")
    }
    assert [labels[name] for name in labels if name.startswith("p3")] == [-1]
    groups = {item["id"]: item["group"] for item in found.items}
    assert groups == {name: name.partition("/")[0] if name[0] == "p" else groups[name] for name in groups}
    assert "image" not in found.items[0]
    assert ("study" in found.passed_over.columns) == (level == "patient")


def test_numbers_of_a_patient_a_study_and_a_series_may_be_the_same(tmp_path):
    rows = "0.png,a,1,1,2\n1.png,b,1,2,1\n2.png,a,1,2,2\n3.png,b,1,1,1\n4.png,a,2,1,1\n5.png,a,2,1,1\n"
    found = read_datalist(write(tmp_path, rows), item_level="series")
    assert [item["id"] for item in found.items] == ["1/1/2", "1/2/1", "1/2/2", "1/1/1", "2/1/1"]


def test_one_line_says_how_many_images_are_in_how_many_items(tmp_path):
    found = group_images(load_datalist(write(tmp_path)), "patient", tmp_path)
    assert found.layout == "7 images in 4 patients, 1 to 3 each (median 1.5); 3 patients with a label"


def test_an_image_level_changes_nothing(tmp_path):
    datalist = load_datalist(write(tmp_path))
    assert group_images(datalist, "image", tmp_path) is datalist


def test_labels_are_paid_once_for_each_item(tmp_path):
    rows = "".join(f"{n}.png,{'ill' if n % 4 < 2 else 'well'},p{n // 2}\n" for n in range(8))
    found = read_datalist(write(tmp_path, rows, "file,label,group\n"), item_level="patient")
    plan = plan_datalist(found, PlanSettings(num_stages=2, label_fraction=0.5, stratify=False))
    assert plan.label_budget == {"train": 4, "val": 0}
    oracle = LabelOracle(found.items)
    oracle.reveal(plan.train, purpose="shard")
    assert oracle.budget == 4


@pytest.mark.parametrize(
    ("change", "level", "message"),
    [
        (
            ("2.png,ill", "2.png,well"),
            "patient",
            r"^item_level: expected one label for each patient, got several for 1 of 4, first 'p1': 'ill' for '1\.png' "
            r"and 'well' for '2\.png'\. Correct the labels, or pass item_level image\.$",
        ),
        (("x", "x"), "pateint", r"item_level: expected one of .*, got 'pateint'\. Did you mean 'patient'\?"),
        (
            (",s1,", ",,"),
            "study",
            r"item_level: expected studies with names of their own, got 'p1/s2' for several",
        ),
    ],
)
def test_what_is_no_item_is_refused(tmp_path, change, level, message):
    rows = ROWS.replace(*change)
    if level == "study":
        rows = rows.replace("3.png,well,p2,,a", "3.png,well,,p1/s2,a")
    with pytest.raises(ValueError, match=message):
        read_datalist(write(tmp_path, rows), item_level=level)


@pytest.mark.parametrize(("level", "column"), [("patient", "group"), ("study", "study"), ("series", "series")])
def test_images_without_names_are_refused(tmp_path, level, column):
    rows = "".join(f"{n}.png,{'ab'[n % 2]}\n" for n in range(4))
    with pytest.raises(ValueError, match=f"expected images with a known {level}, got none of 4.* a column {column} to"):
        read_datalist(write(tmp_path, rows, "file,label\n"), item_level=level)


def test_images_of_an_archive_have_no_patient(tmp_path):
    images = np.zeros((6, 4, 4), np.uint8)
    parts = {f"{part}_images": images for part in ("train", "val", "test")}
    labels = {f"{part}_labels": np.arange(6)[:, None] % 2 for part in ("train", "val", "test")}
    np.savez(tmp_path / "a.npz", **parts, **labels)
    assert len(medmnist_items(str(tmp_path / "a.npz"))[0]) == 18
    with pytest.raises(ValueError, match="expected images with a known patient, got none of 18"):
        read_datalist(tmp_path / "a.npz", item_level="patient")


def test_two_columns_for_a_study_are_refused(tmp_path):
    write(tmp_path, "0.png,a,p,s,t\n1.png,b,q,s,t\n", "file,label,group,study_id,StudyInstanceUID\n")
    with pytest.raises(ValueError, match="expected one column 'study', got 'study_id' and 'StudyInstanceUID'"):
        read_datalist(tmp_path, item_level="study")


def test_a_study_of_an_unknown_patient_is_its_own_group(tmp_path):
    write(tmp_path, "0.png,a,s\n1.png,a,s\n2.png,b,t\n", "file,label,study\n")
    found = read_datalist(tmp_path, item_level="study")
    assert [(item["id"], item["group"]) for item in found.items] == [("s", "s"), ("t", "t")]


def test_an_item_in_two_splits_is_refused(tmp_path):
    write(tmp_path, "0.png,a,,s,train\n1.png,a,,s,test\n2.png,b,,t,train\n", "file,label,group,study,split\n")
    with pytest.raises(ValueError, match="expected the images of study 's' in one split, got"):
        read_datalist(tmp_path, item_level="study")


def test_class_folders_of_dicom_are_grouped_by_their_headers(tmp_path):
    for place, (label, patient, study) in enumerate(
        [("ill", "1", "1.2"), ("ill", "1", "1.3"), ("ill", "1", "1.3"), ("well", "2", "1.4")]
    ):
        (tmp_path / label).mkdir(exist_ok=True)
        pixels = np.full((4, 4), place, np.uint16)
        write_dicom(tmp_path / label / f"{place}.dcm", pixels, PatientID=patient, StudyInstanceUID=study)
    patients, studies = (read_datalist(tmp_path, item_level=level) for level in ("patient", "study"))
    assert [len(images_in(item)) for item in patients.items] == [3, 1]
    assert [len(images_in(item)) for item in studies.items] == [1, 2, 1]
    assert studies.items[0]["id"].startswith(f"{patients.items[0]['id']}/study-")
    assert studies.items[0]["group"] == patients.items[0]["group"]


def test_an_unreadable_image_leaves_its_item_and_an_item_without_images_is_left_out(tmp_path):
    write(tmp_path)
    for name in ("1.png", "5.png"):
        (tmp_path / name).write_bytes(b"no picture")
    found = read_datalist(tmp_path, item_level="patient", on_bad_item="skip")
    assert names(found.items) == {"p1": ["0.png", "2.png"], "p2": ["3.png", "4.png"], "6.png": ["6.png"]}
    assert found.skipped == ("1.png", "5.png")


def test_findings_of_an_item_are_what_is_known_of_its_images(tmp_path):
    header = "file,group,finding:mass,finding:edema\n"
    write(tmp_path, "0.png,p,1,\n1.png,p,,0\n2.png,q,0,1\n", header)
    found = read_datalist(tmp_path, item_level="patient", findings=True)
    assert [list(item["label"]) for item in found.items] == [[1, 0], [0, 1]]
    write(tmp_path, "0.png,p,1,\n1.png,p,0,0\n2.png,q,0,1\n", header)
    with pytest.raises(ValueError, match=r"'p': 'mass=1' for '0\.png' and 'mass=0, edema=0' for '1\.png'"):
        read_datalist(tmp_path, item_level="patient", findings=True)


def test_items_of_several_images_are_refused_step_by_step():
    items = [{"images": ("a", "b"), "id": "p"}]
    with pytest.raises(
        ValueError, match=r"^item_level: expected 'image' to train a network step by step, got items of"
    ):
        refuse_several(items)
    refuse_several(each_image(items))
