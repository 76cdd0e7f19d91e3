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

import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from dicom_files import write_dicom, write_series
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, set_track_meta
from monai.transforms import EnsureChannelFirst, SaveImage
from PIL import Image
from pydicom.pixels import convert_color_space

from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.reader import DicomReader
from monai_weckd.transforms.load import (
    LoadMedicalImage,
    LoadMedicalImageD,
    LoadMedicalImaged,
    LoadMedicalImageDict,
)

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
VOLUME = RNG.integers(0, 4096, (7, 5, 6), dtype=np.uint16)
AFFINE = np.array([[-0.7, 0, 0, 90], [0, -0.9, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1]])
PLACE = {"affine", "original_affine", "space", "spatial_shape", "has_geometry"}
KEYS = PLACE | {"filename_or_obj", "original_channel_dim"}


def png(path: Path, pixels: np.ndarray, mode=None) -> str:
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)
    return str(path)


def nifti(path: Path, array: np.ndarray, affine=AFFINE) -> str:
    nib.save(nib.Nifti1Image(array, affine), path)
    return str(path)


def refused(path, match, **options):
    with pytest.raises(ValueError, match=match) as caught:
        LoadMedicalImage(**options)(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()  # so it is one line


# arguments and refusals


@pytest.mark.parametrize("channels", [0, 2, 4, "3"])
def test_channels_are_1_3_or_those_of_the_file(channels):
    with pytest.raises(ValueError, match=r"channels: expected 1, 3 or None, got .*\. Pass one of these\."):
        LoadMedicalImage(channels)


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png: expected a file or folder, got nothing there. Correct"):
        LoadMedicalImage()(tmp_path / "absent.png")


@pytest.mark.parametrize("content", [b"GIF89a" + b"\0" * 200, b"the left ear" * 20])
def test_another_format_is_refused(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    refused(tmp_path / "a.png", "expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM, got another format. Convert it.")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "nii", "nii.gz", "dcm"])
def test_a_damaged_file_is_refused_in_one_line(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix.startswith("nii"):
        nifti(path, VOLUME)
    elif suffix == "dcm":
        write_dicom(path, np.zeros((50, 50), np.uint8))
    else:
        png(path, RNG.integers(0, 256, (50, 50, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    refused(path, "cannot be decoded \\(.*\\). Repair the file or leave it out.")


def test_several_pages_or_frames_are_refused(tmp_path):
    pages = [Image.fromarray(GRAY + np.uint8(k)) for k in range(3)]
    for name in ("a.tif", "a.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        refused(tmp_path / name, "expected one picture, got 3 pages or frames. Split it, or save it as NIfTI.")


def test_a_color_model_that_is_not_known_is_refused(tmp_path):
    Image.merge("LAB", [Image.fromarray(GRAY)] * 3).save(tmp_path / "a.tif")
    refused(tmp_path / "a.tif", "expected a gray or RGB picture, got mode LAB. Convert it.")


def test_a_dicom_suffix_without_dicom_says_so(tmp_path):
    (tmp_path / "a.dcm").write_bytes(b"\0" * 200)
    with pytest.raises(DicomReadError, match=r"a\.dcm: expected a DICOM file, got one without the 'DICM' prefix\."):
        LoadMedicalImage()(tmp_path / "a.dcm")


# NIfTI


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((7, 5), (1, 7, 5)),
        ((7, 5, 1), (1, 7, 5)),
        ((7, 5, 1, 3), (3, 7, 5)),
        ((7, 5, 1, 1, 3), (3, 7, 5)),
        ((7, 5, 6), (1, 7, 5, 6)),
        ((7, 5, 6, 1), (1, 7, 5, 6)),
        ((7, 5, 6, 4), (4, 7, 5, 6)),
    ],
)
def test_nifti_is_2d_or_3d(tmp_path, shape, expected):
    array = RNG.random(shape).astype(np.float32)
    image = LoadMedicalImage()(nifti(tmp_path / "a.nii.gz", array))
    assert image.shape == expected
    channels_first = np.moveaxis(array, -1, 0) if expected[0] > 1 else array
    np.testing.assert_array_equal(image, channels_first.reshape(expected))
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.meta["has_geometry"] is True


def test_nifti_is_scaled_and_may_be_color(tmp_path):
    scaled = nib.Nifti1Image(VOLUME, None)
    scaled.header.set_slope_inter(2, -1024)
    nib.save(scaled, tmp_path / "a.nii")
    image = LoadMedicalImage()(tmp_path / "a.nii")
    stored = np.asarray(nib.load(tmp_path / "a.nii").dataobj.get_unscaled(), dtype=np.float64)
    np.testing.assert_allclose(image[0], stored * 2 - 1024)
    assert image.meta["has_geometry"] is False
    rgb = np.zeros((7, 5, 1), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for k, name in enumerate("RGB"):
        rgb[name][..., 0] = COLOR[..., k].T
    np.testing.assert_array_equal(LoadMedicalImage()(nifti(tmp_path / "b.nii", rgb)), COLOR.transpose(2, 1, 0))


def test_nifti_that_is_no_image_is_refused(tmp_path):
    for name, array, kind in [("a", VOLUME.astype(np.complex64), ".* complex64"), ("b", VOLUME[:, 0, 0], ".* uint16")]:
        refused(nifti(tmp_path / f"{name}.nii", array), f"expected a real 2-D or 3-D image, got {kind}. Convert it.")


# what is in the file decides


def test_the_suffix_does_not_decide(tmp_path):
    write_dicom(tmp_path / "a.png", GRAY)
    write_dicom(tmp_path / "no_suffix", GRAY)
    png(tmp_path / "b.png", GRAY)
    (tmp_path / "b.png").rename(tmp_path / "b.jpg")
    for name in ("a.png", "no_suffix", "b.jpg"):
        np.testing.assert_array_equal(LoadMedicalImage()(tmp_path / name)[0], GRAY.T)


def test_a_folder_is_a_series(tmp_path):
    write_series(tmp_path, VOLUME, AFFINE)
    image = LoadMedicalImage()(tmp_path)
    np.testing.assert_array_equal(image[0], VOLUME)
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-5)
    assert image.meta["filename_or_obj"] == str(tmp_path)


def test_the_dicom_reader_may_be_ones_own(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY)
    image = LoadMedicalImage(dicom_reader=DicomReader(window=(100, 50), tags="StudyDate"))(path)
    np.testing.assert_allclose(image[0], np.clip((GRAY.T - 75.0) / 50, 0, 1), atol=1e-6)
    assert image.meta["StudyDate"] == "20200131"


# channels


def test_gray_is_repeated_and_color_becomes_luminance(tmp_path):
    gray, color = png(tmp_path / "a.png", GRAY), png(tmp_path / "b.png", COLOR)
    np.testing.assert_array_equal(LoadMedicalImage(3)(gray), np.stack([GRAY.T] * 3))
    luminance = LoadMedicalImage(1)(color)
    assert luminance.shape == (1, 7, 5)
    np.testing.assert_allclose(luminance[0], np.asarray(Image.fromarray(COLOR).convert("L")).T, atol=0.51)
    for channels, path in ((None, gray), (1, gray), (3, color), (None, color)):
        assert len(LoadMedicalImage(channels)(path)) == (1 if path == gray else 3)


def test_gray_saved_as_color_comes_back_exactly(tmp_path):
    every = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = LoadMedicalImage(1)(png(tmp_path / "a.png", every, "RGB"))
    np.testing.assert_array_equal(image[0], every.T)


def test_other_numbers_of_channels_are_refused(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((4, 3, 2, 5)))
    assert LoadMedicalImage()(path).shape == (5, 4, 3, 2)
    for channels in (1, 3):
        refused(path, "expected 1 or 3 channels, got 5 volumes. Pass channels=None or save one", channels=channels)


@pytest.mark.parametrize("shape", [(4, 5, 6, 3), (4, 5, 1, 3), (4, 5, 6, 1, 3), (4, 5, 6, 2)])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
@pytest.mark.parametrize("channels", [1, 3])
def test_volumes_are_no_colors_however_many(tmp_path, shape, dtype, channels):
    path = nifti(tmp_path / "a.nii.gz", np.zeros(shape, dtype))
    assert len(LoadMedicalImage()(path)) == shape[-1]
    refused(path, f"expected 1 or 3 channels, got {shape[-1]} volumes. Pass channels=None or", channels=channels)


@pytest.mark.parametrize("names", ["RGB", "RGBA"])
def test_colored_voxels_are_colors(tmp_path, names):
    colors = RNG.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
    voxels = np.zeros((4, 5, 6), dtype=[(name, "u1") for name in names])
    for k, name in enumerate("RGB"):
        voxels[name] = colors[..., k]
    image = LoadMedicalImage(3)(nifti(tmp_path / "a.nii", voxels))
    np.testing.assert_array_equal(image, np.moveaxis(colors, -1, 0))
    assert LoadMedicalImage(1)(nifti(tmp_path / "a.nii", voxels)).shape == (1, 4, 5, 6)


# the same picture in each format


def ybr(pixels):
    return convert_color_space(pixels, "RGB", "YBR_FULL")


def as_palette(path, pixels):
    colors, index = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for k, name in enumerate(("Red", "Green", "Blue")):
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(colors), 0, 16]
        elements[f"{name}PaletteColorLookupTableData"] = (colors[:, k].astype("<u2") << 8).tobytes()
    return write_dicom(path, index.reshape(pixels.shape[:2]).astype(np.uint8), **elements)


def as_voxels(pixels):
    fields = [(name, "u1") for name in "RGB"]
    return np.ascontiguousarray(pixels.swapaxes(0, 1)).view(fields).reshape(7, 5, 1)


SAME_GRAY = {
    "png": lambda folder: png(folder / "a.png", GRAY),
    "tiff": lambda folder: png(folder / "a.tif", GRAY),
    "MONOCHROME2": lambda folder: write_dicom(folder / "a.dcm", GRAY),
    "MONOCHROME1": lambda folder: write_dicom(folder / "a.dcm", 255 - GRAY, PhotometricInterpretation="MONOCHROME1"),
    "rescaled": lambda folder: write_dicom(folder / "a.dcm", GRAY + np.uint16(1024), RescaleIntercept="-1024"),
    "nifti": lambda folder: nifti(folder / "a.nii.gz", GRAY.T),
    "nifti, one slice": lambda folder: nifti(folder / "a.nii.gz", GRAY.T[..., None]),
}
SAME_COLOR = {
    "png": (lambda folder: png(folder / "a.png", COLOR), 0),
    "RGB": (lambda folder: write_dicom(folder / "a.dcm", COLOR), 0),
    "RGB, planes": (lambda folder: write_dicom(folder / "a.dcm", COLOR, PlanarConfiguration=1), 0),
    "YBR_FULL": (lambda folder: write_dicom(folder / "a.dcm", ybr(COLOR), PhotometricInterpretation="YBR_FULL"), 2),
    "PALETTE COLOR": (lambda folder: as_palette(folder / "a.dcm", COLOR), 0),
    "nifti": (lambda folder: nifti(folder / "a.nii.gz", as_voxels(COLOR)), 0),
}


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("form", SAME_GRAY)
def test_the_same_gray_picture_is_the_same_tensor(tmp_path, form, channels):
    image = LoadMedicalImage(channels)(SAME_GRAY[form](tmp_path))
    assert torch.equal(image.as_tensor(), torch.from_numpy(np.stack([GRAY.T] * (channels or 1))).float())
    assert set(image.meta) >= KEYS


@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("form", SAME_COLOR)
def test_the_same_color_picture_is_the_same_tensor(tmp_path, form, channels):
    save, rounding = SAME_COLOR[form]
    expected = COLOR.transpose(2, 1, 0).astype(np.float64)
    if channels == 1:
        expected = (0.299 * expected[0] + 0.587 * expected[1] + 0.114 * expected[2])[None]
    image = LoadMedicalImage(channels)(save(tmp_path))
    np.testing.assert_allclose(image, expected, rtol=1e-6, atol=rounding)
    assert image.dtype == torch.float32


def test_a_number_of_bits_is_a_number():
    with pytest.raises(ValueError, match=r"bits: expected at least 1 or None, got 0\."):
        LoadMedicalImage(bits=0)


# in MONAI


def test_the_dictionary_form_loads_its_keys(tmp_path):
    assert LoadMedicalImageD is LoadMedicalImageDict is LoadMedicalImaged
    path = png(tmp_path / "a.png", GRAY)
    item = {"image": path, "label": 1}
    out = LoadMedicalImaged("image", 3)(item)
    assert out["image"].shape == (3, 7, 5)
    assert (out["label"], item["image"]) == (1, path)
    assert LoadMedicalImaged(["image", "mask"], allow_missing_keys=True)(item)["image"].shape == (1, 7, 5)
    with pytest.raises(KeyError, match="mask"):
        LoadMedicalImaged(["image", "mask"])(item)


def test_a_configuration_builds_it_and_it_goes_to_workers(tmp_path):
    reader = {"_target_": "monai_weckd.data.dicom.reader.DicomReader", "window": "dicom"}
    target = "monai_weckd.transforms.load.LoadMedicalImaged"
    config = {"load": {"_target_": target, "keys": "image", "channels": 3, "dicom_reader": reader}}
    load = pickle.loads(pickle.dumps(ConfigParser(config).get_parsed_content("load")))
    path = write_dicom(tmp_path / "a.dcm", GRAY, WindowCenter=100, WindowWidth=50)
    image = load({"image": path})["image"]
    assert image.shape == (3, 7, 5)
    assert image.max() == 1


def test_formats_mix_in_one_batch_whose_meta_is_small(tmp_path):
    paths = [
        png(tmp_path / "a.png", GRAY),
        nifti(tmp_path / "a.nii.gz", GRAY.T),
        write_dicom(tmp_path / "a.dcm", GRAY, PixelSpacing=[1, 2]),
    ]
    assert set(LoadMedicalImage()(paths[0]).meta) == KEYS
    assert set(LoadMedicalImage()(paths[1]).meta) == KEYS
    assert set(LoadMedicalImage()(paths[2]).meta) == KEYS | {"inverted", "spacing_from"}
    items = [{"image": path} for path in paths]
    batch = next(iter(DataLoader(Dataset(items, LoadMedicalImaged("image")), batch_size=3)))["image"]
    assert batch.shape == (3, 1, 7, 5)
    assert set(batch.meta) == KEYS
    assert batch.meta["filename_or_obj"] == paths


def test_what_is_loaded_can_be_saved_and_made_channel_first_again(tmp_path):
    image = LoadMedicalImage()(png(tmp_path / "a.png", COLOR))
    assert EnsureChannelFirst()(image).shape == (3, 7, 5)
    SaveImage(tmp_path, output_ext=".png", separate_folder=False, print_log=False)(image)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a_trans.png")), COLOR)
    write_series(tmp_path / "series", VOLUME, AFFINE)
    SaveImage(tmp_path, separate_folder=False, print_log=False)(LoadMedicalImage()(tmp_path / "series"))
    again = LoadMedicalImage()(tmp_path / "series_trans.nii.gz")
    np.testing.assert_array_equal(again[0], VOLUME)
    np.testing.assert_allclose(again.affine, AFFINE, atol=1e-5)


def test_without_tracked_meta_it_is_a_tensor(tmp_path):
    path = png(tmp_path / "a.png", GRAY)
    set_track_meta(False)
    try:
        image = LoadMedicalImage()(path)
    finally:
        set_track_meta(True)
    assert not isinstance(image, MetaTensor)
    assert image.shape == (1, 7, 5)
