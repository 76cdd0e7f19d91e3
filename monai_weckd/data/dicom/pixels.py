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

"""Decode DICOM pixel data into modality values or RGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.uid import UID, RLELossless

from monai_weckd.data.dicom.codestream import check_codestreams, check_frames
from monai_weckd.data.dicom.errors import DicomReadError
from monai_weckd.data.dicom.header import frame_module, frame_size, numbers, standard_name
from monai_weckd.data.dicom.padding import check_sharp, is_padding
from monai_weckd.utils.budget import claim

__all__ = ["Window", "picture_frames"]

Window = str | tuple[float, float] | None

# bytes of a sample: of each frame, as float64 or as three palette entries; of the one that is worked on, in all forms
_AS_VALUES, _WHILE_DECODED = 8, 40
_MOST_ENTRIES = 65536  # of a palette (PS3.3 C.7.6.3.1.5)
_NO_RESCALE = {"RescaleSlope": 1, "RescaleIntercept": 0}
_LARGEST = 1e20  # slope or intercept, so that 64 stored bits stay finite in float32


def picture_frames(dataset: Dataset, window: Window = None) -> list[np.ndarray]:
    """Decode an image into modality values or RGB, in which high values are bright.

    Gray values are stored values after the modality table or rescale (PS3.3 C.11.1), each frame with its own;
    MONOCHROME1 is then inverted, so that bright always means MONOCHROME2. Palettes and YBR become RGB in 0..255;
    colors of more bits lose the low ones.

    Args:
        dataset: what :py:func:`~monai_weckd.data.dicom.header.read_dicom` gave.
        window: ``None`` keeps modality values, ``"dicom"`` applies the window or VOI table of the header, and
            ``(center, width)`` that window, all to 0..1. Gray images only. Defaults to ``None``.

    Returns:
        One array ``(rows, columns)`` or ``(rows, columns, 3)`` for each frame, as stored, or float. If some of a
        frame is padding by its header, it is masked.

    Raises:
        DicomReadError: When no decoder is installed, the color model or the position of the stored bits is unknown,
            or ``window`` does not fit.
    """
    claim(_frames_bytes(dataset))
    frames, info = _decode(dataset)
    photometric = info["photometric_interpretation"]
    if photometric in ("MONOCHROME1", "MONOCHROME2") and frames.ndim == 3:
        return [_gray_frame(stored, dataset, k, info, window) for k, stored in enumerate(frames)]
    if window is not None:
        raise DicomReadError(f"window: expected a gray image, got {_model(photometric)}. Pass window=None.")
    if photometric == "PALETTE COLOR" and frames.ndim == 3:
        return [_palette_colors(stored, dataset) for stored in frames]
    if photometric == "RGB" and frames.ndim == 4:
        return list(_colors_in_8_bits(frames, info))
    raise DicomReadError(
        f"PhotometricInterpretation: expected gray, palette, RGB or YBR, got {_model(photometric)}. Convert it."
    )


def _frames_bytes(dataset: Dataset) -> int:
    """Return how many bytes the frames of an image take at most until they are given, what is compressed left out."""
    allocated, frame = -(-int(dataset.get("BitsAllocated") or 8) // 8), frame_size(dataset)
    return frame * (int(dataset.get("NumberOfFrames") or 1) * (2 * allocated + _AS_VALUES) + _WHILE_DECODED)


def _colors_in_8_bits(frames: np.ndarray, info: dict[str, Any]) -> np.ndarray:
    if info["pixel_representation"]:
        raise DicomReadError("PixelRepresentation: expected colors without a sign, got 1. Repair the header.")
    return frames >> max(info["bits_stored"] - 8, 0)


def _model(photometric: str) -> str:
    """Return the name of a color model of the standard, else "an unknown one": it may be any text of a header."""
    known = {model.value for model in PhotometricInterpretation}
    return photometric if photometric in known else "an unknown one"


def _decode(dataset: Dataset) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the stored values ``(frames, rows, columns[, 3])``, YBR as RGB, and how they are to be read."""
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not syntax:
        raise DicomReadError("expected a transfer syntax in the file's meta header, got none. Repair the file.")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise DicomReadError(f"expected {_other_syntax(syntax)} data. Convert the file.") from None
    if not decoder.is_available:
        raise DicomReadError(f'no decoder for {syntax.name} is installed. Run: pip install "monai-weckd[dicom]"')
    below = _bits_below(dataset, is_packed=syntax.is_encapsulated and syntax != RLELossless)
    # corrections where the stream, or the place of its bits, contradicts the header
    options: dict[str, Any] = {"photometric_interpretation": check_codestreams(dataset)}
    if below:
        options["bits_stored"] = dataset.HighBit + 1
    options = {name: value for name, value in options.items() if value is not None}
    frames, info = decoder.as_array(dataset, allow_excess_frames=False, **options)  # type: ignore[arg-type]
    if below:
        if (frames & (2**below - 1)).any():
            raise DicomReadError(
                f"HighBit: expected zeros in the {below} bits below the stored ones, got others. Repair the header."
            )
        frames, info["bits_stored"] = frames >> below, dataset.BitsStored
    if syntax.is_encapsulated:
        _check_range(frames, int(info["bits_stored"]))
    elif data := dataset.get("PixelData"):
        # of two samples that are stored for each pixel, three become
        is_half = info["samples_per_pixel"] == 3 and "422" in str(dataset.get("PhotometricInterpretation"))
        stored, count = frames.nbytes * 2 // 3 if is_half else frames.nbytes, int(info["number_of_frames"])
        check_frames(len(data) * count // max(stored, 1), count)
    return (frames[None] if info["number_of_frames"] == 1 else frames), info


def _check_range(frames: np.ndarray, bits: int) -> None:
    """Refuse values of a compressed stream that the header says it cannot have: one of them is wrong."""
    low = -(2 ** (bits - 1)) if frames.dtype.kind == "i" else 0
    ends = int(frames.min()), int(frames.max())
    if frames.dtype.kind in "iu" and (ends[0] < low or ends[1] >= low + 2**bits):
        raise DicomReadError(
            f"BitsStored: expected values of {bits} bits, got {ends[0]} to {ends[1]}. Repair the header."
        )


def _other_syntax(syntax: UID) -> str:
    """Describe pixel data for which there is no decoder."""
    name = standard_name(syntax)
    if "MPEG" in name or "HEVC" in name:
        return f"a still image, got {name}"
    if name == "unknown" and syntax.is_valid and syntax.count(".") > 3:
        name = f"private ({syntax})"
    return f"a transfer syntax that can be decoded, got {name}"


def _bits_below(dataset: Dataset, *, is_packed: bool) -> int:
    """Return how many bits of a pixel lie below the stored ones (PS3.5 8.1.1); 0 in nearly every file."""
    stored, high = dataset.get("BitsStored"), dataset.get("HighBit")
    if stored is None or high is None or high == stored - 1 or "PixelData" not in dataset:
        return 0
    if is_packed or not stored <= high < dataset.BitsAllocated:
        raise DicomReadError(f"HighBit: expected {stored - 1} for {stored} stored bits, got {high}. Repair the header.")
    return int(high + 1 - stored)


def _gray_frame(stored: np.ndarray, dataset: Dataset, frame: int, info: dict[str, Any], window: Window) -> np.ndarray:
    """Apply modality, window and polarity to one frame, and mask its padding."""
    padded = is_padding(stored, dataset, info.get("bits_stored", 0))
    values = _bright_values(stored, dataset, frame, info, window)
    if padded is None or not padded.any():
        return values
    check_sharp(stored, padded, values, dataset)
    # as float, so that padding can take any value of the rest of the image
    return np.ma.MaskedArray(values.astype(np.float32), padded)


def _bright_values(
    stored: np.ndarray, dataset: Dataset, frame: int, info: dict[str, Any], window: Window
) -> np.ndarray:
    """Apply modality, window and polarity, in the order of PS3.4 N.2, to one frame."""
    inverted = info["photometric_interpretation"] == "MONOCHROME1"
    values = _modality_values(stored, dataset, frame)
    if window is not None:
        values = _window_values(values, dataset, frame, window)
        return 1.0 - values if inverted else values
    if not inverted:
        return values
    # mirrored within the range that the stored bits can hold, so that a series stays consistent
    bits, signed = info["bits_stored"], info["pixel_representation"]
    darkest = -(2.0 ** (bits - 1)) if signed else 0.0
    ends = _modality_values(np.array([darkest, darkest + 2.0**bits - 1.0]), dataset, frame)
    return float(ends[0]) + float(ends[1]) - values


def _modality_values(stored: np.ndarray, dataset: Dataset, frame: int) -> np.ndarray:
    """Apply the modality table, or rescale slope and intercept, of one frame (PS3.3 C.11.1)."""
    if tables := dataset.get("ModalityLUTSequence"):
        if len(tables) > 1:
            raise DicomReadError(f"modality table: expected one, got {len(tables)}. Repair the header.")
        if any(dataset.get(keyword) not in (None, same) for keyword, same in _NO_RESCALE.items()):
            raise DicomReadError("rescale: expected it or a modality table, got both. Repair the header.")
        entries, first, _ = _table(tables[0], dataset)
        return _look_up(stored, entries, first)
    module = frame_module(dataset, frame, "PixelValueTransformationSequence")
    slope, intercept = (numbers(module, keyword, 1) for keyword in ("RescaleSlope", "RescaleIntercept"))
    scale, offset = (1.0 if slope is None else float(slope[0])), (0.0 if intercept is None else float(intercept[0]))
    if scale == 0.0 or max(abs(scale), abs(offset)) > _LARGEST:
        raise DicomReadError(
            f"rescale: expected a usable slope and intercept, got {scale:g} and {offset:g}. Repair them."
        )
    if scale == 1.0 and offset == 0.0:
        return stored
    # 16 stored bits fit into float32; more would be rounded before they are scaled
    values = stored.astype(np.float32 if stored.dtype.itemsize <= 2 else np.float64)
    values *= scale
    values += offset
    return values


def _window_values(values: np.ndarray, dataset: Dataset, frame: int, window: Window) -> np.ndarray:
    """Apply a window or VOI table (PS3.3 C.11.2) to modality values, and give it in 0..1."""
    if isinstance(window, tuple):
        return _ramp(values, *window)
    module = frame_module(dataset, frame, "FrameVOILUTSequence")
    if module.get("VOILUTSequence"):
        entries, first, bits = _table(module.VOILUTSequence[0], dataset)
        if not (1 <= bits <= 16 and entries.max() < 2**bits):
            raise DicomReadError(
                f"VOI table: expected entries of 1 to 16 bits, got up to {entries.max()} in {bits}. Repair the header."
            )
        return _look_up(values, entries, first) / (2.0**bits - 1.0)
    if module.get("WindowCenter") is None or module.get("WindowWidth") is None:
        raise DicomReadError("window: expected a window in the header, got none. Pass window=(center, width) or None.")
    # the first of several views is the default one
    center, width = (float(np.atleast_1d(module[keyword].value)[0]) for keyword in ("WindowCenter", "WindowWidth"))
    function = str(module.get("VOILUTFunction") or "LINEAR")
    if function == "LINEAR" and width >= 1:
        return _ramp(values, center - 0.5, width - 1.0)
    if function == "LINEAR_EXACT" and width > 0:
        return _ramp(values, center, width)
    if function == "SIGMOID" and width > 0:
        return 0.5 + 0.5 * np.tanh(2.0 * (values - center) / width)  # the same curve, which cannot overflow
    raise DicomReadError("window: expected a valid one in the header, got another. Pass window=(center, width).")


def _ramp(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Map ``center -+ width / 2`` to 0..1 and clip; no width is a step (PS3.3 C.11.2.1.2)."""
    if width == 0:
        return (values > center).astype(np.float32)
    return np.clip((values.astype(np.float64) - center) / width + 0.5, 0.0, 1.0)


def _palette_colors(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """Look palette indices up (PS3.3 C.7.6.3.1.5) and return RGB in 0..255.

    Of 16-bit entries, only the high byte is used; the low byte is padding. So the result equals the picture saved as
    RGB.
    """
    if "RedPaletteColorLookupTableData" not in dataset:
        for color in ("Red", "Green", "Blue"):
            _check_segments(dataset[f"Segmented{color}PaletteColorLookupTableData"].value, dataset)
        colors = apply_color_lut(stored, dataset)[..., :3]
        return colors >> 8 if colors.dtype.itemsize == 2 else colors
    tables = []
    for color in ("Red", "Green", "Blue"):
        size, first, _ = _descriptor(dataset[f"{color}PaletteColorLookupTableDescriptor"].value)
        tables.append(_entries(dataset[f"{color}PaletteColorLookupTableData"].value, size, dataset))
    shift = 8 if max(int(entries.max()) for entries in tables) > 255 else 0
    return np.stack([_look_up(stored, entries >> shift, first) for entries in tables], axis=-1)


def _check_segments(data: bytes, dataset: Dataset) -> None:
    """Refuse a segmented palette of more entries than a palette can have, before pydicom expands it."""
    is_wide = _descriptor(dataset.RedPaletteColorLookupTableDescriptor)[2] > 8
    order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
    kind = np.dtype(f"{order}u2" if is_wide else "u1")
    values = np.frombuffer(data[: len(data) // kind.itemsize * kind.itemsize], kind).astype(np.int64)
    if _expanded(values, 0, 0, copied=False, is_wide=is_wide, order=order) > _MOST_ENTRIES:
        raise DicomReadError(f"segmented palette: expected at most {_MOST_ENTRIES} entries, got more. Convert it.")


def _expanded(values: np.ndarray, at: int, segments: int, *, copied: bool, is_wide: bool, order: str) -> int:
    """Return how many entries the segments from a place expand to (PS3.3 C.7.9.2), or more than a palette can have.

    Args:
        values: the palette.
        at: the place.
        segments: how many segments, 0 for all.
        copied: whether another segment copies these, which then must not copy others.
        is_wide: whether entries have 16 bits.
        order: byte order.

    """
    total, seen = 0, 0
    while at + 1 < len(values) and total <= _MOST_ENTRIES and seen <= _MOST_ENTRIES:
        opcode, length = int(values[at]), int(values[at + 1])
        at += 2
        if opcode != 2:
            total += length
            at += length if opcode == 0 else 1
        elif copied:
            return _MOST_ENTRIES + 1
        else:
            parts = values[at : at + (2 if is_wide else 4)].tolist()
            parts = parts if is_wide else [parts[0] | parts[1] << 8, parts[2] | parts[3] << 8]
            low, high = parts if is_wide or order == "<" else parts[::-1]
            total += _expanded(values, high << 16 | low, length, copied=True, is_wide=is_wide, order=order)
            at += 2 if is_wide else 4
        seen += 1
        if seen == segments:
            return total
    return total if seen <= _MOST_ENTRIES else _MOST_ENTRIES + 1


def _table(item: Dataset, dataset: Dataset) -> tuple[np.ndarray, int, int]:
    """Return the entries of a modality or VOI table, the value its first entry stands for, and its bits."""
    size, first, bits = _descriptor(item.LUTDescriptor)
    return _entries(item.LUTData, size, dataset), first, bits


def _descriptor(values: Any) -> tuple[int, int, int]:
    """Return number of entries (0 means 65536), first value mapped, and bits (PS3.3 C.11.1.1)."""
    size, first, bits = (int(value) for value in values)
    return size % 65536 or 65536, first, bits


def _entries(data: Any, size: int, dataset: Dataset) -> np.ndarray:
    """Return table entries that came as numbers or as 16-bit words, one or two entries to a word."""
    if isinstance(data, bytes):
        little = dataset.file_meta.TransferSyntaxUID.is_little_endian
        words = np.frombuffer(data, dtype="<u2" if little else ">u2").astype("<u2")
        entries = words if len(words) >= size else words.view(np.uint8)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.uint16))
    if len(entries) < size:
        raise DicomReadError(f"lookup table: expected {size} entries, got {len(entries)}. Repair the header.")
    return entries[:size]


def _look_up(values: np.ndarray, entries: np.ndarray, first: int) -> np.ndarray:
    """Return ``entries[values - first]``; values beyond an end take the entry at that end.

    Files without value representations, and some with them, do not say whether the 16 bits of ``first`` have a sign
    (PS3.3 C.11.2.1.1): the values decide.
    """
    low, high = float(values.min()), float(values.max())
    firsts = first % 65536, (first + 32768) % 65536 - 32768
    first = max(
        firsts if low >= 0 else firsts[::-1],
        key=lambda start: min(high, start + len(entries) - 1) - max(low, start),
    )
    index = np.rint(values).astype(np.int64) - first
    return entries[np.clip(index, 0, len(entries) - 1)]
