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
from dicom_files import dicom_dataset, read, refused, write_dicom, write_series
from pydicom.uid import ExplicitVRBigEndian, JPEGLSNearLossless

from monai_weckd.data.dicom.padding import check_sharp
from monai_weckd.data.image_reader import read_image

RNG = np.random.default_rng(0)
TISSUE = RNG.integers(500, 2500, (6, 8), dtype=np.uint16)
PADDED = np.zeros((6, 8), dtype=bool)
PADDED[:, -3:] = True
CT = {"RescaleIntercept": "-1024"}


def around(value, tissue=TISSUE, dtype=np.uint16):
    return np.where(PADDED, value, tissue.astype(dtype))


CASES = {
    "dark in MONOCHROME2": (around(2), {"PixelPaddingValue": 2}, 0, "MONOCHROME2"),
    "bright in MONOCHROME2": (around(4095), {"PixelPaddingValue": 4095}, 0, "MONOCHROME2"),
    "dark in MONOCHROME1": (around(0), {"PixelPaddingValue": 0}, 0, "MONOCHROME1"),
    "CT": (around(-2000, dtype=np.int16), {"PixelPaddingValue": -2000, **CT}, -1024, "MONOCHROME2"),
    "CT in MONOCHROME1": (around(-2000, dtype=np.int16), {"PixelPaddingValue": -2000, **CT}, -1024, "MONOCHROME1"),
    "range": (
        np.where(PADDED, RNG.integers(10, 21, (6, 8)), TISSUE).astype(np.uint16),
        {"PixelPaddingValue": 10, "PixelPaddingRangeLimit": 20},
        0,
        "MONOCHROME2",
    ),
    "range that falls": (
        np.where(PADDED, RNG.integers(-20, -9, (6, 8)), TISSUE).astype(np.int16),
        {"PixelPaddingValue": -10, "PixelPaddingRangeLimit": -20},
        0,
        "MONOCHROME2",
    ),
    "big endian": (
        around(2),
        {"PixelPaddingValue": 2, "syntax": ExplicitVRBigEndian},
        0,
        "MONOCHROME2",
    ),
}


@pytest.mark.parametrize(("stored", "elements", "offset", "photometric"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("window", [None, (1000.0, 3000.0)])
def test_padding_is_as_dark_as_the_darkest_of_the_rest(tmp_path, stored, elements, offset, photometric, window):
    path = write_dicom(tmp_path / "a.dcm", stored, PhotometricInterpretation=photometric, **elements)
    plain = {key: value for key, value in elements.items() if "Padding" not in key}
    other = np.where(PADDED, TISSUE[0, 0], stored).astype(stored.dtype)
    without = write_dicom(tmp_path / "b.dcm", other, PhotometricInterpretation=photometric, **plain)
    array, expected = read(path, window=window)[0], read(without, window=window)[0]
    np.testing.assert_array_equal(array[~PADDED.T], expected[~PADDED.T])
    np.testing.assert_array_equal(array[PADDED.T], expected[~PADDED.T].min())
    if window is None and photometric == "MONOCHROME2":
        assert array.min() == int(TISSUE[~PADDED].min()) + offset


def test_a_negative_value_may_be_written_as_a_positive_one(tmp_path):
    ds = dicom_dataset(around(-2000, dtype=np.int16))
    ds.add_new("PixelPaddingValue", "US", 63536)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0][PADDED.T], TISSUE[~PADDED].min())


@pytest.mark.parametrize(
    ("stored", "elements", "expected"),
    [
        (around(0), {"PixelPaddingValue": 0}, 0),
        (around(4095), {"PixelPaddingValue": 4095, "PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12}, 0),
        (around(0, TISSUE.astype(int) - 1000, np.int16), {"PixelPaddingValue": 0}, int(TISSUE[~PADDED].min()) - 1000),
    ],
    ids=["zero", "zero after inversion", "zero among negative values"],
)
def test_zeros_stay_zero_where_nothing_is_darker(tmp_path, stored, elements, expected):
    if "BitsStored" in elements:
        elements = {**elements, "HighBit": elements["BitsStored"] - 1}
    array, _ = read(write_dicom(tmp_path / "a.dcm", stored, **elements))
    np.testing.assert_array_equal(array[PADDED.T], expected)


def test_the_slices_of_a_series_have_one_background(tmp_path):
    volume = RNG.integers(-900, 2000, (8, 6, 4), dtype=np.int16)
    volume[-3:] = -2000
    volume[..., 0] = -2000  # a slice beyond the patient
    write_series(tmp_path, volume, np.diag([1.0, 1, 2, 1]), PixelPaddingValue=-2000)
    array, _ = read_image(tmp_path)
    rest = volume != -2000
    np.testing.assert_array_equal(array[0][rest], volume[rest])
    np.testing.assert_array_equal(array[0][~rest], volume[rest].min())


def test_the_frames_of_a_file_have_one_background(tmp_path):
    frames = np.stack([around(9), around(9, TISSUE + 7), np.full_like(TISSUE, 9)])
    array, _ = read(write_dicom(tmp_path / "a.dcm", frames, PixelPaddingValue=9))
    rest = np.moveaxis(frames != 9, 0, -1).swapaxes(0, 1)
    np.testing.assert_array_equal(array[~rest], frames[frames != 9].min())
    np.testing.assert_array_equal(array[rest], np.moveaxis(frames, 0, -1).swapaxes(0, 1)[rest])


def test_padding_alone_is_a_blank_image(tmp_path):
    array, _ = read(write_dicom(tmp_path / "a.dcm", np.full((4, 5), 7, np.uint16), PixelPaddingValue=7))
    np.testing.assert_array_equal(array, 7)


@pytest.mark.parametrize("padding", [-1.0, np.nan])
@pytest.mark.parametrize(("dtype", "prefix"), [(np.float32, "Float"), (np.float64, "DoubleFloat")])
def test_float_pixels_may_be_padded(tmp_path, padding, dtype, prefix):
    values = np.where(PADDED, padding, 1 + RNG.random((6, 8))).astype(dtype)
    ds = dicom_dataset(TISSUE, BitsAllocated=8 * values.itemsize)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    setattr(ds, f"{prefix}PixelData", values.tobytes())
    setattr(ds, f"{prefix}PixelPaddingValue", padding)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    array, _ = read(tmp_path / "a.dcm")
    np.testing.assert_array_equal(array[PADDED.T], values[~PADDED].min().astype(np.float32))


def test_padding_beyond_the_stored_bits_is_refused_where_it_is_found(tmp_path):
    elements = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 63536}
    path = write_dicom(tmp_path / "a.dcm", around(63536), **elements)
    assert "PixelPaddingValue: expected one of 12 bits, got 63536. Repair the header." in refused(path)
    # the header alone names it; 2096 is what 12 bits of it would be
    tissue = TISSUE.copy()
    tissue[0, 0] = 2096
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "b.dcm", tissue, **elements))[0], tissue.T)


def test_color_has_no_padding(tmp_path):
    color = RNG.integers(0, 3, (5, 7, 3), dtype=np.uint8)
    array, _ = read(write_dicom(tmp_path / "a.dcm", color, PixelPaddingValue=1))
    np.testing.assert_array_equal(array, color.transpose(1, 0, 2))


BLURRED = around(100) + RNG.integers(0, 3, (6, 8), dtype=np.uint16)


@pytest.mark.parametrize("lossy", [{"LossyImageCompression": "01"}, {"syntax": JPEGLSNearLossless}])
def test_padding_that_compression_has_blurred_is_refused_without_a_range(lossy):
    ds = dicom_dataset(BLURRED, PixelPaddingValue=100, **lossy)
    with pytest.raises(ValueError, match=r"PixelPaddingRangeLimit: expected a value, because lossy .* got none\. Add"):
        check_sharp(BLURRED, BLURRED == 100, BLURRED, ds)
    ds.PixelPaddingRangeLimit = 102
    check_sharp(BLURRED, BLURRED == 100, BLURRED, ds)


def test_padding_that_is_sharp_or_black_is_no_matter_of_compression(tmp_path):
    for stored, value, lossy in [(BLURRED, 100, "00"), (around(100), 100, "01"), (BLURRED - 100, 0, "01")]:
        path = write_dicom(tmp_path / "a.dcm", stored, PixelPaddingValue=value, LossyImageCompression=lossy)
        assert read(path)[0].shape == (8, 6)


def test_a_range_of_padding_without_its_first_value_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", around(15), PixelPaddingRangeLimit=20)
    assert "PixelPaddingValue: expected one beside PixelPaddingRangeLimit, got none. Repair the header." in refused(
        path
    )
