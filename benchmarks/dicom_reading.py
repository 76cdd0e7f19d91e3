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

"""Time DicomReader against MONAI's PydicomReader on the same files."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from monai.data import PydicomReader
from monai.transforms import LoadImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RLELossless, generate_uid

from monai_weckd.data.dicom.reader import DicomReader

DESCRIPTION = """Time DicomReader against MONAI's PydicomReader on the same files, in turns, and print medians as JSON.
Both run inside LoadImage, down to the float32 tensor. A ratio below 1 means that DicomReader is faster."""


def ct_slice(pixels: np.ndarray, height: float, series_uid: str) -> Dataset:
    """Return a CT slice as scanners write it: 12 bits in 16, rescale, geometry, and some forty other elements."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = CTImageStorage, generate_uid(), series_uid
    ds.Modality, ds.InstanceNumber = "CT", round(height) + 1
    ds.ImagePositionPatient, ds.ImageOrientationPatient = [-100, -100, height], [1, 0, 0, 0, 1, 0]
    ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.WindowCenter, ds.WindowWidth = 1, -1024, 40, 400
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = pixels.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    block = ds.private_block(0x0043, "BENCHMARK", create=True)
    for element in range(40):
        block.add_new(element, "LO", f"value {element}")
    ds.PixelData = pixels.tobytes()
    ds["PixelData"].VR = "OW"
    return ds


def write_files(folder: Path, slices: int, size: int) -> dict[str, Path]:
    """Write the series and the single files, and return them by name."""
    rng, uid = np.random.default_rng(0), generate_uid()
    y, x = np.mgrid[:size, :size] / size
    (folder / "series").mkdir()
    for k in range(slices):
        pixels = (1500 + 1000 * np.sin(9 * x + k / 10) * np.cos(7 * y) + rng.normal(0, 20, (size, size))).astype(
            np.uint16
        )
        ct_slice(pixels, float(k), uid).save_as(folder / "series" / f"{k:04d}.dcm", enforce_file_format=True)
    single = ct_slice(pixels, 0.0, uid)
    single.save_as(folder / "slice.dcm", enforce_file_format=True)
    single.compress(RLELossless)
    single.save_as(folder / "rle.dcm", enforce_file_format=True)
    return {
        f"series of {slices} slices": folder / "series",
        "one slice": folder / "slice.dcm",
        "one slice, RLE": folder / "rle.dcm",
    }


def seconds(load: Callable[[Path], torch.Tensor], path: Path, repeats: int) -> float:
    """Return the mean time of a few loads, enough of them for the clock."""
    start = time.perf_counter()
    for _ in range(repeats):
        load(path)
    return (time.perf_counter() - start) / repeats


def compare(path: Path, rounds: int, repeats: int) -> dict[str, float]:
    """Return the median seconds of both readers, taken in turns, and their ratio."""
    loads = {"DicomReader": LoadImage(reader=DicomReader()), "PydicomReader": LoadImage(reader=PydicomReader())}
    images = [load(path) for load in loads.values()]  # also the warm-up
    if not torch.equal(*(image.as_tensor() for image in images)):
        raise SystemExit(f"{path}: the readers disagree, so their times cannot be compared")
    times: dict[str, list[float]] = {name: [] for name in loads}
    for k in range(rounds):
        for name in list(loads)[:: 1 if k % 2 else -1]:
            times[name].append(seconds(loads[name], path, repeats))
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {**medians, "ratio": medians["DicomReader"] / medians["PydicomReader"]}


def main() -> None:
    """Write the files into a temporary folder, time both readers and print JSON."""
    parser = argparse.ArgumentParser(description=DESCRIPTION)
    parser.add_argument("--rounds", type=int, default=9, help="rounds of both readers in turns; the median counts")
    parser.add_argument("--slices", type=int, default=100)
    parser.add_argument("--size", type=int, default=512, help="rows and columns")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("monai").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder), args.slices, args.size)
        results = {name: compare(path, args.rounds, 1 if path.is_dir() else 20) for name, path in files.items()}
    print(json.dumps({"threads": torch.get_num_threads(), "size": args.size, "results": results}, indent=4))


if __name__ == "__main__":
    main()
