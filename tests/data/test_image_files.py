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

import nibabel
import numpy as np
import pytest
from dataset_folders import touch
from dicom_files import write_dicom
from PIL import Image

from monai_weckd.data.datalist import load_datalist
from monai_weckd.data.file_names import SUFFIXES
from monai_weckd.data.image_files import image_files, list_images
from monai_weckd.data.image_reader import read_image
from monai_weckd.data.passed_over import PassedOver


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


def write_as(path):
    """Write an image of the kind that the suffix claims; without a known one, a DICOM file."""
    suffix = next((known for known in SUFFIXES if path.name.lower().endswith(known)), "")
    if suffix.startswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4), np.float32), np.eye(4)), path.with_name("x" + suffix))
        path.with_name("x" + suffix).rename(path)
    elif suffix in ("", ".dcm", ".dicom", ".ima"):
        write_dicom(path, np.zeros((4, 4), np.uint16))
    else:
        kind = {".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP", ".dib": "BMP", ".png": "PNG"}.get(suffix, "JPEG")
        Image.new("L", (4, 4)).save(path, kind)


@pytest.mark.parametrize("name", [*(f"a{suffix.upper()}" for suffix in SUFFIXES), "a", "a.MR", "1.2.840.7"])
def test_what_is_listed_is_what_the_loader_reads(tmp_path, name):
    write_as(tmp_path / name)
    assert list_images(tmp_path, spatial_dims=2) == [str(tmp_path / name)]
    read_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_without_a_suffix_the_content_decides(tmp_path, kind):
    Image.new("L", (4, 4)).save(tmp_path / "scan", kind)
    Image.new("L", (4, 4)).save(tmp_path / "scan.bak", kind)
    (tmp_path / "note").write_text("BMI of the patients")
    passed_over = PassedOver()
    assert list_images(tmp_path, spatial_dims=3, passed_over=passed_over) == [str(tmp_path / "scan")]
    assert passed_over.text() == "files passed over: 2 (no suffix 1, .bak 1)"
    read_image(tmp_path / "scan")


def test_what_is_passed_over_is_counted_except_litter(tmp_path):
    passed_over = PassedOver()
    for name in (
        "Thumbs.db",
        "@eaDir/a.jpg",
        "__MACOSX/a.png",
        "b/._1.png",
        "b/Desktop.ini",
        "b/x.TXT",
        "c.gif",
        "d.gif",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "away").symlink_to(tmp_path / "b", target_is_directory=True)
    assert list(image_files(tmp_path, passed_over)) == []
    assert passed_over.text() == "files passed over: 4 (.gif 2, linked folders 1, .TXT 1)"
    with pytest.raises(ValueError, match=r"got none \(files passed over: 4 \(\.gif 2, .*\)\)\.$"):
        list_images(tmp_path, spatial_dims=2)


@pytest.mark.parametrize("kind", ["Nifti1Pair", "AnalyzeImage", "gz"])
@pytest.mark.parametrize("dims", [2, 3])
def test_a_pair_of_header_and_image_is_passed_over_counted_and_refused_by_name(tmp_path, kind, dims):
    make, end = (nibabel.Nifti1Pair, ".gz") if kind == "gz" else (getattr(nibabel, kind), "")
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        nibabel.save(make(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / folder / f"a.img{end}")
        write_dicom(tmp_path / folder / "b.dcm", np.zeros((4, 4), np.uint16))
        write_dicom(tmp_path / folder / "c.img", np.zeros((3, 4, 4), np.uint16))  # DICOM, whatever its name
    passed_over = PassedOver()
    names = {name[len(str(tmp_path)) :] for name in list_images(tmp_path, spatial_dims=dims, passed_over=passed_over)}
    assert {"/x/c.img", "/y/c.img"} <= names
    assert not any(name.endswith((f"a.img{end}", f"a.hdr{end}")) for name in names)
    assert passed_over.files.total() == 4
    assert load_datalist(tmp_path, spatial_dims=dims).passed_over.files == passed_over.files
    for name in ("a.img", "a.hdr"):
        with pytest.raises(
            ValueError, match=rf"{name}{end}: expected PNG.*, got a file of a \.hdr and \.img pair\. Save"
        ):
            read_image(tmp_path / "x" / f"{name}{end}")


def test_a_manifest_is_not_passed_over(tmp_path):
    passed_over = PassedOver()
    (tmp_path / "a").mkdir()
    for name in ("manifest.csv", "Manifest.CSV", "a/manifest.csv"):
        (tmp_path / name).touch()
    assert list(image_files(tmp_path, passed_over)) == []
    assert passed_over.text() == "files passed over: 1 (.csv 1)"


@pytest.mark.parametrize("dims", [2, 3])
def test_masks_are_passed_over_and_counted(tmp_path, dims):
    touch(tmp_path, "images/1.png", "images/2.nii", "masks/1.png", "masks/2.nii")
    passed_over = PassedOver()
    found = list_images(tmp_path, spatial_dims=dims, passed_over=passed_over)
    assert [os.path.relpath(path, tmp_path) for path in found] == ["images/1.png", "images/2.nii"]
    assert passed_over.text() == "files passed over: 2 (masks 2)"
