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
import pydicom
import pytest
import torch
from dicom_files import dicom_dataset, read, refused, write_dicom
from monai.data import MetaTensor
from monai.transforms import LoadImage
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from monai_weckd.data.dicom.reader import DicomReader

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 4096, (5, 7), dtype=np.uint16)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


# shape, color, polarity, values


def test_gray_is_x_y_and_gets_one_channel(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY)
    array, meta = read(path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, GRAY.T)
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
    pixels = GRAY.astype(np.int16 if signed else np.uint16)
    elements = {"BitsStored": bits, "HighBit": bits - 1}
    path = write_dicom(tmp_path / "a.dcm", pixels, PhotometricInterpretation="MONOCHROME1", **elements)
    array, meta = read(path)
    np.testing.assert_array_equal(array, mirrored(pixels.T.astype(np.int64)))
    assert meta["inverted"] is True
    assert read(write_dicom(tmp_path / "b.dcm", pixels, **elements))[1]["inverted"] is False


def test_monochrome1_is_inverted_in_modality_values(tmp_path):
    elements = {"PhotometricInterpretation": "MONOCHROME1", "RescaleSlope": "0.5", "RescaleIntercept": "-100"}
    pixels = GRAY // 16
    array, _ = read(write_dicom(tmp_path / "a.dcm", pixels.astype(np.uint8), **elements))
    np.testing.assert_allclose(array, (255 - pixels.T) * 0.5 - 100)


def test_rescale_is_applied_and_each_half_of_it_has_a_default(tmp_path):
    for elements, expected in [
        ({"RescaleSlope": "2.5", "RescaleIntercept": "-1024"}, GRAY.T * 2.5 - 1024),
        ({"RescaleSlope": "2.5"}, GRAY.T * 2.5),
        ({"RescaleIntercept": "-1024"}, GRAY.T - 1024.0),
    ]:
        np.testing.assert_allclose(read(write_dicom(tmp_path / "a.dcm", GRAY, **elements))[0], expected, rtol=1e-6)


def test_32_bit_values_are_scaled_before_they_are_rounded(tmp_path):
    pixels = np.array([[2**31 + 1, 2**31 + 3]], dtype=np.uint32)
    elements = {"RescaleSlope": "1", "RescaleIntercept": f"-{2**31}"}
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "a.dcm", pixels, **elements))[0], [[1], [3]])


def test_float_pixels_are_read(tmp_path):
    values = RNG.random((5, 7), dtype=np.float32)
    ds = dicom_dataset(GRAY, BitsAllocated=32)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.FloatPixelData = values.tobytes()
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0], values.T)


# bits


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
@pytest.mark.parametrize(("bits", "high"), [(12, 15), (12, 13), (10, 15), (15, 15)])
@pytest.mark.parametrize("signed", [False, True])
def test_values_are_read_where_the_high_bit_is(tmp_path, bits, high, signed, syntax):
    pixels = RNG.integers(0, 2**bits, (5, 7)) - (2 ** (bits - 1) if signed else 0)
    # bits above the stored ones may be of an overlay
    above = RNG.integers(0, 2 ** (15 - high), (5, 7)) << (high + 1)
    placed = ((pixels % 2**bits) << (high + 1 - bits) | above).astype(np.uint16)
    elements = {"BitsStored": bits, "HighBit": high, "PixelRepresentation": int(signed)}
    ds = dicom_dataset(placed, syntax=ExplicitVRLittleEndian if syntax == RLELossless else syntax, **elements)
    if syntax == RLELossless:
        ds.compress(RLELossless)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0], pixels.T)


def test_a_high_bit_does_not_change_inversion(tmp_path):
    elements = {"BitsStored": 12, "HighBit": 15, "PhotometricInterpretation": "MONOCHROME1"}
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "a.dcm", GRAY << 4, **elements))[0], 4095 - GRAY.T)


@pytest.mark.parametrize("signed", [False, True])
def test_overlays_above_the_stored_bits_are_left_out(tmp_path, signed):
    pixels = GRAY.astype(np.int32) - 2048 * signed
    placed = ((pixels % 4096) | RNG.integers(0, 16, (5, 7)) << 12).astype(np.uint16)
    elements = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    np.testing.assert_array_equal(read(write_dicom(tmp_path / "a.dcm", placed, **elements))[0], pixels.T)


def test_a_high_bit_that_the_pixels_contradict_is_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY | np.uint16(1), BitsStored=12, HighBit=15)
    assert "HighBit: expected zeros in the 4 bits below the stored ones, got others. Repair" in refused(path)
    for high in (9, 16):
        path = write_dicom(tmp_path / "b.dcm", GRAY, BitsStored=12, HighBit=high)
        assert f"HighBit: expected 11 for 12 stored bits, got {high}. Repair the header." in refused(path)


def lut(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = [int(entry) for entry in entries]
    item["LUTData"].VR = "US"
    return [item]


@pytest.mark.parametrize("first", [0, 100])
def test_a_modality_table_is_applied(tmp_path, first):
    pixels = GRAY // 8  # 0..511
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
    colors = RNG.integers(0, 65536, (64, 3), dtype=np.uint16)
    elements = palette(colors >> 8, 16)
    for k, name in enumerate(("Red", "Green", "Blue")):
        elements[f"{name}PaletteColorLookupTableData"] = colors[:, k].astype(">u2").tobytes()
    index = RNG.integers(0, 64, (5, 7), dtype=np.uint16)
    path = write_dicom(tmp_path / "a.dcm", index, syntax=ExplicitVRBigEndian, **elements)
    np.testing.assert_array_equal(read(path)[0], (colors >> 8)[index].transpose(1, 0, 2))


def test_a_palette_in_segments_is_expanded(tmp_path):
    elements = {"PhotometricInterpretation": "PALETTE COLOR"}
    for k, name in enumerate(("Red", "Green", "Blue")):
        # PS3.3 C.7.9.2: discrete, 2 entries; then linear, 4 entries up to the last one
        segments = np.array([0, 2, 0, 1000 * k, 1, 4, 1000 * k + 40000], dtype="<u2")
        elements[f"{name}PaletteColorLookupTableDescriptor"] = [6, 0, 16]
        elements[f"Segmented{name}PaletteColorLookupTableData"] = segments.tobytes()
    index = np.arange(6, dtype=np.uint8).reshape(3, 2)
    array, _ = read(write_dicom(tmp_path / "a.dcm", index, **elements))
    for k in range(3):
        entries = np.array([0, *(1000 * k + 10000 * np.arange(5))])
        np.testing.assert_array_equal(array[..., k], (entries[index] >> 8).T)


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
    path = write_dicom(tmp_path / "a.dcm", GRAY.astype(np.uint8), **elements)
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
    path = write_dicom(tmp_path / "a.dcm", GRAY, **elements)
    array, _ = read(path, window="dicom")
    np.testing.assert_allclose(array, window_of(pydicom.dcmread(path)), atol=1e-6)
    assert array.min() >= 0
    assert array.max() <= 1


def test_a_voi_table_is_pydicoms(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY // 8, VOILUTSequence=lut(RNG.integers(0, 4096, 256), 100, 12))
    expected = apply_voi(GRAY // 8, pydicom.dcmread(path)).T / 4095
    np.testing.assert_allclose(read(path, window="dicom")[0], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["US", "SS", "none"])
@pytest.mark.parametrize(
    ("first", "rescale", "signed"),
    [
        (-1024, {"RescaleIntercept": "-1024"}, False),
        (-100, {"RescaleIntercept": "-100", "RescaleSlope": "0.5"}, False),
        (-2048, {}, True),
        (40000, {"RescaleIntercept": "40000"}, False),
        (40000, {"RescaleIntercept": "42048"}, True),
        (0, {}, False),
    ],
)
def test_the_first_value_of_a_voi_table_has_the_sign_of_the_values(tmp_path, kind, first, rescale, signed):
    table = lut(RNG.permutation(4096), first, 12)
    vr = "SS" if kind == "none" and signed else "US" if kind == "none" else kind
    number = first % 65536 if vr == "US" else (first + 32768) % 65536 - 32768
    table[0].add_new("LUTDescriptor", vr, [4096, number, 12])
    pixels = (GRAY.astype(np.int32) - 2048 * signed).astype(np.int16 if signed else np.uint16)
    syntax = ImplicitVRLittleEndian if kind == "none" else ExplicitVRLittleEndian
    path = write_dicom(tmp_path / "a.dcm", pixels, syntax=syntax, VOILUTSequence=table, **rescale)
    modality = pixels.T * float(rescale.get("RescaleSlope", 1)) + float(rescale.get("RescaleIntercept", 0))
    entries = np.array(table[0].LUTData)[np.clip(np.rint(modality - first), 0, 4095).astype(int)]
    np.testing.assert_allclose(read(path, window="dicom")[0], entries / 4095, atol=1e-6)


@pytest.mark.parametrize("kind", ["US", "SS"])
def test_the_first_value_of_a_modality_table_has_the_sign_of_the_pixels(tmp_path, kind):
    table = lut(RNG.integers(0, 4096, 4096), -2048, 12)
    table[0].add_new("LUTDescriptor", kind, [4096, 63488 if kind == "US" else -2048, 12])
    pixels = GRAY.astype(np.int16) - 2048
    path = write_dicom(tmp_path / "a.dcm", pixels.astype(np.int16), ModalityLUTSequence=table)
    np.testing.assert_array_equal(read(path)[0], np.array(table[0].LUTData)[GRAY].T)


def test_a_window_of_ones_own(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", GRAY, RescaleIntercept="-1024")
    expected = np.clip((GRAY.T - 1024.0 - (40 - 200)) / 400, 0, 1)
    np.testing.assert_allclose(read(path, window=[40, 400])[0], expected, atol=1e-6)


def test_monochrome1_is_inverted_after_the_window(tmp_path):
    first, second = (
        write_dicom(tmp_path / f"{name}.dcm", GRAY, PhotometricInterpretation=name)
        for name in ("MONOCHROME1", "MONOCHROME2")
    )
    window = (1000, 500)
    np.testing.assert_allclose(read(first, window=window)[0], 1 - read(second, window=window)[0], atol=1e-6)


def test_a_window_that_does_not_fit_is_refused(tmp_path):
    gray, color = write_dicom(tmp_path / "a.dcm", GRAY), write_dicom(tmp_path / "b.dcm", COLOR)
    assert "window: expected a window in the header, got none. Pass window=" in refused(gray, window="dicom")
    assert "window: expected a gray image, got RGB. Pass window=None." in refused(color, window=(40, 400))
    path = write_dicom(tmp_path / "c.dcm", GRAY, WindowCenter=40, WindowWidth=0)
    assert "window: expected a valid one in the header, got another" in refused(path, window="dicom")


@pytest.mark.parametrize(("bits", "top"), [(0, 4095), (8, 4095), (12, 4096), (17, 4095)])
def test_a_voi_table_whose_entries_do_not_fit_its_bits_is_refused(tmp_path, bits, top):
    table = lut(np.linspace(0, top, 4096).astype(int), 0, bits)
    path = write_dicom(tmp_path / "a.dcm", GRAY, VOILUTSequence=table)
    assert f"VOI table: expected entries of 1 to 16 bits, got up to {top} in {bits}. Repair" in refused(
        path, window="dicom"
    )
    assert read(path)[0].shape == (7, 5)  # its values are not asked for


def test_a_modality_table_beside_a_rescale_is_refused(tmp_path):
    table = lut(RNG.integers(0, 4096, 4096), 0, 12)
    for rescale in ({"RescaleSlope": "2"}, {"RescaleIntercept": "-1024", "RescaleSlope": "1"}):
        path = write_dicom(tmp_path / "a.dcm", GRAY, ModalityLUTSequence=table, **rescale)
        assert "rescale: expected it or a modality table, got both. Repair the header." in refused(path)
    path = write_dicom(tmp_path / "b.dcm", GRAY, ModalityLUTSequence=table, RescaleSlope="1", RescaleIntercept="0")
    np.testing.assert_array_equal(read(path)[0], np.array(table[0].LUTData)[GRAY].T)


def test_a_second_modality_table_is_refused(tmp_path):
    tables = [*lut(RNG.integers(0, 4096, 4096), 0, 12), *lut(RNG.integers(0, 4096, 4096), 0, 12)]
    path = write_dicom(tmp_path / "a.dcm", GRAY, ModalityLUTSequence=tables)
    assert "modality table: expected one, got 2. Repair the header." in refused(path)


@pytest.mark.parametrize(("allocated", "stored"), [(16, 16), (16, 12), (16, 8), (8, 8)])
def test_colors_are_given_in_8_bits(tmp_path, allocated, stored):
    deep = COLOR.astype(f"u{allocated // 8}") << (stored - 8)
    path = write_dicom(tmp_path / "a.dcm", deep, BitsStored=stored, HighBit=stored - 1)
    np.testing.assert_array_equal(read(path)[0], COLOR.transpose(1, 0, 2))


def test_colors_with_a_sign_are_refused(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", COLOR.astype(np.int16))
    assert "PixelRepresentation: expected colors without a sign, got 1. Repair the header." in refused(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEGLSLossless])
@pytest.mark.parametrize("claimed", [1, None])
def test_more_frames_than_the_header_claims_are_refused(tmp_path, syntax, claimed):
    ds = dicom_dataset(np.stack([GRAY, GRAY + 1, GRAY + 2]), BitsStored=13, HighBit=12)
    if syntax != ExplicitVRLittleEndian:
        ds.compress(syntax)
    ds.NumberOfFrames = claimed
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert "NumberOfFrames: expected 3 by the pixels, got 1. Repair the header." in refused(tmp_path / "a.dcm")


def test_a_frame_in_several_fragments_is_one(tmp_path):
    ds = dicom_dataset(GRAY)
    ds.compress(JPEGLSLossless)
    stream = next(generate_frames(ds.PixelData, number_of_frames=1))
    ds.PixelData = encapsulate([stream], fragments_per_frame=4)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0], GRAY.T)


@pytest.mark.parametrize("tail", [1, 2, 60])
def test_bytes_after_the_pixels_are_no_frame(tmp_path, tail):
    ds = dicom_dataset(GRAY)
    ds.PixelData += bytes(tail)
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read(tmp_path / "a.dcm")[0], GRAY.T)


@pytest.mark.parametrize(("signed", "stored"), [(False, 10), (True, 10)])
def test_a_stream_of_more_bits_than_the_header_claims_is_refused(tmp_path, signed, stored):
    pixels = GRAY.astype(np.int16) - 2048 if signed else GRAY
    ds = dicom_dataset(pixels, BitsStored=12, HighBit=11)
    ds.compress(JPEGLSLossless)
    ds.BitsStored, ds.HighBit = stored, stored - 1
    ds.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert f"BitsStored: expected values of {stored} bits, got {'-' if signed else ''}" in refused(tmp_path / "a.dcm")
