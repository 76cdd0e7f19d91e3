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

import shutil

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from dicom_files import dicom_dataset, read, refused, write_dicom, write_series
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, LoadImage, LoadImaged, Orientationd, SaveImage
from pydicom.uid import BasicTextSRStorage, MediaStorageDirectoryStorage

from monai_weckd.data.dicom import header as dicom_header
from monai_weckd.data.dicom.reader import DicomReader

RNG = np.random.default_rng(0)
VOLUME = RNG.integers(0, 4096, (7, 5, 6), dtype=np.uint16)
STRAIGHT = np.array([[-0.7, 0, 0, 90], [0, -0.9, 0, 80], [0, 0, 2.5, -40], [0, 0, 0, 1]])


def turned(*, left_handed=False):
    """An affine that is oblique in all directions."""
    a, b = 0.3, -0.4
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([-0.7, -0.9, -2.5 if left_handed else 2.5])
    affine[:3, 3] = [12.5, -33, 7]
    return affine


SAGITTAL = np.array([[0, 0, 3.0, -20], [-0.8, 0, 0, 60], [0, -0.6, 0, 50], [0, 0, 0, 1]])


def saved_as_nifti(path, volume, affine):
    nib.save(nib.Nifti1Image(volume, affine), path)
    return str(path)


# the same volume as NIfTI


@pytest.mark.parametrize("affine", [STRAIGHT, turned(), SAGITTAL], ids=["straight", "oblique", "sagittal"])
def test_it_is_the_volume_that_nibabel_reads(tmp_path, affine):
    write_series(tmp_path / "series", VOLUME, affine)
    load = LoadImage(reader="NibabelReader", ensure_channel_first=True)
    expected = load(saved_as_nifti(tmp_path / "a.nii.gz", VOLUME, affine))
    found = LoadImage(reader=DicomReader(), ensure_channel_first=True)(tmp_path / "series")
    assert found.shape == expected.shape == (1, 7, 5, 6)
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    np.testing.assert_allclose(found.affine, expected.affine, atol=1e-5)
    np.testing.assert_array_equal(found.meta["spatial_shape"], expected.meta["spatial_shape"])
    assert found.meta["space"] == expected.meta["space"]


@pytest.mark.parametrize("left_handed", [False, True])
def test_it_is_the_same_volume_in_any_orientation(tmp_path, left_handed):
    affine = turned(left_handed=left_handed)
    write_series(tmp_path / "series", VOLUME, affine)
    nifti = saved_as_nifti(tmp_path / "a.nii.gz", VOLUME, affine)
    images = []
    for reader, path in ((DicomReader(), tmp_path / "series"), ("NibabelReader", nifti)):
        load = LoadImaged("image", reader=reader, ensure_channel_first=True)
        images.append(Compose([load, Orientationd("image", axcodes="RAS", labels=None)])({"image": path})["image"])
    assert torch.equal(images[0].as_tensor(), images[1].as_tensor())
    np.testing.assert_allclose(images[0].affine, images[1].affine, atol=1e-5)


def test_a_tilted_gantry_gives_a_sheared_affine(tmp_path):
    sheared = STRAIGHT.copy()
    sheared[1, 2] = 0.8
    write_series(tmp_path, VOLUME, sheared)
    array, meta = read(tmp_path)
    np.testing.assert_array_equal(array, VOLUME)
    np.testing.assert_allclose(meta["affine"], sheared, atol=1e-6)


# order


def test_slices_are_sorted_by_position_whatever_their_order(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    for paths in (tmp_path, files, files[::-1], RNG.permutation(files).tolist()):
        array, meta = read(paths, tags="InstanceNumber")
        np.testing.assert_array_equal(array, VOLUME)
        np.testing.assert_allclose(meta["affine"], STRAIGHT, atol=1e-6)
        assert meta["InstanceNumber"] == str(pydicom.dcmread(files[0]).InstanceNumber)  # of the first in space
        assert meta["has_geometry"] is True


def test_each_slice_has_its_own_rescale(tmp_path):
    for k in range(6):  # as in PET
        own = {"ImagePositionPatient": [0, 0, k], "RescaleSlope": str(1 + k), "RescaleIntercept": str(-k)}
        own |= {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1], "SeriesInstanceUID": "1.2"}
        write_dicom(tmp_path / f"{5 - k}.dcm", VOLUME[:, :, k].T, **own)
    array, _ = read(tmp_path)
    for k in range(6):
        np.testing.assert_allclose(array[:, :, k], VOLUME[:, :, k] * (1.0 + k) - k)


def test_one_slice_of_the_other_polarity_is_turned(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT, BitsStored=12, HighBit=11)
    ds = pydicom.dcmread(files[2])
    ds.PhotometricInterpretation = "MONOCHROME1"
    ds.save_as(files[2])
    array, _ = read(tmp_path)
    np.testing.assert_array_equal(array[:, :, 2], 4095.0 - VOLUME[:, :, 2])
    np.testing.assert_array_equal(np.delete(array, 2, axis=2), np.delete(VOLUME, 2, axis=2))


def test_a_folder_with_one_image_is_that_image(tmp_path):
    write_dicom(tmp_path / "a.dcm", VOLUME[:, :, 0].T)
    assert read(tmp_path)[0].shape == (7, 5)


# several series, and other files


def test_two_series_in_a_folder_are_an_error_that_names_them(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    other = VOLUME[:, :, :4] // 2
    for k, file in enumerate(write_series(tmp_path / "other", other, STRAIGHT)):
        shutil.move(file, tmp_path / f"x{k}.dcm")
    uids = [pydicom.dcmread(name).SeriesInstanceUID for name in (files[0], tmp_path / "x0.dcm")]
    message = refused(tmp_path)
    assert message.startswith(f"{tmp_path}: expected one series, got 2: ")
    assert message.endswith("Pass series_uid= one of them.")
    for part in (f"{uids[0]} (000.dcm, 6 files)", f"{uids[1]} (x0.dcm, 4 files)"):
        assert part in message
    np.testing.assert_array_equal(read(tmp_path, series_uid=uids[0])[0], VOLUME)
    np.testing.assert_array_equal(read(tmp_path, series_uid=uids[1])[0], other)
    assert "expected series 1.2.3, got 2: " in refused(tmp_path, series_uid="1.2.3")


def test_other_files_in_a_folder_are_ignored(tmp_path):
    write_series(tmp_path, VOLUME, STRAIGHT)
    (tmp_path / "notes.txt").write_text("the left ear\n" * 50)
    (tmp_path / "empty").touch()
    (tmp_path / "._000.dcm").write_bytes(b"\0\5\x16\7" * 50)  # macOS leaves these
    (tmp_path / "sub").mkdir()
    for name, kind in (("DICOMDIR", MediaStorageDirectoryStorage), ("report.dcm", BasicTextSRStorage)):
        ds = dicom_dataset(VOLUME[:, :, 0], SOPClassUID=kind)
        del ds.PixelData, ds.Rows
        ds.save_as(tmp_path / name, enforce_file_format=True)
    ds = pydicom.dcmread(tmp_path / "DICOMDIR")
    del ds.SOPClassUID  # a real one has its class in the file's meta header alone
    ds.save_as(tmp_path / "DICOMDIR")
    np.testing.assert_array_equal(read(tmp_path)[0], VOLUME)


def test_other_files_in_a_list_are_an_error(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    (tmp_path / "notes.txt").write_text("the left ear\n" * 50)
    assert refused([*files, tmp_path / "notes.txt"]).startswith(f"{tmp_path / 'notes.txt'}: expected a DICOM file")
    assert "(Is a directory)" in refused([files[0], tmp_path])


def test_a_folder_without_images_is_an_error(tmp_path):
    message = f"{tmp_path}: expected DICOM images, got none (sub-folders are not searched)."
    assert refused(tmp_path) == message
    write_series(tmp_path / "sub", VOLUME, STRAIGHT)
    (tmp_path / "notes.txt").write_text("the left ear\n" * 50)
    assert refused(tmp_path) == message


@pytest.mark.parametrize("size", [340, 600, 800])
def test_a_damaged_file_is_not_left_out(tmp_path, size):
    files = write_series(tmp_path, VOLUME, STRAIGHT, SeriesInstanceUID="1.2.3")
    last = max(files)
    with open(last, "r+b") as file:
        file.truncate(size)
    message = refused(tmp_path)
    assert message.startswith(last) or "expected one series, got 2" in message


# slices that are not one volume


def edited(file, **elements):
    ds = pydicom.dcmread(file)
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.save_as(file)


def test_a_missing_slice_is_named_by_its_neighbors(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    message = refused([*files[:3], *files[4:]])
    assert message == f"{files[2]} and {files[4]}: 1 slice(s) missing between them. Complete the series."
    assert f"{files[1]} and {files[4]}: 2 slice(s) missing between them." in refused([files[0], files[1], *files[4:]])
    # of three slices, one gap is twice the other
    assert f"{files[1]} and {files[3]}: 1 slice(s) missing" in refused([files[0], files[1], files[3]])


def test_a_slice_that_is_there_twice_is_named(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    copy = tmp_path / "copy.dcm"
    shutil.copy(files[2], copy)
    message = refused(tmp_path)
    assert "share one position. Pass the slices of one volume, each once." in message
    assert files[2] in message
    assert str(copy) in message


def test_uneven_steps_are_an_error_unless_accepted(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    edited(files[2], ImagePositionPatient=[-90, -80, -40 + 2 * 2.5 + 0.5])
    message = refused(tmp_path)
    assert (
        "the step between them differs by 20% from the usual 2.5 mm. Pass gap_tolerance=0.21 to accept it." in message
    )
    np.testing.assert_array_equal(read(tmp_path, gap_tolerance=0.21)[0], VOLUME)


def test_a_slice_off_the_line_is_an_error(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    edited(files[2], ImagePositionPatient=[-80, -80, -40 + 2 * 2.5])
    assert "the step between them differs by 400% from the usual 2.5 mm" in refused(tmp_path)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}, "expected slices of one volume, got different orientations"),
        ({"PixelSpacing": [0.9, 0.8]}, "expected slices of one volume, got different pixel spacings"),
        ({"Rows": 4}, "expected slices of one shape, got (7, 5) and (7, 4). Pass the slices of one shape."),
        ({"ImagePositionPatient": None}, "expected position, orientation and spacing of a slice, got none."),
        ({"NumberOfFrames": 2}, "expected one frame in each file of a series, got 2. Pass this file alone."),
    ],
)
def test_a_slice_that_does_not_belong_is_named(tmp_path, elements, message):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    edited(files[2], **elements)
    found = refused(tmp_path)
    assert message in found
    assert files[2] in found


def test_color_and_gray_slices_do_not_mix(tmp_path):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    pixels = np.zeros((5, 7, 3), np.uint8)
    keep = {
        k: pydicom.dcmread(files[2])[k].value for k in ("SeriesInstanceUID", "ImagePositionPatient", "PixelSpacing")
    }
    write_dicom(files[2], pixels, ImageOrientationPatient=[1, 0, 0, 0, 1, 0], **keep)
    assert "expected slices of one shape, got (7, 5) and (7, 5, 3)" in refused(tmp_path)


def test_a_series_beyond_max_pixels_is_refused(tmp_path):
    write_series(tmp_path, VOLUME, STRAIGHT)
    assert read(tmp_path, max_pixels=VOLUME.size)[0].size == VOLUME.size
    assert "the header claims 7 x 5 pixels x 6 frames x 1 samples" in refused(tmp_path, max_pixels=VOLUME.size - 1)


# each file is read once


@pytest.fixture
def reads(monkeypatch):
    calls = []

    def counting(file, **options):
        calls.append((file.name, not options["stop_before_pixels"]))
        return pydicom.dcmread(file, **options)

    monkeypatch.setattr(dicom_header, "dcmread", counting)
    return calls


def test_each_of_100_slices_is_read_once(tmp_path, reads):
    files = write_series(tmp_path, np.zeros((4, 2, 100), np.uint8), STRAIGHT)
    assert read(tmp_path)[0].shape == (4, 2, 100)
    assert sorted(reads) == sorted((name, True) for name in files)


def test_pixels_of_the_other_series_are_not_read(tmp_path, reads):
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    for k, file in enumerate(write_series(tmp_path / "other", VOLUME, STRAIGHT)):
        shutil.move(file, tmp_path / f"x{k}.dcm")
    read(tmp_path, series_uid=pydicom.dcmread(files[0]).SeriesInstanceUID)
    assert sorted(name for name, pixels in reads if pixels) == sorted(files)
    reads.clear()
    refused(tmp_path)
    assert [pixels for _, pixels in reads] == [True] * 7 + [False] * 5  # headers only, once it is known to fail


# in MONAI


def test_a_batch_of_folders_and_what_is_saved_of_it(tmp_path):
    paths = []
    for k in range(2):
        write_series(tmp_path / str(k), VOLUME + k, STRAIGHT)
        paths.append({"image": str(tmp_path / str(k))})
    load = LoadImaged("image", reader=DicomReader(tags=("StudyDate",)), ensure_channel_first=True)
    batch = next(iter(DataLoader(Dataset(paths, load), batch_size=2)))["image"]
    assert batch.shape == (2, 1, 7, 5, 6)
    assert batch.meta["StudyDate"] == ["20200131"] * 2
    image = load(paths[0])["image"]
    SaveImage(tmp_path / "out", separate_folder=False, output_postfix="", print_log=False)(image)
    saved = nib.load(tmp_path / "out" / "0.nii.gz")
    np.testing.assert_array_equal(saved.get_fdata(), VOLUME)
    np.testing.assert_allclose(saved.affine, STRAIGHT, atol=1e-5)
