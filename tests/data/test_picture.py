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
from PIL import Image

from monai_weckd.transforms.load import LoadMedicalImage

RNG = np.random.default_rng(0)


GRAY = RNG.integers(0, 256, (5, 7), dtype=np.uint8)


COLOR = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)


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


def deep_png(path, kind, samples, *chunks):
    """Write 16-bit PNG, which Pillow does only for gray; kind 4 is gray with alpha, 2 color, 6 color with alpha."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    parts = [b"\x89PNG\r\n\x1a\n"]
    for name, data in (
        (b"IHDR", struct.pack(">IIBBBBB", 7, 5, 16, kind, 0, 0, 0)),
        *chunks,
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ):
        parts += [struct.pack(">I", len(data)), name, data, struct.pack(">I", zlib.crc32(name + data))]
    path.write_bytes(b"".join(parts))
    return path


@pytest.mark.parametrize(("kind", "count"), [(2, 3), (6, 4)])
def test_16_bit_color_is_read_as_8_bit(tmp_path, kind, count):
    deep = RNG.integers(0, 65536, (5, 7, count), dtype=np.uint16)
    array = LoadMedicalImage()(deep_png(tmp_path / "a.png", kind, deep))
    np.testing.assert_array_equal(array, deep[..., :3].transpose(2, 1, 0) >> 8)


DEEP_GRAY = {
    "opaque": (4, lambda gray: np.stack([gray, np.full_like(gray, 65535)], -1), ()),
    "transparent": (4, lambda gray: np.stack([gray, np.zeros_like(gray)], -1), ()),
    "half": (4, lambda gray: np.stack([gray, gray[::-1]], -1), ()),
    "12 bits": (4, lambda gray: np.stack([gray >> 4, gray], -1), ()),
    "transparent color": (0, lambda gray: gray[..., None], ((b"tRNS", b"\0\5"),)),
    "gamma and physical size": (
        4,
        lambda gray: np.stack([gray, gray], -1),
        ((b"gAMA", struct.pack(">I", 45455)), (b"pHYs", struct.pack(">IIB", 2, 1, 1))),
    ),
}


@pytest.mark.parametrize(("kind", "samples", "chunks"), DEEP_GRAY.values(), ids=DEEP_GRAY)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_16_bit_gray_keeps_its_values_beside_alpha(tmp_path, channels, kind, samples, chunks):
    deep = samples(RNG.integers(0, 65536, (5, 7), dtype=np.uint16))
    array = LoadMedicalImage(channels)(deep_png(tmp_path / "a.png", kind, deep, *chunks))
    np.testing.assert_array_equal(array, np.repeat(deep[..., 0].T[None], channels or 1, axis=0))


def tiff(path, planes, *, bits, samples=1, order="<", more=()):
    """Write an uncompressed TIFF of 7 x 5 pixels, planes apart if there are several; more are (tag, values)."""
    data, entries = b"".join(planes), b""
    starts = [8 + sum(len(plane) for plane in planes[:k]) for k in range(len(planes))]
    tags = {256: [7], 257: [5], 258: [bits] * samples, 259: [1], 262: [1], 273: starts, 277: [samples], 278: [5]}
    tags |= {279: [len(plane) for plane in planes], 284: [2 if len(planes) > 1 else 1], **dict(more)}
    for tag, values in sorted(tags.items()):
        content = struct.pack(f"{order}{len(values)}H", *values)
        place = content.ljust(4, b"\0") if len(content) <= 4 else struct.pack(f"{order}I", 8 + len(data))
        data += content if len(content) > 4 else b""
        entries += struct.pack(f"{order}HHI", tag, 3, len(values)) + place
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8 + len(data))
    path.write_bytes(head + data + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_color_tiff_is_right_or_refused(tmp_path, order, planar, bits):
    pixels = RNG.integers(0, 2**bits, (5, 7, 3)).astype(f"{order}u{bits // 8}")
    planes = [pixels[..., k].tobytes() for k in range(3)] if planar else [pixels.tobytes()]
    path = tiff(tmp_path / "a.tif", planes, bits=bits, samples=3, order=order, more=[(262, [2])])
    if planar and bits == 16:
        with pytest.raises(
            ValueError, match=r"a\.tif: expected a gray or RGB picture, got separate planes of 3 samples"
        ):
            LoadMedicalImage()(path)
    else:
        np.testing.assert_array_equal(LoadMedicalImage()(path), pixels.transpose(2, 1, 0) >> (bits - 8))


WORDS, BYTES = DEEP.astype("<u2").tobytes(), GRAY.tobytes()


REFUSED_TIFF = {
    "white is zero, 16 bits": (WORDS, 16, [(262, [0])], "TIFF of photometric interpretation 0"),
    "signed, 8 bits": (BYTES, 8, [(339, [2])], r"TIFF of photometric interpretation 1, sample format \[2\]"),
    "fill order, 16 bits": (WORDS, 16, [(266, [2])], "fill order 2 of 16 bits"),
    "12 bits": (BYTES * 2, 12, [], r"TIFF of .* bits \[12\]"),
    "predictor, not compressed": (BYTES, 8, [(317, [2])], "a predictor with compression 1"),
    "predictor, PackBits": (
        b"".join(bytes([6]) + row.tobytes() for row in GRAY),
        8,
        [(259, [32773]), (317, [2])],
        "a predictor with compression 32773",
    ),
    "14 bits": (BYTES * 2, 14, [], ""),
    "5 samples": (BYTES * 5, 8, [(258, [8] * 5), (277, [5])], ""),
    "mask": (BYTES, 8, [(262, [4])], ""),
    "color filter": (BYTES, 8, [(262, [32803])], ""),
    "inks, 16 bits": (WORDS * 4, 16, [(262, [5]), (258, [16] * 4), (277, [4])], "TIFF of photometric interpretation 5"),
    "depth": (BYTES, 8, [(32997, [3])], "a volume of depth 3"),
    "color map of bytes": (BYTES, 8, [(262, [3]), (320, [*range(256)] * 3)], "a color map of 8 bits in 16"),
}


@pytest.mark.parametrize(("data", "bits", "more", "reason"), REFUSED_TIFF.values(), ids=REFUSED_TIFF)
def test_a_tiff_that_is_not_known_to_be_read_rightly_is_refused(tmp_path, data, bits, more, reason):
    path = tiff(tmp_path / "a.tif", [data], bits=bits, more=more)
    told = rf"expected a gray or RGB picture, got {reason}.*\. Convert it\."
    with pytest.raises(
        ValueError, match=rf"a\.tif: {told if reason else 'cannot be decoded .its header is damaged or'}"
    ):
        LoadMedicalImage()(path)


@pytest.mark.parametrize(
    ("stored", "more", "expected"),
    [
        (GRAY, [(262, [0])], 255.0 - GRAY),
        (DEEP.astype("<i2"), [(339, [2])], DEEP.astype("<i2")),
        (DEEP.astype("<u4") << 16, [], DEEP * 65536.0),
        (DEEP.astype("<i4") - 40000, [(339, [2])], DEEP - 40000.0),
    ],
    ids=["white is zero", "signed, 16 bits", "unsigned, 32 bits", "signed, 32 bits"],
)
def test_a_gray_tiff_has_its_values(tmp_path, stored, more, expected):
    path = tiff(tmp_path / "a.tif", [stored.tobytes()], bits=8 * stored.itemsize, more=more)
    np.testing.assert_array_equal(LoadMedicalImage()(path)[0], expected.T.astype(np.float32))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("kind", [0, 3])
def test_png_of_few_bits_is_scaled_or_looked_up(tmp_path, bits, transparent, kind):
    values = RNG.integers(0, 2**bits, (5, 8))
    colors = RNG.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    packed = np.packbits(((values[..., None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8).reshape(5, -1), axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 5, bits, kind, 0, 0, 0))]
    chunks += [(b"PLTE", colors.tobytes())] if kind else []
    chunks += [(b"tRNS", b"\0\1")] if transparent else []
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in packed))), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    expected = colors[values].transpose(2, 1, 0) if kind else values.T[None] * (255 // (2**bits - 1))
    np.testing.assert_array_equal(LoadMedicalImage()(tmp_path / "a.png"), expected)


def bitmap(path, pixels, bits, *, masks=(), upside_down=True):
    """Write a bitmap of rows of bytes."""
    rows = [row.tobytes() + b"\0" * (-len(row.tobytes()) % 4) for row in (pixels[::-1] if upside_down else pixels)]
    fields, start = struct.pack(f"<{len(masks)}I", *masks), 54 + 4 * len(masks)
    size = (40, 7, 5 if upside_down else -5, 1, bits, 3 if masks else 0)
    head = struct.pack("<IiiHHIIiiII", *size, sum(map(len, rows)), 0, 0, 0, 0)
    path.write_bytes(
        b"BM" + struct.pack("<IHHI", start + sum(map(len, rows)), 0, 0, start) + head + fields + b"".join(rows)
    )
    return path


@pytest.mark.parametrize("upside_down", [True, False])
@pytest.mark.parametrize("kind", ["24", "32 without alpha", "565", "555"])
def test_bitmaps_have_their_colors(tmp_path, kind, upside_down):
    reverse = COLOR[..., ::-1]
    red, green, blue = np.moveaxis(COLOR.astype("<u2"), -1, 0)
    pixels, bits, masks, error = {
        "24": (reverse, 24, (), 0),
        "32 without alpha": (np.concatenate([reverse, np.zeros((5, 7, 1), np.uint8)], axis=-1), 32, (), 0),
        "565": ((red >> 3) << 11 | (green >> 2) << 5 | blue >> 3, 16, (0xF800, 0x7E0, 0x1F), 8),
        "555": ((red >> 3) << 10 | (green >> 3) << 5 | blue >> 3, 16, (), 8),
    }[kind]
    path = bitmap(tmp_path / "a.bmp", pixels, bits, masks=masks, upside_down=upside_down)
    np.testing.assert_allclose(LoadMedicalImage()(path), COLOR.transpose(2, 1, 0), atol=error)


def test_cmyk_jpeg_needs_the_marker_that_tells_its_polarity(tmp_path):
    ink = Image.fromarray(np.full((16, 16, 4), [0, 200, 100, 20], np.uint8), "CMYK")
    ink.save(tmp_path / "a.jpg", quality=98)
    content = (tmp_path / "a.jpg").read_bytes()
    np.testing.assert_allclose(
        LoadMedicalImage()(tmp_path / "a.jpg")[:, 4, 4], ink.convert("RGB").getpixel((4, 4)), atol=3
    )
    start = content.index(b"\xff\xee")
    (tmp_path / "a.jpg").write_bytes(content[:start] + content[start + 16 :])
    with pytest.raises(ValueError, match=r"a\.jpg: expected a gray or RGB picture, got CMYK without an Adobe marker"):
        LoadMedicalImage()(tmp_path / "a.jpg")
