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
from dataset_folders import touch

from monai_weckd.data.datalist import load_datalist


@pytest.mark.parametrize(
    "folders",
    ["train val test", "Train Valid Test", "training validation testing", "TRAIN test", "train_set val_set test_set"],
)
def test_class_folders_below_splits(tmp_path, folders):
    starts = {"tr": "train", "va": "val", "te": "test"}
    expected = {name: starts[name.lower()[:2]] for name in folders.split()}
    for folder in folders.split():
        touch(tmp_path, f"{folder}/NORMAL/a.png", f"{folder}/ill/deep/b.png", f"{folder}/notes.txt")
    touch(tmp_path, "readme.md")
    found = load_datalist(tmp_path)
    assert found.classes == ("NORMAL", "ill")
    assert {item["id"].split("/")[0]: item["split"] for item in found.items} == expected
    assert all(item["label"] == ("ill" in item["id"]) for item in found.items)
    count = len(expected)
    assert found.passed_over.text() == f"files passed over: {count + 1} (.txt {count}, .md 1)"


@pytest.mark.parametrize(
    ("names", "splits"),
    [("train val test", "test train val"), ("Training Testing", "test train"), ("train valid", "train val")],
)
def test_splits_below_class_folders(tmp_path, names, splits):
    for name in names.split():
        touch(tmp_path, f"ill/{name}/a.png", f"well/{name}/b.png")
    found = load_datalist(tmp_path)
    assert found.classes == ("ill", "well")
    assert [item["split"] for item in found.items] == splits.split() * 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ("train/a.png test/b.png", r"expected class folders in 'test' 'train' of .*, got images of no class"),
        ("train/x/a.png train/y/b.png test/c.png", r"expected class folders in 'test' of .*, got images of no class"),
        ("train/x/a.png train/y/b.png train/c.png", r"expected class folders in 'train' of .*, got images of no class"),
        ("train/x/a.png train/y/b.png extra/x/c.png", r"expected either splits or classes in .*, got 'extra' beside"),
        ("x/train/a.png y/b.png", r"expected all images of .* in train, val and test below .*, got 'y/b.png' outside"),
        ("images/a.png masks/a.png", r"expected a folder for each class in .*, got 'images' beside 'masks'"),
        ("image/a.png Labels/a.png", r"expected a folder for each class in .*, got 'image' beside 'Labels'"),
        ("imagesTr/a.nii labelsTr/a.nii", r"expected a folder for each class in .*, got 'imagesTr' beside 'labelsTr'"),
        ("imgs/a.png annotations/a.xml", r"expected a folder for each class in .*, got 'imgs' beside 'annotations'"),
        ("images/a.png other/b.png", r"expected a folder for each class in .*, got 'images' beside 'other'"),
        ("train/images/a.png train/labels/a.png", r"expected a folder for each class in .*train', got 'images' beside"),
        ("ill/images/a.png ill/masks/a.png well/a.png", r"expected a folder for each class in .*ill', got 'images'"),
        (
            "ill/a.png well/b.gif well/c.gif",
            r"expected images in every class folder.*well' \(files passed over: 2 \(\.gif 2\)\)\. Add images",
        ),
    ],
)
def test_other_layouts_are_refused_in_words(tmp_path, files, message):
    with pytest.raises(ValueError, match=f"^dataset_dir: {message}") as error:
        load_datalist(touch(tmp_path, *files.split()))
    assert "\n" not in str(error.value)


def test_classes_may_have_the_name_of_a_split(tmp_path):
    assert load_datalist(touch(tmp_path, "test/a.png", "control/b.png")).classes == ("control", "test")


def test_class_folders_whose_names_are_alike_are_one_class(tmp_path):
    touch(tmp_path, "train/Normal/a.png", "train/ill/b.png", "test/NORMAL/c.png", "test/ill/d.png", "val/Normal/e.png")
    found = load_datalist(tmp_path)
    assert found.classes == ("Normal", "ill")
    assert found.passed_over.text() == "spellings joined: 1 (label 'NORMAL' as 'Normal' 1)"


def test_litter_is_neither_a_class_nor_counted(tmp_path):
    touch(tmp_path, "ill/a.png", "well/b.png", "@eaDir/a.png", "__MACOSX/ill/a.png", "#recycle/c.png", "Thumbs.db")
    touch(tmp_path, "ill/@eaDir/a.png/thumb.jpg", "ill/._a.png", "ill/Thumbs.db", "well/desktop.ini", ".DS_Store")
    found = load_datalist(tmp_path)
    assert [item["id"] for item in found.items] == ["ill/a.png", "well/b.png"]
    assert found.passed_over.text() == ""
