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

from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from monai.transforms import LoadImage
from PIL import Image
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, pixel_array

from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.reader import DicomReader

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

# What pydicom ships, by the files themselves: its own lookup by pattern would download more.
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"

NOT_DICOM = "expected a DICOM file, got one without the 'DICM' prefix."
NO_PIXELS = "expected an image, got a DICOM object without pixels (%s). Leave it out."
DOSE = "expected an image, got a dose grid (RT Dose). Leave it out."
MASK = "expected an image, got a mask (Segmentation). Leave it out."
TOO_SHORT = "cannot be decoded (it ends too early, after 8130 of 8192 bytes of pixels). Repair"

REFUSED = {
    "ExplVR_BigEndNoMeta.dcm": NOT_DICOM,
    "ExplVR_LitEndNoMeta.dcm": NOT_DICOM,
    "OT-PAL-8-face.dcm": NOT_DICOM,
    "no_meta.dcm": NOT_DICOM,
    "rtstruct.dcm": NOT_DICOM,
    "UN_sequence.dcm": NO_PIXELS % "unknown",
    "empty_charset_LEI.dcm": NO_PIXELS % "unknown",
    "no_meta_group_length.dcm": NO_PIXELS % "unknown",
    "priv_SQ.dcm": NO_PIXELS % "unknown",
    "reportsi.dcm": NO_PIXELS % "Basic Text SR",
    "reportsi_with_empty_number_tags.dcm": NO_PIXELS % "Basic Text SR",
    "test-SR.dcm": NO_PIXELS % "Comprehensive SR",
    "rtplan.dcm": NO_PIXELS % "RT Plan",
    "rtplan_truncated.dcm": NO_PIXELS % "RT Plan",
    "waveform_ecg.dcm": NO_PIXELS % "12-lead ECG Waveform",
    "liver.dcm": MASK,
    "liver_1frame.dcm": MASK,
    "liver_expb_1frame.dcm": MASK,
    "badVR.dcm": DOSE,
    "rtdose.dcm": DOSE,
    "rtdose_1frame.dcm": DOSE,
    "rtdose_expb.dcm": DOSE,
    "rtdose_expb_1frame.dcm": DOSE,
    "rtdose_rle.dcm": DOSE,
    "rtdose_rle_1frame.dcm": DOSE,
    "meta_missing_tsyntax.dcm": "expected a transfer syntax in the file's meta header, got none. Repair the file.",
    "nested_priv_SQ.dcm": "cannot be decoded (its header lacks the element (0028,0100)). Repair",
    "MR_truncated.dcm": TOO_SHORT,
    "JPEG-lossy.dcm": "cannot be decoded (its compressed pixels are damaged, or of a kind that no decoder reads).",
    "693_J2KI.dcm": "PixelPaddingRangeLimit: expected a value, because lossy compression has blurred the padding",
    "JPEG2000-embedded-sequence-delimiter.dcm": "frame 1: expected (256, 1024) pixels (columns, rows) by the header",
}


def by_pydicom(path: Path) -> np.ndarray:
    """Return ``(rows, columns[, 3])`` or ``(frames, rows, columns[, 3])`` as pydicom's own functions give it."""
    ds = pydicom.dcmread(path)
    pixels = pixel_array(ds)
    if ds.PhotometricInterpretation == "PALETTE COLOR":
        colors = apply_color_lut(pixels, ds)[..., :3]
        return colors >> 8 if colors.dtype == np.uint16 else colors
    if ds.SamplesPerPixel == 3:
        return pixels >> (ds.BitsStored - 8)
    if "PerFrameFunctionalGroupsSequence" in ds:
        pixels = np.stack([apply_modality_lut(frame, transformed(ds, k)) for k, frame in enumerate(pixels)])
        # the one such sample is turned by half about Y: slices grow to inferior
        shared = ds.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]
        assert shared.ImageOrientationPatient == [-1, 0, 0, 0, 1, 0]
        heights = [group.PlanePositionSequence[0].ImagePositionPatient[2] for group in ds[0x52009230].value]
        return pixels[np.argsort(heights)[::-1]]
    pixels = apply_modality_lut(pixels, ds)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        assert ds.PixelRepresentation == 0
        assert "RescaleSlope" not in ds
        return 2**ds.BitsStored - 1 - pixels.astype(np.int64)
    if "PixelPaddingValue" in ds:
        padded = pixel_array(ds) == ds.PixelPaddingValue
        return np.where(padded, pixels[~padded].min(), pixels)
    return pixels


def transformed(ds, frame):
    """Return the one group that holds the rescale of a frame."""
    for groups in (ds.PerFrameFunctionalGroupsSequence[frame], ds.SharedFunctionalGroupsSequence[0]):
        if "PixelValueTransformationSequence" in groups:
            return groups.PixelValueTransformationSequence[0]
    raise AssertionError("the sample has no rescale")


def check(path: Path) -> None:
    """The file is right, or refused for the reason in the table."""
    reader = DicomReader()
    if path.name in REFUSED:
        with pytest.raises(DicomReadError) as caught:
            reader.get_data(reader.read(path))
        assert str(caught.value).startswith(f"{path}: ")
        assert REFUSED[path.name] in str(caught.value)
        assert str(caught.value).isprintable()
        return
    array, meta = reader.get_data(reader.read(path))
    expected = by_pydicom(path)
    is_color = expected.shape[-1] == 3
    if expected.ndim == (4 if is_color else 3):
        expected = np.moveaxis(expected, 0, 2)  # frames are last
    np.testing.assert_allclose(array, np.swapaxes(expected, 0, 1), rtol=1e-6, err_msg=path.name)
    rank = array.ndim - is_color
    assert tuple(meta["spatial_shape"]) == array.shape[:rank]
    assert abs(np.linalg.det(meta["affine"])) > 1e-6
    image = LoadImage(reader=reader, ensure_channel_first=True)(path)
    assert image.shape == (3 if is_color else 1, *array.shape[:rank])
    assert torch.isfinite(image).all()


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.dcm")))
def test_the_samples_of_pydicom(name):
    check(SAMPLES / name)


@pytest.mark.shared
def test_the_variety_of_real_files(shared_data):
    paths = sorted((shared_data("dicom_variety") / "files").iterdir())
    assert len(paths) == 56
    for path in paths:
        check(path)


@pytest.mark.shared
def test_a_radiograph_of_either_polarity_is_the_same_picture(shared_data):
    # the second is the first with its header changed to MONOCHROME1: as displayed, its negative
    first, second = (
        DicomReader().get_data([str(shared_data("dicom_variety") / "files" / name)])[0]
        for name in ("CR_1.850819.dcm", "CR__MONOHR1.dcm")
    )
    np.testing.assert_array_equal(second, 255 - first)


@pytest.mark.parametrize("name", ["SC_rgb_dcmtk_+eb+cy+np.dcm", "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_dcmtk_+eb+cr.dcm"])
def test_a_jpeg_inside_is_the_picture_that_pillow_sees(name):
    ds = pydicom.dcmread(SAMPLES / name)
    stream = next(generate_frames(ds.PixelData, number_of_frames=1))
    with Image.open(BytesIO(stream)) as image:
        expected = np.asarray(image.convert("RGB"))
    array, _ = DicomReader().get_data([str(SAMPLES / name)])
    np.testing.assert_allclose(array, np.swapaxes(expected, 0, 1), atol=4)  # decoders of lossy JPEG differ a little
