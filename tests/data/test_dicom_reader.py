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

import logging
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_files import PATIENT, dicom_dataset, write_dicom
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import LoadImage, LoadImaged, Spacing
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    EnhancedMRImageStorage,
    ExplicitVRBigEndian,
    RLELossless,
    RTDoseStorage,
    SegmentationStorage,
    VLWholeSlideMicroscopyImageStorage,
)

from monai_weckd.data import dicom_codestream, dicom_pixels
from monai_weckd.data.dicom_errors import DicomReadError
from monai_weckd.data.dicom_reader import DicomReader

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 4096, (5, 7), dtype=np.uint16)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"


def read(path, **options):
    reader = DicomReader(**options)
    return reader.get_data(reader.read(path))


def refused(path, **options) -> str:
    with pytest.raises(DicomReadError) as caught:
        read(path, **options)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.isprintable()  # so it is one line
    return message


# arguments


@pytest.mark.parametrize("window", ["Dicom", (40,), (40, 0), (40, -1), (float("nan"), 1), (1, 2, 3)])
def test_a_window_is_none_dicom_or_center_and_width(window):
    with pytest.raises(ValueError, match=r"window: expected None, 'dicom' or \(center, width > 0\), got"):
        DicomReader(window=window)


def test_a_tag_is_a_keyword_and_an_unknown_one_names_the_nearest():
    with pytest.raises(ValueError, match=r"tags: expected DICOM keywords, got 'StudyDat'\. Pass e\.g\. 'StudyDate'\."):
        DicomReader(tags=("StudyDat",))


def test_limits_are_checked():
    with pytest.raises(ValueError, match=r"gap_tolerance: expected a fraction of at least 0, got -0\.1"):
        DicomReader(gap_tolerance=-0.1)
    with pytest.raises(ValueError, match="max_pixels: expected at least 1, got 0"):
        DicomReader(max_pixels=0)


def test_read_takes_no_options():
    with pytest.raises(TypeError, match=r"kwargs: expected none, got \['force'\]\. Pass options to DicomReader"):
        DicomReader().read("a.dcm", force=True)


def test_verify_suffix_goes_by_folder_suffix_or_prefix(tmp_path):
    file = Path(write_dicom(tmp_path / "no_suffix", GREY))
    other = tmp_path / "a.png"
    other.write_bytes(b"\x89PNG")
    reader = DicomReader()
    assert reader.verify_suffix(tmp_path)
    assert reader.verify_suffix([file, "absent.dcm"])
    assert not reader.verify_suffix([file, other])


# shape, color, polarity, values


def test_grey_is_x_y_and_gets_one_channel(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    array, meta = read(path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, GREY.T)
    np.testing.assert_array_equal(meta["spatial_shape"], (7, 5))
    image = LoadImage(reader=DicomReader(), ensure_channel_first=True)(path)
    assert isinstance(image, MetaTensor)
    assert image.shape == (1, 7, 5)
    assert image.meta["filename_or_obj"] == path


@pytest.mark.parametrize("planar", [0, 1])
def test_color_is_that_of_a_png(tmp_path, planar):
    path = write_dicom(tmp_path / "a.dcm", COLOR, PlanarConfiguration=planar)
    Image.fromarray(COLOR).save(tmp_path / "a.png")
    image = LoadImage(reader=DicomReader(), ensure_channel_first=True)(path)
    png = LoadImage(reader="PILReader", ensure_channel_first=True)(tmp_path / "a.png")
    assert image.shape == (3, 7, 5)
    assert torch.equal(image.as_tensor(), png.as_tensor())


@pytest.mark.parametrize(
    ("bits", "signed", "mirrored"),
    [(12, False, lambda x: 4095 - x), (16, False, lambda x: 65535 - x), (16, True, lambda x: -1 - x)],
)
def test_monochrome1_is_inverted_within_its_stored_bits(tmp_path, bits, signed, mirrored):
    pixels = GREY.astype(np.int16 if signed else np.uint16)
    elements = {"BitsStored": bits, "HighBit": bits - 1}
    path = write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", **elements)
    array, meta = read(path)
    np.testing.assert_array_equal(array, mirrored(pixels.T.astype(np.int64)))
    assert meta["inverted"] is True
    assert read(write_dicom(tmp_path / "b.dcm", pixels, **elements))[1]["inverted"] is False


def test_monochrome1_is_inverted_in_modality_values(tmp_path):
    elements = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "0.5", "RescaleIntercept": "-100"}
    pixels = GREY // 16
    array, _ = read(write_dicom(tmp_path / "a.dcm", pixels.astype(np.uint8), **elements))
    np.testing.assert_allclose(array, (255 - pixels.T) * 0.5 - 100)


def test_rescale_is_applied_and_each_half_of_it_has_a_default(tmp_path):
    for elements, expected in [
        ({"RescaleSlope": "2.5", "RescaleIntercept": "-1024"}, GREY.T * 2.5 - 1024),
        ({"RescaleSlope": "2.5"}, GREY.T * 2.5),
        ({"RescaleIntercept": "-1024"}, GREY.T - 1024.0),
    ]:
        np.testing.assert_allclose(read(write_dicom(tmp_path / "a.dcm", GREY, **elements))[0], expected, rtol=1e-6)


def test_32_bit_values_are_scaled_before_they_are_rounded(tmp_path):
    pixels = np.array([[2**31 + 1, 2**31 + 3]], dtype=np.uint32)
    elements = {"RescaleSlope": "1", "RescaleIntercept": f"-{2**31}"}
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "a.dcm", pixels, **elements))[0], [[1], [3]])


def test_float_pixels_are_read(tmp_path):
    values = RNG.random((5, 7), dtype=np.float32)
    ds = dicom_dataset(GREY, BitsAllocated=32)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.FloatPixelData = values.tobytes()
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0], values.T)


def lut(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = [int(entry) for entry in entries]
    item["LUTData"].VR = "US"
    return [item]


@pytest.mark.parametrize("first", [0, 100])
def test_a_modality_table_is_applied(tmp_path, first):
    pixels = GREY // 8  # 0..511
    table = lut(RNG.integers(0, 4096, 256), first, 16)
    path = write_dicom(tmp_path / "a.dcm", pixels, ModalityLUTSequence=table)
    array, _ = read(path)
    entries = np.array(table[0].LUTData)
    by_hand = [[entries[min(max(int(value) - first, 0), 255)] for value in row] for row in pixels]
    np.testing.assert_array_equal(array, np.array(by_hand).T)
    np.testing.assert_array_equal(array, apply_modality_lut(pixels, pydicom.dcmread(path)).T)


def palette(colors_8_bit, bits, first=0, order="<"):
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for k, name in enumerate(("Red", "Green", "Blue")):
        entries = colors_8_bit[:, k]
        # 16-bit tables hold v * 256 or v * 257, both are seen
        data = entries.astype(np.uint8) if bits == 8 else (entries.astype(np.uint16) * 257).astype(f"{order}u2")
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [len(entries), first, bits]
        elements[f"{name}PaletteColorLookupTableData"] = data.tobytes()
    return elements


@pytest.mark.parametrize(("bits", "first"), [(8, 0), (16, 0), (16, 5)])
def test_a_palette_becomes_rgb_in_8_bits(tmp_path, bits, first):
    colors = RNG.integers(0, 256, (64, 3))
    index = RNG.integers(0, 64, (5, 7), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", index + np.uint8(first), **palette(colors, bits, first))
    array, _ = read(path)
    np.testing.assert_array_equal(array, colors[index].transpose(1, 0, 2))
    assert LoadImage(reader=DicomReader(), ensure_channel_first=True)(path).shape == (3, 7, 5)


def test_a_palette_in_big_endian_has_its_bytes_in_order(tmp_path):
    colors = RNG.integers(0, 256, (64, 3))
    # v * 256 would be another color if read in the wrong order, v * 257 would not
    elements = palette(colors, 16, order=">")
    for k, name in enumerate(("Red", "Green", "Blue")):
        elements[f"{name}PaletteColorLookupTableData"] = (colors[:, k].astype(np.uint16) * 256).astype(">u2").tobytes()
    index = RNG.integers(0, 64, (5, 7), dtype=np.uint16)
    path = write_dicom(tmp_path / "a.dcm", index, syntax=ExplicitVRBigEndian, **elements)
    np.testing.assert_array_equal(read(path)[0], colors[index].transpose(1, 0, 2))


def test_a_palette_of_16_bits_that_uses_only_8_is_not_darkened(tmp_path):
    colors = RNG.integers(0, 256, (64, 3))
    elements = palette(colors, 16)
    for k, name in enumerate(("Red", "Green", "Blue")):
        elements[f"{name}PaletteColorLookupTableData"] = colors[:, k].astype("<u2").tobytes()
    index = RNG.integers(0, 64, (5, 7), dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", index, **elements)
    np.testing.assert_array_equal(read(path)[0], colors[index].transpose(1, 0, 2))


def test_a_table_that_is_too_short_is_refused(tmp_path):
    elements = palette(RNG.integers(0, 256, (64, 3)), 8)
    elements["GreenPaletteColorLookupTableDescriptor"] = [256, 0, 8]
    path = write_dicom(tmp_path / "a.dcm", GREY.astype(np.uint8), **elements)
    assert "lookup table: expected 256 entries, got 64. Repair the header." in refused(path)


def test_ybr_becomes_rgb(tmp_path):
    r, g, b = np.moveaxis(COLOR.astype(np.float64), -1, 0)  # ITU-T T.871, section 7
    ybr = np.stack([0.299 * r + 0.587 * g + 0.114 * b, (b - r) * 0.5 + 128, (r - g) * 0.5 + 128], axis=-1)
    ybr = np.round(np.clip(ybr, 0, 255)).astype(np.uint8)
    y, cb, cr = np.moveaxis(ybr.astype(np.float64), -1, 0)
    back = np.stack(
        [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)], axis=-1
    )
    array, _ = read(write_dicom(tmp_path / "a.dcm", ybr, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(array, np.clip(back, 0, 255).transpose(1, 0, 2), atol=0.51)


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 5, 7, 3)])
def test_frames_come_last(tmp_path, shape):
    pixels = RNG.integers(0, 256, shape, dtype=np.uint8)
    path = write_dicom(tmp_path / "a.dcm", pixels)
    array, meta = read(path)
    for k in range(4):
        np.testing.assert_array_equal(array[:, :, k], np.swapaxes(pixels[k], 0, 1))
    np.testing.assert_array_equal(meta["spatial_shape"], (7, 5, 4))
    image = LoadImage(reader=DicomReader(), ensure_channel_first=True)(path)
    assert image.shape == ((3 if len(shape) == 4 else 1), 7, 5, 4)


def test_run_length_encoding_gives_the_same(tmp_path):
    ds = dicom_dataset(COLOR)
    ds.compress(RLELossless)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0], COLOR.transpose(1, 0, 2))


# windows


def window_of(ds):
    """pydicom's own window, which spans the modality range, brought to 0..1."""
    values = apply_modality_lut(ds.pixel_array, ds)
    low, high = apply_modality_lut(np.array([0, 2**ds.BitsStored - 1]), ds)
    return ((apply_windowing(values, ds) - low) / (high - low)).T


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(0, 400), ([300, 40], [1000, 4]), (40, 1)])
def test_the_window_of_the_header_is_pydicoms(tmp_path, function, center, width):
    elements = {"VOILUTFunction": function} if function else {}
    elements |= {"WindowCenter": center, "WindowWidth": width, "RescaleSlope": "1", "RescaleIntercept": "-1024"}
    path = write_dicom(tmp_path / "a.dcm", GREY, **elements)
    array, _ = read(path, window="dicom")
    np.testing.assert_allclose(array, window_of(pydicom.dcmread(path)), atol=1e-6)
    assert array.min() >= 0
    assert array.max() <= 1


def test_a_voi_table_is_pydicoms(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY // 8, VOILUTSequence=lut(RNG.integers(0, 4096, 256), 100, 12))
    expected = apply_voi(GREY // 8, pydicom.dcmread(path)).T / 4095
    np.testing.assert_allclose(read(path, window="dicom")[0], expected, atol=1e-6)


def test_a_window_of_ones_own(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY, RescaleIntercept="-1024")
    expected = np.clip((GREY.T - 1024.0 - (40 - 200)) / 400, 0, 1)
    np.testing.assert_allclose(read(path, window=[40, 400])[0], expected, atol=1e-6)


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    first, second = (
        write_dicom(tmp_path / f"{name}.dcm", GREY, PhotometricInterpretation=name)
        for name in ("MONOCHROME1", "MONOCHROME2")
    )
    window = (1000, 500)
    np.testing.assert_allclose(read(first, window=window)[0], 1 - read(second, window=window)[0], atol=1e-6)


def test_a_window_that_does_not_fit_is_refused(tmp_path):
    grey, color = write_dicom(tmp_path / "a.dcm", GREY), write_dicom(tmp_path / "b.dcm", COLOR)
    assert "window: expected a window in the header, got none. Pass window=" in refused(grey, window="dicom")
    assert "window: expected a grey image, got RGB. Pass window=None." in refused(color, window=(40, 400))
    path = write_dicom(tmp_path / "c.dcm", GREY, WindowCenter=40, WindowWidth=0)
    assert "window: expected a valid one in the header, got another" in refused(path, window="dicom")


# geometry


def test_without_geometry_the_affine_is_the_identity(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    _, meta = read(path)
    np.testing.assert_array_equal(meta["affine"], np.eye(4))
    assert (meta["has_geometry"], meta["spacing_from"]) == (False, "")
    image = LoadImage(reader=DicomReader(), ensure_channel_first=True)(path)
    assert Spacing(pixdim=(0.5, 0.5))(image).shape[1:] == (13, 9)  # the affine can be inverted


@pytest.mark.parametrize("keyword", ["PixelSpacing", "ImagerPixelSpacing"])
def test_spacing_alone_is_used_and_flagged(tmp_path, keyword):
    path = write_dicom(tmp_path / "a.dcm", GREY, **{keyword: [2.0, 0.5]})  # rows are 2 apart, columns 0.5
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
    _, meta = read(write_dicom(tmp_path / "a.dcm", GREY, SliceThickness="0", SpacingBetweenSlices="4", **PLACED))
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
    path = write_dicom(tmp_path / "a.dcm", GREY, **{**PLACED, keyword: value})
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


# refusals


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"SOPClassUID": SegmentationStorage}, "expected an image, got a mask (Segmentation). Leave it out."),
        ({"SOPClassUID": RTDoseStorage}, "expected an image, got a dose grid (RT Dose). Leave it out."),
        ({"SOPClassUID": VLWholeSlideMicroscopyImageStorage}, "got tiles of a slide: use monai.data.WSIReader"),
        ({"BitsAllocated": 1, "BitsStored": 1, "HighBit": 0}, "expected an image, got a mask of 1 bit per pixel"),
        (
            {"PhotometricInterpretation": "HSV"},
            "PhotometricInterpretation: expected grey, palette, RGB or YBR, got HSV.",
        ),
        (
            {"PhotometricInterpretation": "RGB"},
            "PhotometricInterpretation: expected grey, palette, RGB or YBR, got RGB.",
        ),
        ({"PixelData": b"\0\0"}, "The number of bytes of pixel data is less than expected (2 vs 70 bytes)"),
        ({"Rows": 65535, "Columns": 65535}, "the header claims 65535 x 65535 pixels x 1 frames x 1 samples, more than"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path, elements, message):
    assert message in refused(write_dicom(tmp_path / "a.dcm", GREY, **elements))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("reportsi.dcm", "expected an image, got a DICOM object without pixels (Basic Text SR). Leave it out."),
        ("rtplan.dcm", "got a DICOM object without pixels (RT Plan)"),
        ("waveform_ecg.dcm", "got a DICOM object without pixels (12-lead ECG Waveform)"),
        ("meta_missing_tsyntax.dcm", "expected a transfer syntax in the file's meta header, got none"),
        ("no_meta.dcm", "expected a DICOM file, got one without the 'DICM' prefix."),
        ("README.txt", "expected a DICOM file, got one without the 'DICM' prefix."),
    ],
)
def test_other_objects_are_refused_by_name(name, message):
    assert message in refused(SAMPLES / name)


def test_a_presentation_state_is_refused_by_name(tmp_path):
    ds = dicom_dataset(GREY, SOPClassUID="1.2.840.10008.5.1.4.1.1.11.1")
    del ds.PixelData, ds.Rows
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "without pixels (Grayscale Softcopy Presentation State)" in refused(tmp_path / "a.dcm")


def test_a_missing_file_is_named(tmp_path):
    assert "cannot be read (No such file or directory)" in refused(tmp_path / "absent.dcm")


def test_a_film_is_refused(tmp_path):
    ds = dicom_dataset(COLOR)
    ds.compress(RLELossless)
    ds.file_meta.TransferSyntaxUID = MPEG2MPML
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "expected a still image, got MPEG2 Main Profile / Main Level data. Convert" in refused(tmp_path / "a.dcm")


def test_a_missing_decoder_names_the_extra(monkeypatch):
    monkeypatch.setattr(dicom_pixels, "get_decoder", Decoder)  # without its plugins
    message = refused(SAMPLES / "MR_small_jpeg_ls_lossless.dcm")
    assert (
        'no decoder for JPEG-LS Lossless Image Compression is installed. Run: pip install "monai-weckd[dicom]"'
        in message
    )


@pytest.mark.parametrize(
    ("name", "marker", "at"),
    [
        ("SC_rgb_jpeg_dcmtk.dcm", b"\xff\xc0\x00\x11\x08", 5),
        ("SC_rgb_jpeg_gdcm.dcm", b"\xff\xc3\x00\x11\x08", 5),
        ("MR_small_jpeg_ls_lossless.dcm", b"\xff\xf7\x00\x0b", 5),
        ("MR_small_jp2klossless.dcm", b"\xff\x4f\xff\x51", 10),
    ],
)
def test_a_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path, name, marker, at):
    data = bytearray((SAMPLES / name).read_bytes())
    start = data.index(marker) + at
    data[start : start + 2] = b"\xff\xff"
    (tmp_path / name).write_bytes(data)
    message = refused(tmp_path / name)
    assert "frame 1: expected" in message
    assert "65535" in message


def test_a_stream_without_a_size_is_refused(tmp_path):
    data = (SAMPLES / "SC_rgb_jpeg_dcmtk.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(data.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xda\x00\x11\x08"))
    assert "pixels (columns, rows) by the header, got None" in refused(tmp_path / "a.dcm")


def test_claims_beyond_max_pixels_are_refused_before_memory_is_taken(tmp_path):
    ds = dicom_dataset(GREY.astype(np.uint8))
    ds.compress(RLELossless)
    ds.Rows = ds.Columns = 30000
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    tracemalloc.start()
    assert "more than max_pixels=536870912. Raise it if that is right." in refused(tmp_path / "a.dcm")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**23
    assert read(write_dicom(tmp_path / "b.dcm", GREY), max_pixels=35)[0].size == 35
    assert "more than max_pixels=34" in refused(tmp_path / "b.dcm", max_pixels=34)


def test_a_deflated_file_is_read_and_one_too_large_is_refused(tmp_path, monkeypatch):
    path = write_dicom(tmp_path / "a.dcm", np.zeros((500, 500), np.uint16), syntax=DeflatedExplicitVRLittleEndian)
    assert Path(path).stat().st_size < 5000
    assert read(path)[0].shape == (500, 500)
    monkeypatch.setattr(dicom_codestream, "_MAX_INFLATED", 400_000)
    assert "expected at most 400000 bytes inflated, got more. Save it without deflate." in refused(path)


def test_a_deflated_file_must_say_where_its_data_begin(tmp_path):
    path = Path(write_dicom(tmp_path / "a.dcm", GREY, syntax=DeflatedExplicitVRLittleEndian))
    data = bytearray(path.read_bytes())
    data[132] = 3
    path.write_bytes(data)
    assert "expected the length of the meta header first, got another element" in refused(path)
    data[132], data[-8:] = 2, b"\0" * 8
    path.write_bytes(data)
    assert "cannot be decoded (error: Error" in refused(path)


# in MONAI


def test_load_image_falls_back_to_no_other_reader(tmp_path):
    # stock readers give this mask as an image of 0 and 255
    path = str(SAMPLES / "liver_1frame.dcm")
    with pytest.raises(DicomReadError, match=r"got a mask \(Segmentation\)"):
        LoadImage(reader=DicomReader())(path)
    with pytest.raises(DicomReadError, match="No such file"):
        LoadImage(reader=DicomReader())(tmp_path / "absent.dcm")


def test_a_configuration_builds_it(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY)
    config = {
        "load": {
            "_target_": "LoadImaged",
            "keys": "image",
            "reader": {"_target_": "monai_weckd.data.dicom_reader.DicomReader", "window": [1000, 500]},
            "ensure_channel_first": True,
        }
    }
    load = ConfigParser(config).get_parsed_content("load")
    assert isinstance(load, LoadImaged)
    image = load({"image": path})["image"]
    assert image.shape == (1, 7, 5)
    assert image.max() <= 1


def test_one_reader_serves_many_threads(tmp_path):
    paths = [write_dicom(tmp_path / f"{k}.dcm", np.full((50, 50), k, np.uint8)) for k in range(32)]
    load = LoadImage(reader=DicomReader())
    with ThreadPoolExecutor(8) as pool:
        assert [float(image.mean()) for image in pool.map(load, paths)] == list(range(32))


# patients


def test_nothing_of_the_patient_gets_out(tmp_path, caplog, recwarn):
    caplog.set_level(logging.DEBUG)
    path = write_dicom(tmp_path / "a.dcm", GREY, **PLACED)
    texts = [repr(read(path)[1]), repr(LoadImage(reader=DicomReader())(path).meta)]
    texts.append(refused(write_dicom(tmp_path / "b.dcm", GREY, PixelData=b"\0\0")))
    texts += [caplog.text, *(str(warning.message) for warning in recwarn)]
    for secret in (*PATIENT.values(), "Doe", "Jane"):
        assert not [text for text in texts if secret in text]
    keys = {"affine", "original_affine", "space", "spatial_shape", "original_channel_dim"}
    assert set(read(path)[1]) == keys | {"has_geometry", "spacing_from", "inverted"}


@pytest.mark.filterwarnings("ignore:.*Invalid value for VR:UserWarning")
def test_a_damaged_header_does_not_quote_the_patient(tmp_path):
    data = Path(write_dicom(tmp_path / "a.dcm", GREY)).read_bytes()
    # longer by the next elements: the class of the object, then the spacing of a row, swallow the patient's name
    for element in (b"\x08\x00\x16\x00UI", b"\x28\x00\x04\x00CS", b"\x28\x00\x10\x00US"):
        start = data.index(element) + 6
        broken = data[:start] + (900).to_bytes(2, "little") + data[start + 2 :]
        (tmp_path / "b.dcm").write_bytes(broken)
        with pytest.raises(DicomReadError) as caught:
            read(tmp_path / "b.dcm")
        assert caught.value.__suppress_context__  # a printed traceback has no cause that quotes
        assert not [secret for secret in PATIENT.values() if secret in str(caught.value)]


def test_tags_are_copied_if_asked_for(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GREY, InstanceNumber=0)
    _, meta = read(path, tags=("StudyDate", "BodyPartExamined", "PatientID", "InstanceNumber"))
    assert (meta["StudyDate"], meta["BodyPartExamined"], meta["InstanceNumber"]) == ("20200131", "", "0")
    assert meta["PatientID"] == PATIENT["PatientID"]
