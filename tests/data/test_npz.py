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

import os
import tempfile

import numpy as np
import pytest
import torch
from medmnist_files import SAVES, archive, arrays, damaged
from monai.data import DataLoader, Dataset

from monai_weckd.data.datalist import load_datalist
from monai_weckd.data.npz import map_array
from monai_weckd.transforms.load import LoadMedicalImage, LoadMedicalImaged


@pytest.mark.parametrize("save", SAVES)
def test_worker_processes_read_the_same(tmp_path, save):
    datalist = load_datalist(archive(tmp_path, save))
    dataset = Dataset(datalist.items, LoadMedicalImaged("image"))
    found = torch.cat([batch["image"].as_tensor() for batch in DataLoader(dataset, batch_size=4, num_workers=2)])
    assert torch.equal(found, torch.stack([item["image"].as_tensor() for item in dataset]))


def test_stored_arrays_are_mapped_in_place(tmp_path):
    path = archive(tmp_path)
    found = map_array(str(path), "val_images")
    assert isinstance(found, np.memmap)
    assert (str(found.filename), found.mode) == (str(path), "r")
    assert np.array_equal(found, arrays()["val_images"])
    assert list(tmp_path.iterdir()) == [path]


def test_compressed_arrays_are_extracted_once(tmp_path, monkeypatch):
    path = archive(tmp_path, np.savez_compressed)
    found = map_array(str(path), "val_images")
    copy = next(file for file in tmp_path.iterdir() if file != path)
    assert copy.match("bloodmnist.val_images.????????.npy")
    assert isinstance(found, np.memmap)
    assert str(found.filename) == str(copy)
    assert np.array_equal(found, arrays()["val_images"])
    os.utime(path, ns=(1, 1))  # mapped anew, from the same copy
    before = copy.stat().st_mtime_ns
    monkeypatch.setattr("shutil.copyfileobj", None)
    assert np.array_equal(map_array(str(path), "val_images"), found)
    assert copy.stat().st_mtime_ns == before


@pytest.mark.parametrize("save", SAVES)
def test_archive_that_is_replaced_is_read_anew(tmp_path, save):
    path = archive(tmp_path, save)
    first = LoadMedicalImage()(f"{path}::val/0")
    archive(tmp_path, save, val_images=255 - arrays()["val_images"])
    os.utime(path, ns=(1, 1))
    assert torch.equal(LoadMedicalImage()(f"{path}::val/0"), 255 - first)


def test_beside_a_read_only_folder_the_copy_is_temporary(tmp_path, monkeypatch):
    data, temporary = tmp_path / "data", tmp_path / "tmp"
    data.mkdir()
    temporary.mkdir()
    path = archive(data, np.savez_compressed)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    access = os.access
    monkeypatch.setattr(os, "access", lambda place, mode: str(place) != str(data) and access(place, mode))
    assert np.array_equal(map_array(str(path), "val_images"), arrays()["val_images"])
    assert list(data.iterdir()) == [path]
    (folder,) = temporary.iterdir()
    assert folder.stat().st_mode & 0o077 == 0
    assert len(list(folder.iterdir())) == 1


def test_extraction_that_fails_leaves_nothing_behind(tmp_path):
    path = damaged(archive(tmp_path, np.savez_compressed), "train_images.npy")
    with pytest.raises(ValueError, match=r"expected a sound \.npz archive, got one with .*\. Download it again"):
        map_array(str(path), "train_images")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("damage", ["a bit", "the end", "everything"])
def test_a_damaged_copy_is_made_anew(tmp_path, damage, caplog):
    path = archive(tmp_path, np.savez_compressed)
    map_array(str(path), "val_images")
    copy = next(file for file in tmp_path.iterdir() if file != path)
    content = bytearray(copy.read_bytes())
    if damage == "a bit":
        content[-1] ^= 1
    copy.unlink()  # a mapped file must not change
    copy.write_bytes({"a bit": content, "the end": content[:-9], "everything": b""}[damage])
    os.utime(path, ns=(2, 2))  # mapped anew
    assert np.array_equal(map_array(str(path), "val_images"), arrays()["val_images"])
    assert "is damaged and is extracted again" in caplog.text
    assert sorted(tmp_path.iterdir()) == sorted([path, copy])


def test_a_copy_has_the_permissions_of_a_new_file(tmp_path):
    before = os.umask(0o077)
    try:
        path = archive(tmp_path, np.savez_compressed)
        map_array(str(path), "val_images")
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
