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

import struct
import zlib

import numpy as np
import pytest
import torch
from monai.transforms import LoadImage
from PIL import Image

from monai_weckd.transforms.load import LoadMedicalImage

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp"])
@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "color"])
def test_a_picture_is_that_of_monai(tmp_path, suffix, pixels):
    Image.fromarray(pixels).save(tmp_path / f"a.{suffix}")
    image = LoadMedicalImage()(tmp_path / f"a.{suffix}")
    expected = LoadImage(reader="PILReader", ensure_channel_first=True)(tmp_path / f"a.{suffix}")
    assert image.dtype == torch.float32
    assert image.shape == expected.shape == (3 if pixels.ndim == 3 else 1, 7, 5)
    assert torch.equal(image.as_tensor(), expected.as_tensor())


def palette_of(colors):
    image = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2), mode="P")
    image.putpalette(np.asarray(colors, np.uint8).ravel().tolist())
    return image


RED_TO_WHITE = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]
WITH_ALPHA = RNG.integers(0, 256, (5, 7, 4), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (5, 7), dtype=np.uint16)
MODES = {
    "1 bit": ("a.png", Image.fromarray(GRAY > 128), 255.0 * (GRAY > 128)),
    "gray and alpha": ("a.png", Image.fromarray(WITH_ALPHA[..., :2], mode="LA"), WITH_ALPHA[..., 0]),
    "color and alpha": ("a.png", Image.fromarray(WITH_ALPHA), WITH_ALPHA[..., :3]),
    "palette": ("a.png", palette_of(RED_TO_WHITE), np.reshape(RED_TO_WHITE, (2, 2, 3))),
    "CMYK": ("a.tif", Image.fromarray(np.full((2, 2, 4), [255, 0, 0, 0], np.uint8), "CMYK"), [[[0, 255, 255]] * 2] * 2),
    "16 bits, PNG": ("a.png", Image.fromarray(DEEP), DEEP),
    "16 bits, TIFF": ("a.tif", Image.fromarray(DEEP), DEEP),
    "16 bits, big endian": ("a.tif", Image.frombytes("I;16B", (7, 5), DEEP.astype(">u2").tobytes()), DEEP),
    "32 bits": ("a.tif", Image.fromarray(DEEP.astype(np.int32) * 8), DEEP * 8.0),
    "float": ("a.tif", Image.fromarray(DEEP / np.float32(7)), DEEP / np.float32(7)),
}


@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
@pytest.mark.parametrize("case", MODES)
def test_each_mode_is_gray_or_rgb(tmp_path, case):
    name, image, expected = MODES[case]
    image.save(tmp_path / name)
    array = LoadMedicalImage()(tmp_path / name).numpy()
    expected = np.asarray(expected, dtype=np.float32)
    np.testing.assert_array_equal(array, expected.T[None] if expected.ndim == 2 else expected.transpose(2, 1, 0))


# what a viewer does with a stored picture, by the EXIF orientation (Exif 2.3, 4.6.4 A)
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("suffix", "options"), [("png", {}), ("jpg", {}), ("tif", {}), ("tif", {"compression": "tiff_lzw"})]
)
def test_a_picture_is_turned_as_viewers_turn_it(tmp_path, orientation, suffix, options):
    stored = np.zeros((40, 56), np.uint8)
    stored[:20, :28] = 255  # flat, so that JPEG keeps it
    stored[20:, :28] = 128
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, **options)
    array = LoadMedicalImage()(tmp_path / f"a.{suffix}")[0].numpy()
    assert array.shape == UPRIGHT[orientation](stored).T.shape
    assert np.abs(array - UPRIGHT[orientation](stored).T).mean() < 3


def test_of_a_cameras_mpo_the_main_picture_is_taken(tmp_path):
    main, preview = np.full((40, 56, 3), 200, np.uint8), np.full((4, 6, 3), 9, np.uint8)
    Image.fromarray(main).save(
        tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(preview)]
    )
    with Image.open(tmp_path / "a.jpg") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    np.testing.assert_allclose(LoadMedicalImage()(tmp_path / "a.jpg"), np.full((3, 56, 40), 200), atol=2)


def test_16_bit_color_is_read_as_8_bit(tmp_path):
    deep = RNG.integers(0, 65536, (5, 7, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)  # Pillow cannot write this
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    (tmp_path / "a.png").write_bytes(b"".join(parts))
    np.testing.assert_array_equal(LoadMedicalImage()(tmp_path / "a.png"), deep.transpose(2, 1, 0) >> 8)
