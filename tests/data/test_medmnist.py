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

import sys
import zipfile
from collections import Counter
from types import ModuleType

import numpy as np
import PIL.Image
import pytest
import torch
from medmnist_files import COUNTS, SAVES, archive, arrays, damaged

from monai_weckd.data.datalist import load_datalist
from monai_weckd.data.verify import verify_images
from monai_weckd.plan.planner import plan_chain
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.transforms.load import LoadMedicalImage

SHAPES = [(28, 20), (28, 20, 3), (12, 10, 8)]


@pytest.fixture
def medmnist(monkeypatch):
    """Stand in for the package medmnist, of which only this table is used."""
    package, info = ModuleType("medmnist"), ModuleType("medmnist.info")
    # ten names, of which "10" must not come before "2"
    organs = {str(label): f"organ {label}" for label in sorted(range(11), key=str)}
    blood = {"0": "basophil", "1": "eosinophil", "2": "erythroblast"}
    info.INFO = {
        "bloodmnist": {"python_class": "BloodMNIST", "label": blood},
        "organmnist3d": {"python_class": "OrganMNIST3D", "label": organs},
    }
    monkeypatch.setitem(sys.modules, "medmnist", package)
    monkeypatch.setitem(sys.modules, "medmnist.info", info)


@pytest.fixture
def no_medmnist(monkeypatch):
    monkeypatch.setitem(sys.modules, "medmnist", None)
    monkeypatch.setitem(sys.modules, "medmnist.info", None)


@pytest.mark.usefixtures("medmnist")
def test_a_name_that_is_no_path_says_how_to_download(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = r"import medmnist; medmnist.BloodMNIST\('train', download=True, root='.', size={}\)"
    for name, size in (("bloodmnist", 28), ("bloodmnist.npz", 28), ("bloodmnist_64", 64)):
        with pytest.raises(ValueError, match=rf"got '{name}'\. Run python -c \"{command.format(size)}\", and pass the"):
            load_datalist(name)
    with pytest.raises(ValueError, match=r"got 'nomnist'\. Download nomnist\.npz with the package medmnist, and pass"):
        load_datalist("nomnist")
    with pytest.raises(ValueError, match=r"got 'ears'\. Pass the folder that holds manifest\.csv"):
        load_datalist("ears")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_medmnist")
def test_without_the_package_the_hint_names_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"got 'bloodmnist'\. Download bloodmnist\.npz with the package medmnist"):
        load_datalist("bloodmnist")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": np.eye(5, 14, dtype=np.uint8)}, r"one label for each image, got 14\. Pass findings=True"),
        ({"val_labels": np.zeros(4, np.uint8)}, r"expected 5 labels from 0 up in val_labels, got \(4,\) uint8\. Pass"),
        ({"val_labels": np.full(5, -1)}, r"expected 5 labels from 0 up in val_labels, got \(5,\) int64\. Pass"),
        ({"val_labels": np.zeros(5)}, r"expected 5 labels from 0 up in val_labels, got \(5,\) float64\. Pass"),
        ({"val_images": np.zeros((5, 8), np.uint8)}, r"expected val_images \(N, Y, X\).*got \(5, 8\) uint8\. Pass an"),
        ({"val_images": np.zeros((5, 8, 8), complex)}, r"expected val_images .*, got \(5, 8, 8\) complex128\. Pass"),
        ({"val_images": np.array([None] * 5)}, r"a sound \.npz archive, got one with .*pickle\. Download it again"),
        ({"val_labels": np.array([None] * 5)}, r"a sound \.npz archive, got one with .*\. Download it again"),
    ],
)
def test_archives_of_other_kinds_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_datalist(archive(tmp_path, **changes))


def test_archives_without_arrays_or_that_are_none_are_refused(tmp_path):
    np.savez(tmp_path / "part.npz", train_images=np.zeros((2, 8, 8)), train_labels=np.zeros(2, int))
    (tmp_path / "text.npz").write_text("not a zip archive")
    for name, reason in (("part", "no item named .*val_images"), ("text", "not a zip file")):
        with pytest.raises(ValueError, match=rf"expected a sound \.npz archive, got one with .*{reason}.* Download it"):
            load_datalist(tmp_path / f"{name}.npz")


@pytest.mark.usefixtures("no_medmnist")
def test_class_names_must_fit_the_labels(tmp_path):
    path = archive(tmp_path)
    for names in (("a", "b"), ("a", "b", "b")):
        with pytest.raises(ValueError, match=r"classes: expected a distinct name for each of 3 labels, got .*\. Name"):
            load_datalist(path, classes=names)
    assert load_datalist(path, classes=("a", "b", "c", "d")).classes == ("a", "b", "c", "d")


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("column", [True, False])
@pytest.mark.usefixtures("no_medmnist")
def test_items(tmp_path, save, column):
    path = archive(tmp_path, save, **arrays(column=column))
    items, classes, skipped, *_ = load_datalist(path)
    assert (classes, skipped) == (("0", "1", "2"), ())
    assert Counter(item["split"] for item in items) == COUNTS
    assert items[11] == {
        "image": f"{path}::train/11",
        "label": 2,
        "group": "train/00011",
        "id": "train/00011",
        "split": "train",
    }
    assert items[12]["id"] == "val/00000"
    assert type(items[0]["label"]) is int
    # nothing is extracted while listing
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("no_medmnist")
def test_numbers_as_names_sort_in_their_order(tmp_path):
    labels = np.arange(12, dtype=np.uint8)
    classes = load_datalist(archive(tmp_path, train_labels=labels)).classes
    assert classes == tuple(sorted(classes))
    assert (classes[0], classes[11], len(classes)) == ("00", "11", 12)


@pytest.mark.usefixtures("medmnist")
def test_names_come_from_the_package(tmp_path):
    assert load_datalist(archive(tmp_path)).classes == ("basophil", "eosinophil", "erythroblast")
    assert load_datalist(archive(tmp_path, name="bloodmnist_64.npz")).classes[0] == "basophil"
    assert load_datalist(archive(tmp_path, name="organmnist3d.npz")).classes[9:] == ("organ 9", "organ 10")
    assert load_datalist(archive(tmp_path, name="mine.npz")).classes == ("0", "1", "2")


@pytest.mark.usefixtures("no_medmnist")
def test_official_splits_are_those_of_the_plan(tmp_path):
    datalist = load_datalist(archive(tmp_path))
    plan = plan_chain(datalist.items, PlanSettings(num_stages=2, label_fraction=0.5, seed=0))
    for split in COUNTS:
        assert {item["id"] for item in datalist.items if item["split"] == split} == set(getattr(plan, split))


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("shape", [(28, 20), (28, 20, 3)])
def test_picture_is_what_it_would_be_as_png(tmp_path, save, shape):
    pixels = arrays(shape)
    datalist = load_datalist(archive(tmp_path, save, **pixels))
    load = LoadMedicalImage()
    for item in datalist.items[-4:]:
        number = int(item["id"].rpartition("/")[2])
        PIL.Image.fromarray(pixels["test_images"][number]).save(tmp_path / "same.png")
        found, expected = load(item["image"]), load(tmp_path / "same.png")
        assert torch.equal(found, expected)
        assert found.dtype == torch.float32
        assert found.meta["filename_or_obj"] == item["image"]
        assert set(found.meta) == set(expected.meta)
        assert torch.equal(found.affine, expected.affine)
        assert list(found.meta["spatial_shape"]) == [20, 28]
    assert load(datalist.items[0]["image"]).shape == (3 if len(shape) == 3 else 1, 20, 28)
    assert LoadMedicalImage(channels=3)(datalist.items[0]["image"]).shape == (3, 20, 28)


@pytest.mark.parametrize("save", SAVES)
def test_volume_is_a_pile_of_pictures_along_z(tmp_path, save):
    pixels = arrays((12, 10, 8))
    datalist = load_datalist(archive(tmp_path, save, name="organmnist3d.npz", **pixels))
    volume = LoadMedicalImage()(datalist.items[1]["image"])
    assert volume.shape == (1, 8, 10, 12)
    for z in range(12):
        PIL.Image.fromarray(pixels["train_images"][1, z]).save(tmp_path / "slice.png")
        assert torch.equal(volume[..., z], LoadMedicalImage()(tmp_path / "slice.png"))


def test_references_to_nothing_are_refused(tmp_path):
    path = archive(tmp_path)
    with pytest.raises(ValueError, match=r"val/5: expected an index below 5, got 5\. Correct it"):
        LoadMedicalImage()(f"{path}::val/5")
    with pytest.raises(FileNotFoundError, match=r"expected an \.npz archive, got no file there\. Correct the path"):
        LoadMedicalImage()(f"{tmp_path}/none.npz::val/0")
    with pytest.raises(FileNotFoundError, match=r"expected a file or folder, got nothing there"):
        LoadMedicalImage()(f"{path}::all/0")


@pytest.mark.parametrize("save", SAVES)
def test_each_split_is_verified_once(tmp_path, save, monkeypatch):
    datalist = load_datalist(archive(tmp_path, save))
    opened = []
    real = zipfile.ZipFile
    monkeypatch.setattr(zipfile, "ZipFile", lambda path: opened.append(path) or real(path))
    assert verify_images(datalist) == datalist
    assert len(opened) == 3


@pytest.mark.parametrize("save", SAVES)
def test_damaged_split_is_reported_or_left_out(tmp_path, save, caplog):
    path = damaged(archive(tmp_path, save), "train_images.npy")
    datalist = load_datalist(path)
    with pytest.raises(ValueError, match=r"got 12 that are not, first 'train/00000': .*: expected a sound"):
        verify_images(datalist)
    verified = verify_images(datalist, on_bad_item="skip")
    assert Counter(item["split"] for item in verified.items) == {"val": 5, "test": 4}
    assert len(verified.skipped) == 12


def test_empty_split_is_allowed(tmp_path):
    none = {"val_images": np.zeros((0, 28, 20), np.uint8), "val_labels": np.zeros((0, 1), np.uint8)}
    datalist = load_datalist(archive(tmp_path, **none))
    assert {item["split"] for item in datalist.items} == {"train", "test"}


def test_mednist_folders(shared_data, tmp_path):
    source = shared_data("mednist_mini")
    # the archive that MONAI's tutorials load has class folders and no manifest
    for folder in (entry for entry in source.iterdir() if entry.is_dir()):
        (tmp_path / folder.name).mkdir()
        for file in sorted(folder.iterdir())[:3]:
            (tmp_path / folder.name / file.name).symlink_to(file)
    datalist = verify_images(load_datalist(tmp_path))
    assert datalist.classes == ("AbdomenCT", "BreastMRI", "CXR", "ChestCT", "Hand", "HeadCT")
    assert Counter(item["label"] for item in datalist.items) == dict.fromkeys(range(6), 3)
    assert LoadMedicalImage()(datalist.items[0]["image"]).shape == (1, 64, 64)
    assert len(load_datalist(source).items) == 1200


def findings_archive(folder, count=3, **changes):
    rng = np.random.default_rng(1)
    labels = {f"{split}_labels": rng.integers(0, 2, (size, count), dtype=np.uint8) for split, size in COUNTS.items()}
    return archive(folder, name="chestmnist.npz", **{**labels, **changes}), labels


@pytest.mark.usefixtures("no_medmnist")
def test_an_archive_with_findings(tmp_path):
    path, labels = findings_archive(tmp_path)
    found = load_datalist(path, findings=True)
    assert (found.classes, found.findings) == (("0", "1", "2"), True)
    for split, count in COUNTS.items():
        own = [item["label"] for item in found.items if item["split"] == split]
        assert len(own) == count
        np.testing.assert_array_equal(own, labels[f"{split}_labels"])
    assert load_datalist(path, findings=True, classes=["a", "b", "c"]).classes == ("a", "b", "c")


@pytest.mark.usefixtures("no_medmnist")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"val_labels": np.zeros((5, 2), np.uint8)}, r"expected a distinct name for each of \[2, 3\] findings"),
        ({"val_labels": np.full((5, 3), 2, np.uint8)}, r"expected 0 or 1 for each finding of 5 images in val_labels"),
        ({"val_labels": np.zeros(5, np.uint8)}, r"expected 0 or 1 for each finding of 5 images in val_labels"),
    ],
)
def test_refuses_an_archive_whose_findings_do_not_fit(changes, message, tmp_path):
    path, _ = findings_archive(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_datalist(path, findings=True)
