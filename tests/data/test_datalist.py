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

import builtins
import csv
import tempfile
import unicodedata
from pathlib import Path

import PIL.Image
import pytest
from dataset_folders import manifest, rows, touch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from monai_weckd import PlanSettings, plan_chain
from monai_weckd.data.datalist import Datalist, load_datalist, plan_datalist
from monai_weckd.data.image_files import image_files
from monai_weckd.data.masks import find_masks
from monai_weckd.data.names import fold_text, is_missing
from monai_weckd.utils.enums import UNLABELED

IMAGES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".nii", ".gz", ".dcm")


@pytest.fixture
def no_image_may_open(monkeypatch):
    genuine = builtins.open

    def guarded(file, *args, **kwargs):
        assert not str(file).lower().endswith(IMAGES), f"{file} was opened"
        return genuine(file, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", guarded)
    monkeypatch.setattr(PIL.Image, "open", lambda *_, **__: pytest.fail("an image was opened"))


# what a file may be called, in a folder of its own, on every system
STEMS = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters='/\\:*?"<>|'), min_size=1, max_size=12
).filter(lambda stem: not stem.startswith(".") and not stem.endswith("."))
LABELS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=8)


@given(st.dictionaries(STEMS, st.tuples(LABELS, LABELS), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=60, deadline=None)
def test_whatever_the_names_are_they_come_back(content, end):
    assume(len({fold_text(label) for label, _ in content.values()}) > 1)
    assume(len({unicodedata.normalize("NFC", stem).casefold() for stem in content}) == len(content))
    assume(not any(is_missing(text) or not fold_text(text) for texts in content.values() for text in texts))
    assume(not find_masks(f"{stem}.png" for stem in content))
    with tempfile.TemporaryDirectory() as name:
        touch(Path(name), *(f"{stem}.png" for stem in content))
        with open(Path(name) / "manifest.csv", "w", newline="", encoding="utf-8-sig") as file:
            writer = csv.writer(file, lineterminator=end)
            writer.writerow(["file", "label", "group"])
            writer.writerows([f"{stem}.png", *rest] for stem, rest in content.items())
        items, names, *_ = load_datalist(name)
        found = {item["id"]: (fold_text(names[item["label"]]), fold_text(item["group"])) for item in items}
        assert found == {f"{stem}.png": tuple(map(fold_text, texts)) for stem, texts in content.items()}
        assert len(items) == len(content)
        assert all(Path(item["image"]).is_file() for item in items)


BAD_MANIFESTS = {
    "no_label_column": (
        rows("a.png,x", header="file,lable"),
        r"row 1: expected a column 'label', .* nearest \['lable'\]",
    ),
    "semicolons": (
        rows("a.png;x", header="file;label"),
        r"row 1: expected a column 'file', .*separate columns by commas",
    ),
    "empty_manifest": ("", r"row 1: expected a column 'file', got 0 others"),
    "column_twice": (rows("a.png,x,y", header="file,label,label"), r"row 1: expected one column 'label', got 2"),
    "missing_file": (rows("a.png,x,,", "d.png,y,,"), r"manifest\.csv, row 3: expected an existing file, got 'd.png'"),
    "absolute": (rows("a.png,x,,", "/etc/hostname,y,,"), r"row 3: expected a path inside .*, got '/etc/hostname'"),
    "escapes": (rows("a.png,x,,", "b/../../b.png,y,,"), r"row 3: expected a path inside .*, got 'b/\.\./\.\./b.png'"),
    "nul": (rows("a.png,x,,", "b\0.png,y,,"), r"row 3: expected a path inside|row 3: expected comma-separated"),
    "no_file": (rows("a.png,x,,", ",y,,"), r"row 3: expected a path inside .*, got ''"),
    "one_class": (rows("a.png,x,,", "b.png,x,,"), r"labels in .*: expected two classes or more, got \['x'\]"),
    "no_label": (rows("a.png,,,"), r"expected two classes or more, got \[\]"),
    "split": (
        rows("a.png,x,,train", "b.png,y,,vall"),
        r"row 3: expected a split of .*, got 'vall'. Did you mean 'val'\?",
    ),
    "parted_group": (
        rows("a.png,x,p,train", "b.png,y,q,val", "c.png,x,p,test"),
        r"row 4: expected group 'p' in split 'train' as in row 2, got 'test'",
    ),
    "twice": (
        rows("a.png,x,,", "b.png,y,,", "./a.png,y,,"),
        r"row 4: expected each file once, got 'a.png' as in row 2",
    ),
    "comma": (rows("b,c.png,y", header="file,label"), r"row 2: expected 2 fields, got 3. Put values .* in quotes"),
    "open_quote": (
        rows("a.png,x,,", '"b.png,y,,'),
        r"row 3: expected comma-separated values, got unexpected end of data",
    ),
    "header_only": (rows(), r"dataset_dir: expected images, got none in"),
    "empty_series": (rows("a.png,x,,", "series,y,,"), r"row 3: expected a folder with files, got 'series'"),
}


@pytest.mark.parametrize(("text", "message"), BAD_MANIFESTS.values(), ids=BAD_MANIFESTS)
def test_bad_manifest(tmp_path, text, message):
    (tmp_path / "series").mkdir()
    with pytest.raises(ValueError, match=message) as error:
        load_datalist(manifest(tmp_path, text))
    assert "\n" not in str(error.value)


def test_manifest_must_be_utf8(tmp_path):
    touch(tmp_path, "a.png").joinpath("manifest.csv").write_bytes("file,label\na.png,k\xe4se".encode("latin-1"))
    with pytest.raises(ValueError, match=r"manifest\.csv: expected UTF-8 text, got .*Save it as CSV UTF-8"):
        load_datalist(tmp_path)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (["x"], r"classes: expected two classes or more, got \['x'\]"),
        (["x", "y", "x"], r"classes: expected distinct names"),
        (["x", "yy"], r"row 3: expected one of the 2 classes, got 'y'"),
        (["x", "benign", "malignant"], r"row 3: expected one of the 3 classes, got 'y'"),
    ],
)
def test_bad_classes(tmp_path, classes, message):
    with pytest.raises(ValueError, match=message):
        load_datalist(manifest(tmp_path, rows("a.png,x,,", "b.png,y,,")), classes=classes)


def test_label_outside_classes_names_the_nearest(tmp_path):
    with pytest.raises(ValueError, match=r"got 'bening'. Did you mean 'benign'\?"):
        load_datalist(manifest(tmp_path, rows("a.png,bening,,")), classes=["malignant", "benign"])


def test_bad_folders(tmp_path):
    with pytest.raises(ValueError, match=r"dataset_dir: expected an existing folder, got .*absent"):
        load_datalist(tmp_path / "absent")
    with pytest.raises(ValueError, match="dataset_dir: expected images, got none in"):
        load_datalist(tmp_path)
    touch(tmp_path, "ill/a.png")
    with pytest.raises(ValueError, match=r"labels in .*: expected two classes or more, got \['ill'\]"):
        load_datalist(tmp_path)
    touch(tmp_path, "well/readme.txt")
    with pytest.raises(ValueError, match=r"expected images in every class folder, got none in .*well"):
        load_datalist(tmp_path)


def test_manifest(tmp_path):
    text = rows(
        "a.png,y,p,train", "b.png,,,train", "c.png,x,p,train", ",,,", "s,x,q,val", header="file,label,group,split"
    )
    found = load_datalist(manifest(tmp_path, text, files="a.png b.png c.png s/1.dcm"))
    assert isinstance(found, Datalist)
    assert found.classes == ("x", "y")
    assert found.skipped == ()
    assert found.items == [
        {"image": str(tmp_path / "a.png"), "label": 1, "group": "p", "id": "a.png", "split": "train"},
        {"image": str(tmp_path / "b.png"), "label": UNLABELED, "group": "b.png", "id": "b.png", "split": "train"},
        {"image": str(tmp_path / "c.png"), "label": 0, "group": "p", "id": "c.png", "split": "train"},
        {"image": str(tmp_path / "s"), "label": 0, "group": "q", "id": "s", "split": "val"},
    ]


@pytest.mark.parametrize("prefix", ["", "\ufeff"], ids=["plain", "byte_order_mark"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_manifest_encodings(tmp_path, prefix, end):
    text = prefix + end.join(["file,age, label ", '"a.png",7,x', "b.png,8, käse", ""])
    found = load_datalist(manifest(tmp_path, text))
    assert found.classes == ("käse", "x")
    assert [(item["id"], item["label"]) for item in found.items] == [("a.png", 1), ("b.png", 0)]
    assert "split" not in found.items[0]


def test_classes_given(tmp_path):
    root = manifest(tmp_path, rows("a.png,x,,", "b.png,,,"))
    found = load_datalist(root, classes=["z", "x"])
    assert found.classes == ("z", "x")
    assert [item["label"] for item in found.items] == [1, UNLABELED]


def test_relative_dataset_dir_gives_absolute_paths(tmp_path, monkeypatch):
    manifest(tmp_path / "set", rows("a.png,x,,", "b.png,y,,"))
    monkeypatch.chdir(tmp_path)
    assert load_datalist("set") == load_datalist(tmp_path / "set")


def test_folders(tmp_path):
    touch(tmp_path, "well/B.JPG", "well/deep/er/a.nii.gz", "ill/c.nii", "ill/notes.txt", "ill/scan.v2", "top.png")
    touch(tmp_path, "ill/.hidden.png", ".cache/a.png", "well/.trash/x.png", "ill/README")
    for name in ("ill/IM0001", "ill/1.2.840.10008", "ill/DICOMDIR"):
        (tmp_path / name).write_bytes(bytes(128) + b"DICM")
    found = load_datalist(tmp_path)
    assert found.classes == ("ill", "well")
    assert [(item["id"], item["label"]) for item in found.items] == [
        ("ill/1.2.840.10008", 0),
        ("ill/IM0001", 0),
        ("ill/c.nii", 0),
        ("well/B.JPG", 1),
        ("well/deep/er/a.nii.gz", 1),
    ]
    assert all(item["group"] == item["id"] for item in found.items)
    assert [Path(path).name for path in image_files(tmp_path / "well")] == ["B.JPG", "a.nii.gz"]


@pytest.mark.parametrize("name", ["otoscopy", "brain_mri", "blood_smear", "mednist_mini", "hippocampus_mri_3d"])
def test_real_sets(shared_data, no_image_may_open, name):
    found = load_datalist(shared_data(name))
    count = {"otoscopy": 515, "brain_mri": 1158, "blood_smear": 2000, "mednist_mini": 1200, "hippocampus_mri_3d": 160}
    assert len(found.items) == count[name]
    assert {item["label"] for item in found.items} == set(range(len(found.classes)))


def test_real_set_without_labels_is_refused(shared_data):
    with pytest.raises(ValueError, match="expected a column 'label', got 10 others"):
        load_datalist(shared_data("dicom_variety"))


def test_a_datalist_plans_a_chain_over_its_items():
    items = [{"id": f"{n:03}", "group": f"g{n // 2}", "label": n % 2, "image": f"{n:03}.png"} for n in range(200)]
    datalist, settings = Datalist(items, ("ill", "well"), ("broken.png",)), PlanSettings(num_stages=2, seed=3)
    expected = plan_chain(items, settings, classes=("ill", "well"), skipped=("broken.png",))
    assert plan_datalist(datalist, settings) == expected
    assert (
        plan_datalist(datalist, settings, shards=[stage.new for stage in expected.stages]).settings.selection == "given"
    )
    assert plan_datalist(datalist).settings == PlanSettings()
