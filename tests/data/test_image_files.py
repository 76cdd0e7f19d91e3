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

from monai_weckd.data.image_files import image_files, list_images


def make_folder(root):
    for name in ("b/2.PNG", "b/1.nii.gz", "a.jpg", ".hidden.png", ".cache/a.png", "DICOMDIR", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    # a name that is a UID, whose last number is no suffix
    (root / "c").mkdir()
    (root / "c" / "1.2.840.10008").write_bytes(bytes(128) + b"DICM")
    (root / "c" / "1.2.840.10009").write_bytes(bytes(128) + b"text")
    return root


def test_images_are_found_sorted_and_other_files_passed_over(tmp_path):
    found = list(image_files(make_folder(tmp_path)))
    assert found == [str(tmp_path / name) for name in ("a.jpg", "b/1.nii.gz", "b/2.PNG", "c/1.2.840.10008")]


def test_of_volumes_a_folder_of_dicom_files_is_one(tmp_path):
    (make_folder(tmp_path) / "c" / "1.2.840.10010").write_bytes(bytes(128) + b"DICM")
    names = ["a.jpg", "b/1.nii.gz", "b/2.PNG"]
    pictures = [*names, "c/1.2.840.10008", "c/1.2.840.10010"]
    assert list_images(tmp_path, spatial_dims=3) == [str(tmp_path / name) for name in [*names, "c"]]
    assert list_images(tmp_path, spatial_dims=2) == [str(tmp_path / name) for name in pictures]


def test_a_file_is_itself_and_nothing_is_an_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert list_images(tmp_path / "notes.txt", spatial_dims=2) == [str(tmp_path / "notes.txt")]
    with pytest.raises(
        ValueError, match=r"input: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM files below .*, got none"
    ):
        list_images(tmp_path, spatial_dims=2)
    with pytest.raises(FileNotFoundError, match="input: expected a file or folder, got nothing at"):
        list_images(tmp_path / "absent", spatial_dims=2)
