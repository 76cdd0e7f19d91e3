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

import numpy as np
import pytest
from dicom_files import read, refused, write_dicom
from monai.transforms import LoadImage, Spacing
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedMRImageStorage

from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.reader import DicomReader

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 4096, (5, 7), dtype=np.uint16)


# geometry


def test_without_geometry_the_affine_is_the_identity(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY)
    _, meta = read(path)
    np.testing.assert_array_equal(meta["affine"], np.eye(4))
    assert (meta["has_geometry"], meta["spacing_from"]) == (False, "")
    image = LoadImage(reader=DicomReader(), ensure_channel_first=True)(path)
    assert Spacing(pixdim=(0.5, 0.5))(image).shape[1:] == (13, 9)  # the affine can be inverted


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing"])
def test_spacing_alone_is_used_and_flagged(tmp_path, keyword):
    path = write_dicom(tmp_path / "a.dcm", GRAY, **{keyword: [2.0, 0.5]})  # rows are 2 apart, columns 0.5
    _, meta = read(path)
    np.testing.assert_array_equal(meta["affine"], np.diag([0.5, 2.0, 1.0, 1.0]))
    assert (meta["has_geometry"], meta["spacing_from"]) == (False, keyword)
    np.testing.assert_array_equal(LoadImage(reader=DicomReader())(path).pixdim[:2], [0.5, 2.0])


PLACED = {
    "PixelSpacing": [2.0, 0.5],
    "ImagePositionPatient": [10, 20, 30],
    "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
}


def test_the_affine_of_one_slice(tmp_path):
    _, meta = read(write_dicom(tmp_path / "a.dcm", GRAY, SpacingBetweenSlices="0", SliceThickness="4", **PLACED))
    # columns grow to posterior, rows to inferior, so slices grow to the right: LPS to RAS turns two signs
    expected = [[0, 0, 4, -10], [-0.5, 0, 0, -20], [0, -2, 0, 30], [0, 0, 0, 1]]
    np.testing.assert_allclose(meta["affine"], expected, atol=1e-12)
    assert meta["has_geometry"] is True
    assert meta["space"] == "RAS"


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("PixelSpacing", [0, 0.5], "PixelSpacing: expected 2 positive numbers, got \\[0.0, 0.5\\]. Repair it."),
        ("PixelSpacing", [1], "PixelSpacing: expected 2 finite number\\(s\\), got \\[1.0\\]. Repair the header."),
        ("ImageOrientationPatient", [1, 0, 0, 1, 0, 0], "ImageOrientationPatient: expected 2 orthogonal unit vectors"),
        ("ImagePositionPatient", [1, 2], "ImagePositionPatient: expected 3 finite number"),
        ("RescaleSlope", 0, "rescale: expected a usable slope and intercept, got 0 and 0. Repair them."),
        ("RescaleIntercept", 1e30, "rescale: expected a usable slope and intercept, got 1 and 1e\\+30"),
    ],
)
def test_malformed_numbers_are_refused(tmp_path, keyword, value, message):
    path = write_dicom(tmp_path / "a.dcm", GRAY, **{**PLACED, keyword: value})
    with pytest.raises(DicomReadError, match=message):
        read(path)


# enhanced multi-frame


def item(**elements):
    ds = Dataset()
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def enhanced(path, positions, *, slopes=None, windows=None, **elements):
    pixels = RNG.integers(0, 4096, (len(positions), 5, 7), dtype=np.uint16)
    frames = []
    for k, position in enumerate(positions):
        group = item(PlanePositionSequence=[item(ImagePositionPatient=position)])
        if slopes:
            rescale = item(RescaleSlope=str(slopes[k]), RescaleIntercept=str(-k), RescaleType="US")
            group.PixelValueTransformationSequence = [rescale]
        if windows:
            group.FrameVOILUTSequence = [item(WindowCenter=windows[k], WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")]
        frames.append(group)
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[2.0, 0.5], SliceThickness="9")],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    groups = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": frames}
    elements = {"SOPClassUID": EnhancedMRImageStorage, **groups, **elements}
    return write_dicom(path, pixels, **elements), pixels


def test_each_frame_has_its_own_rescale_and_place(tmp_path):
    path, pixels = enhanced(tmp_path / "a.dcm", [[0, 0, 6], [0, 0, 3], [0, 0, 0]], slopes=[1, 2, 3])
    array, meta = read(path)
    for z, k in enumerate([2, 1, 0]):  # sorted along the normal
        np.testing.assert_allclose(array[:, :, z], pixels[k].T * (k + 1.0) - k)
    np.testing.assert_allclose(meta["affine"], np.diag([-0.5, -2, 3, 1]))
    assert meta["has_geometry"] is True
    assert meta["spacing_from"] == "PixelSpacing"


def test_each_frame_has_its_own_window(tmp_path):
    path, pixels = enhanced(tmp_path / "a.dcm", [[0, 0, 0], [0, 0, 3]], windows=[1000, 3000])
    array, _ = read(path, window="dicom")
    for k, center in enumerate([1000, 3000]):
        np.testing.assert_allclose(array[:, :, k], np.clip(pixels[k].T / 1000 - center / 1000 + 0.5, 0, 1), atol=1e-6)


def test_frames_at_one_place_are_moments_and_stay_in_order(tmp_path):
    path, pixels = enhanced(tmp_path / "a.dcm", [[0, 0, 3]] * 3)
    array, meta = read(path)
    np.testing.assert_array_equal(array, pixels.transpose(2, 1, 0))
    assert meta["has_geometry"] is False
    np.testing.assert_array_equal(meta["affine"], np.diag([0.5, 2, 1, 1]))


def test_frames_that_are_not_one_volume_are_refused(tmp_path):
    path, _ = enhanced(tmp_path / "a.dcm", [[0, 0, 0], [0, 0, 3], [0, 0, 0]])
    assert "frame 1 and frame 3: share one position" in refused(path)
