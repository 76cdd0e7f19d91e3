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

import nibabel as nib
import numpy as np
import pytest
from dicom_files import write_dicom, write_series
from monai.transforms import Compose, NormalizeIntensityd, Orientationd, Resized, ResizeWithPadOrCropd, Spacingd
from PIL import Image

from monai_weckd.data import load_datalist, verify_images
from monai_weckd.transforms import LoadMedicalImaged

RANDOM = np.random.default_rng(0)
PICTURES = Compose(
    [
        LoadMedicalImaged("image", channels=3),
        Resized("image", (8, 8), mode="area"),
        NormalizeIntensityd("image"),
    ]
)
VOLUMES = Compose(
    [
        LoadMedicalImaged("image", channels=1),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=(1.0, 1.0, 1.0)),
        ResizeWithPadOrCropd("image", (8, 8, 8)),
    ]
)


def nifti(path, *shape, spacing=1.0):
    image = nib.Nifti1Image(RANDOM.integers(1, 99, shape).astype(np.int16), np.eye(4))
    nib.save(image, path)
    if spacing != 1:
        content = bytearray(path.read_bytes())
        content[80:92] = np.array([spacing] * 3, np.float32).tobytes()
        content[252:256] = bytes(4)  # no qform and no sform: the spacing counts
        path.write_bytes(content)


def picture(path):
    Image.fromarray(RANDOM.integers(0, 99, (9, 9, 3), dtype=np.uint8)).save(path)


FLAT = {
    "frames.dcm": lambda path: write_dicom(path, RANDOM.integers(0, 99, (5, 9, 9)).astype(np.uint16), NumberOfFrames=5),
    "volume.nii.gz": lambda path: nifti(path, 9, 9, 5),
    "thin.nii": lambda path: nifti(path, 9, 9, 2),
    "volumes.nii": lambda path: nifti(path, 9, 9, 5, 2),
}
SOLID = {
    "picture.png": picture,
    "two.nii.gz": lambda path: nifti(path, 9, 9, 9, 2),
    "three.nii": lambda path: nifti(path, 9, 9, 9, 3),
    "nan.nii": lambda path: nifti(path, 9, 9, 9, spacing=np.nan),
}


@pytest.fixture
def folder(tmp_path):
    for label in "ab":
        (tmp_path / label).mkdir()
    return tmp_path


def check(folder, bad, transform, spatial_dims):
    datalist = load_datalist(folder, spatial_dims=spatial_dims)
    with pytest.raises(ValueError, match=rf"image: expected readable files, got 1 that are not, first 'a/{bad}': "):
        verify_images(datalist, transform=transform, spatial_dims=spatial_dims)
    kept = verify_images(datalist, on_bad_item="skip", transform=transform, spatial_dims=spatial_dims)
    assert kept.skipped == (f"a/{bad}",)
    assert len(kept.items) == len(datalist.items) - 1 >= 4


@pytest.mark.parametrize("bad", FLAT)
def test_what_is_no_picture_is_left_out_of_a_flat_bundle(folder, bad):
    for label in "ab":
        for number in range(2):
            picture(folder / label / f"{number}.png")
    write_dicom(folder / "b" / "slice.dcm", RANDOM.integers(0, 99, (9, 9)).astype(np.uint16))
    FLAT[bad](folder / "a" / bad)
    check(folder, bad, PICTURES, 2)


@pytest.mark.parametrize("bad", SOLID)
def test_what_is_no_volume_is_left_out_of_a_solid_bundle(folder, bad):
    for label in "ab":
        nifti(folder / label / "0.nii.gz", 9, 9, 9)
        write_series(folder / label / "series", RANDOM.integers(0, 99, (9, 9, 9)).astype(np.int16), np.eye(4))
    SOLID[bad](folder / "a" / bad)
    check(folder, bad, VOLUMES, 3)


SHADES = np.arange(81, dtype=np.uint16).reshape(9, 9)
DEEP = {
    "16.png": lambda path: Image.fromarray(SHADES * 800).save(path),
    "12.tif": lambda path: Image.fromarray(SHADES * 50).save(path),
    "256.png": lambda path: Image.fromarray(SHADES + 176).save(path),
    "negative.tif": lambda path: Image.fromarray(SHADES.astype(np.int32) - 1).save(path),
    "fraction.tif": lambda path: Image.fromarray((SHADES / 80).astype(np.float32)).save(path),
    "slice.dcm": lambda path: write_dicom(path, SHADES * 50, BitsStored=12, HighBit=11),
    "hounsfield.dcm": lambda path: write_dicom(path, SHADES, RescaleIntercept=-1024, RescaleSlope=1),
    "slice.nii": lambda path: nib.save(nib.Nifti1Image(SHADES * 50, np.eye(4)), path),
}


@pytest.mark.parametrize("bad", DEEP)
def test_what_has_more_bits_than_the_transforms_scale_is_left_out(folder, bad):
    sound = {
        "rgb.png": picture,
        "8 in 16.png": lambda path: Image.fromarray(SHADES + 175).save(path),
        "float.tif": lambda path: Image.fromarray(SHADES.astype(np.float32)).save(path),
        "8.dcm": lambda path: write_dicom(path, SHADES.astype(np.uint8)),
        "black.dcm": lambda path: write_dicom(path, np.zeros((9, 9), np.uint8)),
    }
    for name, write in sound.items():
        for label in "ab":
            write(folder / label / name)
    DEEP[bad](folder / "a" / bad)
    check(folder, bad, Compose([LoadMedicalImaged("image", channels=3, bits=8), *PICTURES.transforms[1:]]), 2)


def test_one_image_of_each_kind_is_prepared(folder):
    seen = []

    def prepare(item):
        seen.append(item["image"])
        return PICTURES(item)

    for label in "ab":
        for number in range(3):
            picture(folder / label / f"{number}.png")
    Image.fromarray(RANDOM.integers(0, 99, (9, 9), dtype=np.uint8)).save(folder / "b" / "gray.png")
    verify_images(load_datalist(folder), transform=prepare, spatial_dims=2)
    kinds = {path.rsplit("/", 1)[1] == "gray.png" for path in seen}
    assert kinds == {False, True}
    assert len(seen) < 7
