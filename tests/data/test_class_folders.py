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

import re

import pytest
from dataset_folders import touch

from monai_weckd.data.datalist import load_datalist
from monai_weckd.utils.enums import UNLABELED


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
        ("ill/images/a.png ill/masks/a.png well/a.png", r"expected images in class folders, got 'ill/masks/a.png' be"),
        ("ill/p/a.png ill/p/masks/a.png well/a.png", r"expected images in class folders, got 'ill/p/masks/a.png' be"),
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


@pytest.mark.parametrize(
    "layout", ["train/train/ill train/train/well test/test/ill", "ill/p1/train well/p2/training ill/p3/test"]
)
def test_splits_are_found_deeper(tmp_path, layout):
    folders = layout.split()
    found = load_datalist(touch(tmp_path, *(f"{folder}/a.png" for folder in folders)))
    assert found.classes == ("ill", "well")
    expected = {f"{folder}/a.png": "test" if "test" in folder else "train" for folder in folders}
    assert {item["id"]: item["split"] for item in found.items} == expected


def test_a_folder_deep_below_some_images_may_have_the_name_of_a_split(tmp_path):
    found = load_datalist(touch(tmp_path, "ill/p1/test/a.png", "ill/p2/b.png", "well/c.png"))
    assert not any("split" in item for item in found.items)


@pytest.mark.parametrize("folder", ["data", "data/images", "zip/zip", "data/train"])
def test_classes_in_a_further_folder_are_pointed_at(tmp_path, folder):
    place = tmp_path / folder.removesuffix("/train")
    touch(tmp_path, f"{folder}/ill/a.png", f"{folder}/well/b.png", "readme.txt")
    if folder.endswith("train"):
        touch(place, "test/ill/a.png")
    with pytest.raises(ValueError, match=rf"expected two classes or more.* If the classes are in '{place}', pass that"):
        load_datalist(tmp_path)


@pytest.mark.parametrize(
    "mask",
    [
        *("a_mask.png", "a_MASK.tif", "a_mask_1.png", "a-seg.png", "a_segmentation.bmp", "a_gt.png", "a label.png"),
        *("mask_a.png", "Seg-a.tif", "a_overlay.png", "a.heatmap.png", "a_contours.png", "a_thumbnail.png", "mask.png"),
    ],
)
def test_a_mask_beside_its_image_is_no_image(tmp_path, mask):
    touch(tmp_path, "ill/p1/a.png", f"ill/p1/{mask}", "well/b.png")
    with pytest.raises(ValueError, match=rf"got 'ill/p1/{mask}' beside 'ill/p1/a\.png', which looks like its mask"):
        load_datalist(tmp_path)
    (tmp_path / "ill" / "p1" / "a.png").unlink()  # by itself it may be an image
    assert len(load_datalist(tmp_path).items) == 2


@pytest.mark.parametrize("names", ["fold_0 fold_1", "Site A,Site B", "cv1 cv2 cv3", "set_a set_b", "part1 part2"])
def test_parts_that_each_hold_the_classes_are_not_the_classes(tmp_path, names):
    folders = names.split("," if "," in names else " ")
    touch(tmp_path, *(f"{folder}/{label}/a.png" for folder in folders for label in ("ill", "well")))
    with pytest.raises(ValueError, match=rf"got '{folders[0]}' and '{folders[1]}', which both have 'ill' and 'well'"):
        load_datalist(tmp_path)
    assert load_datalist(touch(tmp_path / "own", "set_a/p1/a.png", "set_b/p2/a.png")).classes == ("set_a", "set_b")


@pytest.mark.parametrize("names", ["train dev", "trn tst", "01_train 02_test", "train_images test_images", "dev eval"])
def test_what_looks_like_splits_is_not_the_classes(tmp_path, names):
    touch(tmp_path, *(f"{folder}/{label}/a.png" for folder in names.split() for label in ("ill", "well")))
    with pytest.raises(ValueError, match="Name splits train, val and test"):
        load_datalist(tmp_path)


@pytest.mark.parametrize("names", ["left right", "40X 100X", "T1 T2", "north south west"])
def test_folders_that_each_hold_the_same_folders_are_noted(tmp_path, names):
    touch(tmp_path, *(f"{folder}/{label}/a.png" for folder in names.split() for label in ("ill", "well")))
    found = load_datalist(tmp_path)
    assert set(found.classes) == set(names.split())
    assert found.passed_over.text().endswith("although each of them holds 'ill' and 'well'")
    touch(tmp_path, f"{names.split()[0]}/other/a.png")
    assert load_datalist(tmp_path).passed_over.text() == ""


@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        *(
            (name, "is no class by its name")
            for name in ("backup", "Backup_2024", "_archive", "old", "tmp", "New folder")
        ),
        *((name, "is no class by its name") for name in ("New Folder (2)", "Neuer Ordner", "thumbnails", "trash")),
        *((name, "is a copy of 'ill' by its name") for name in ("ill - Copy", "Copy of ill", "ill (1)", "ILL_old")),
        *((name, "holds masks by its name") for name in ("masks", "GroundTruth", "ill_mask", "Segmentations")),
    ],
)
def test_what_lies_beside_class_folders_and_is_no_class_is_refused(tmp_path, folder, reason):
    touch(tmp_path, "ill/a.png", "well/b.png", f"{folder}/c.png")
    with pytest.raises(ValueError, match=rf"got '{re.escape(folder)}', which {reason}\. Move it elsewhere") as error:
        load_datalist(tmp_path)
    assert "\n" not in str(error.value)
    (tmp_path / folder).rename(tmp_path / "better")
    assert load_datalist(tmp_path).classes == ("better", "ill", "well")


@pytest.mark.parametrize("inner", ["all/ill all/well", "more/deep/ill more/Ill", "well/ill", "copies of all/well"])
def test_a_folder_that_holds_class_folders_again_is_refused(tmp_path, inner):
    touch(tmp_path, "ill/a.png", "well/b.png", *(f"{folder}/c.png" for folder in inner.split(" ") if "/" in folder))
    with pytest.raises(ValueError, match=r"which holds a folder '(ill|Ill|well)', as there is beside it"):
        load_datalist(tmp_path)


def test_numbered_patients_below_numbered_classes_are_no_class_folders(tmp_path):
    touch(tmp_path, *(f"{label}/{patient}/a.png" for label in "012" for patient in "0123"))
    assert load_datalist(tmp_path).classes == ("0", "1", "2")


@pytest.mark.parametrize("folder", ["unlabeled", "Unlabelled", "not_labeled", "No label", "without labels"])
def test_images_in_a_folder_of_unlabeled_ones_have_no_label(tmp_path, folder):
    found = load_datalist(touch(tmp_path, "ill/a.png", "well/b.png", f"{folder}/c.png", f"{folder}/d.png"))
    assert found.classes == ("ill", "well")
    assert [item["label"] for item in found.items if item["id"].startswith(folder)] == [UNLABELED] * 2
    assert found.passed_over.text() == f"read as missing: 2 (label '{folder}' 2)"
    assert found.layout == "class folders: ill 1, well 1, without a label 2"


def test_litter_is_neither_a_class_nor_counted(tmp_path):
    touch(tmp_path, "ill/a.png", "well/b.png", "@eaDir/a.png", "__MACOSX/ill/a.png", "#recycle/c.png", "Thumbs.db")
    touch(tmp_path, "ill/@eaDir/a.png/thumb.jpg", "ill/._a.png", "ill/Thumbs.db", "well/desktop.ini", ".DS_Store")
    touch(
        tmp_path, "@tmp/a.png", "~snapshot/ill/a.png", "RECYCLER/a.png", "__pycache__/a.pyc", "ill/.AppleDouble/a.png"
    )
    touch(tmp_path, "Network Trash Folder/a.png", "ill/Picasa.ini", "ill/~$a.png", "well/Thumbs.db:encryptable")
    found = load_datalist(tmp_path)
    assert [item["id"] for item in found.items] == ["ill/a.png", "well/b.png"]
    assert found.passed_over.text() == ""
