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

"""Files that are small and claim, or become, very large ones; and a process that reads them and tells its peak."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from dicom_files import dicom_dataset
from nibabel.nifti2 import Nifti2Header
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

ROOT = Path(__file__).resolve().parents[1]
PIECE = 2**20
ZEROS = 2**27

# read in a process of its own: what it took beyond what it had, in bytes, and what it says of each file
READER = """
import json, sys, warnings
from concurrent.futures import ThreadPoolExecutor
warnings.simplefilter("ignore")
from monai_weckd.data import load_datalist, read_classification_sr
from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.npz import map_array
from monai_weckd.pacs.send import list_reports
from monai_weckd.transforms import LoadMedicalImage

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) * 1024

def read(path, way):
    try:
        if way == "archive":
            load_datalist(path)
        elif way == "extract":
            map_array(path, "train_images")
        elif way == "report":
            read_classification_sr(path)
        elif way == "header":
            read_header(path, "StudyInstanceUID", "WindowWidth")
        elif way == "send":
            from pathlib import Path
            from monai_weckd.pacs.send import _read
            _read(Path(path))
        else:
            LoadMedicalImage(int(way) if way else None)(path)
    except ValueError as error:
        return str(error)
    return "read"

small = sys.argv[2]
read(small, "")
for line in json.loads(sys.argv[1]):
    open("/proc/self/clear_refs", "w").write("5")
    before = status("VmRSS")
    with ThreadPoolExecutor(len(line)) as pool:
        said = list(pool.map(lambda one: read(*one), line))
    print(json.dumps([status("VmHWM") - before, said]), flush=True)
"""


def peaks(lines, small, *, budget, address_space=None):
    """Return for each line, files that are read at once as ``(path, way)``, the peak and what was said of each.

    Args:
        lines: the lines.
        small: an image to read first.
        budget: of memory.
        address_space: limit of the process, in bytes.

    """

    def limit():
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    command = [sys.executable, "-c", READER, json.dumps([[(str(path), way) for path, way in one] for one in lines])]
    environment = {**os.environ, "MONAI_WECKD_MEMORY": str(budget), "PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"}
    done = subprocess.run(
        [*command, str(small)],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=limit if address_space else None,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def element(tag: int, kind: bytes, value: bytes = b"", *, length: int | None = None) -> bytes:
    """Return an element with explicit VR, little endian."""
    length = len(value) if length is None else length
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF) + kind
    is_long = kind in (b"OB", b"OW", b"SQ", b"UN", b"UT")
    return head + (struct.pack("<HI", 0, length) if is_long else struct.pack("<H", length)) + value


def deflated(path: Path, content, *, padding: int = 0) -> None:
    """Write a DICOM file of deflated pieces, after a meta header that is long."""
    meta = element(0x20001, b"OB", bytes(padding)) + element(0x20002, b"UI", b"1.2.840.10008.5.1.4.1.1.7\0")
    meta += element(0x20010, b"UI", DeflatedExplicitVRLittleEndian.encode())
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM" + element(0x20000, b"UL", struct.pack("<I", len(meta))) + meta)
        for piece in content:
            file.write(deflater.compress(piece))
        file.write(deflater.flush())


def zeros(count: int = ZEROS):
    return (bytes(PIECE) for _ in range(count // PIECE))


def save(ds: Dataset, path: Path, syntax: str | None = None) -> None:
    if syntax:
        ds.compress(syntax)
    ds.save_as(path, enforce_file_format=True)


def item_of(count: int, *, closed: bool, tag: int = 0x52009230) -> bytes:
    """Return a sequence of many empty items."""
    items = b"\xfe\xff\x00\xe0\0\0\0\0" * count
    end = b"" if closed else b"\xfe\xff\xdd\xe0\0\0\0\0"
    return element(tag, b"SQ", items + end, length=len(items) if closed else 0xFFFFFFFF)


def with_items(path: Path, count: int, *, closed: bool) -> None:
    save(dicom_dataset(np.zeros((4, 4), np.uint8)), path)
    data = path.read_bytes()
    place = data.index(b"\xe0\x7f\x10\x00O")
    path.write_bytes(data[:place] + item_of(count, closed=closed) + data[place:])


def palette(path: Path, segments: list[int]) -> None:
    ds = dicom_dataset(np.zeros((4, 4), np.uint8), PhotometricInterpretation="PALETTE COLOR")
    for color in ("Red", "Green", "Blue"):
        setattr(ds, f"{color}PaletteColorLookupTableDescriptor", [0, 0, 16])
        setattr(ds, f"Segmented{color}PaletteColorLookupTableData", struct.pack(f"<{len(segments)}H", *segments))
    save(ds, path)


def nifti(path: Path, shape, kind, *, slope=1.0, start=352, content=None, header=nib.Nifti1Header) -> None:
    head = header()
    head.set_data_dtype(kind)
    head.set_data_shape(shape)
    head.set_slope_inter(slope, 1.0 if slope != 1 else 0.0)
    head["magic"], head["vox_offset"] = (b"n+1" if header is nib.Nifti1Header else b"n+2\0\r\n\x1a\n"), start
    with gzip.open(path, "wb", compresslevel=1) if path.suffix == ".gz" else path.open("wb") as file:
        file.write(head.binaryblock + bytes(4 if content is None else 0))
        for piece in zeros(2**24) if content is None else content:
            file.write(piece)


def tags_that_share(path: Path, *, count: int, size: int) -> None:
    """Write a TIFF of 4 x 4 pixels in which many tags have the same bytes of the file."""
    sound = {256: (3, 1, 4), 257: (3, 1, 4), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    sound |= {277: (3, 1, 1), 278: (3, 1, 4), 279: (4, 1, 16)}
    entries = sound | {40000 + number: (1, size, 8) for number in range(count)}
    data = struct.pack("<2sHI", b"II", 42, 8 + size) + bytes(size) + struct.pack("<H", len(entries))
    data += b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(entries.items()))
    path.write_bytes(data + bytes(4))


def npy(shape, *, kind: str = "|u1", size: int | None = None) -> bytes:
    """Return the header of an array; of a length that it does not need."""
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    if size is None:
        text = text.ljust(117) + b"\n"
        return b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text
    return b"\x93NUMPY\2\0" + struct.pack("<I", size) + text


def medmnist(path: Path, *, compression=zipfile.ZIP_DEFLATED, **members) -> None:
    """Write an archive of two images for each split; a member is given by pieces."""
    few = {"images": [npy((2, 8, 8)), bytes(128)], "labels": [npy((2, 1)), b"\0\1"]}
    with zipfile.ZipFile(path, "w", compression, compresslevel=1) as archive:
        for split in ("train", "val", "test"):
            for name, pieces in few.items():
                with archive.open(f"{split}_{name}.npy", "w", force_zip64=True) as file:
                    for piece in members.get(f"{split}_{name}", pieces):
                        file.write(piece)


def hostile_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Write files that would take far more than 64 MiB, and return path and way of reading of each by its name."""
    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS
    made: dict[str, tuple[Path, str]] = {}

    def new(name: str, suffix: str, way: str = "") -> Path:
        made[name] = folder / f"{name.replace(' ', '_')}{suffix}", way
        return made[name][0]

    wide = np.zeros((2500, 2500), np.uint16)
    private = element(0x7FDF0010, b"LO", b"AB"), element(0x7FDF1010, b"OB", length=ZEROS)
    save(dicom_dataset(wide, RescaleSlope="2", RescaleIntercept="1"), new("rle", ".dcm"), RLELossless)
    save(dicom_dataset(np.zeros((40, 500, 500), np.uint16)), new("frames", ".dcm"), RLELossless)
    save(dicom_dataset(np.zeros((2000, 2000, 3), np.uint8)), new("color", ".dcm", "1"), JPEG2000Lossless)
    save(dicom_dataset(np.zeros((8, 8), np.uint8), NumberOfFrames=9_000_000), new("claimed frames", ".dcm"))
    for way in ("", "report", "header", "send"):
        deflated(new(f"deflated {way}", ".dcm", way), [*private, *zeros()], padding=1500)
    items = item_of(2**20, closed=False)
    deflated(new("deflated items", ".dcm"), [items])
    deflated(new("deflated items of a report", ".dcm", "report"), [element(0x80060, b"CS", b"SR"), items])
    deflated(new("deflated items of a header", ".dcm", "header"), [item_of(2**20, closed=False, tag=0x81140)])
    with_items(new("items", ".dcm"), 300_000, closed=False)
    with_items(new("items of a known length", ".dcm"), 300_000, closed=True)
    palette(new("palette", ".dcm"), [0, 1, 5] + [1, 65535, 7] * 2000)
    palette(new("palette that copies", ".dcm"), [0, 1, 5, 1, 65535, 7] + [2, 2, 0, 0] * 2000)
    palette(new("palette that copies copies", ".dcm"), [0, 1, 5] + [2, 0, 0, 0] * 2000)

    nifti(new("bytes", ".nii.gz"), (512, 512, 512), np.uint8, content=[bytes(4), *zeros(2**27)])
    nifti(new("scaled", ".nii.gz"), (256, 256, 256), np.uint8, slope=2.0)
    nifti(new("numbers of 64 bits", ".nii.gz"), (256, 256, 256), np.float64)
    nifti(new("complex numbers", ".nii.gz"), (256, 256, 256), np.complex128)
    nifti(new("colors", ".nii.gz"), (256, 256, 256), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nifti(new("claimed voxels", ".nii"), (800, 800, 800), np.float32, content=[])
    nifti(new("NIfTI 2", ".nii.gz"), (400, 400, 400), np.float32, start=544, header=Nifti2Header)
    extension = struct.pack("<4b2i", 1, 0, 0, 0, ZEROS, 6)
    nifti(new("extension", ".nii.gz"), (2, 2), np.uint8, start=ZEROS + 352, content=[extension, *zeros()])
    nifti(new("extension beyond its place", ".nii.gz"), (2, 2), np.uint8, start=384, content=[extension, *zeros()])
    nifti(new("extensions without end", ".nii.gz"), (2, 2), np.uint8, start=0, content=[extension, *zeros()])
    nifti(new("many voxels in a row", ".nii"), (32767, 32767, 1, 1), np.uint8, content=[])

    for mode, suffix, way in (("L", "png", "3"), ("RGB", "png", "1"), ("P", "png", ""), ("I;16", "png", "")):
        Image.new(mode, (3000, 3000)).save(new(f"{mode} {suffix}", f".{suffix}", way))
    Image.new("RGB", (3000, 3000)).save(new("RGB jpg", ".jpg"))
    Image.new("RGB", (3000, 3000)).save(new("RGB tif", ".tif"), compression="tiff_adobe_deflate")
    Image.new("CMYK", (3000, 3000)).save(new("CMYK tif", ".tif"), compression="tiff_lzw")
    Image.new("1", (9000, 9000)).save(new("fax", ".tif"), compression="group4")
    Image.new("1", (9000, 9000)).save(new("BMP", ".bmp"))
    tags_that_share(new("tags that share bytes", ".tif"), count=500, size=PIECE)

    medmnist(new("claimed labels", ".npz", "archive"), train_labels=[npy((2 * 10**12, 1)), b"\0\1"])
    medmnist(
        new("many labels", ".npz", "archive"),
        train_images=[npy((2**24, 1, 1)), *zeros(2**24)],
        train_labels=[npy((2**24,)), *zeros(2**24)],
    )
    medmnist(new("wide labels", ".npz", "archive"), train_labels=[npy((2, ZEROS // 2)), *zeros()])
    medmnist(new("long header", ".npz", "archive"), train_labels=[npy((2,), size=ZEROS), *zeros()])
    medmnist(new("labels of less than nothing", ".npz", "archive"), train_labels=[npy((-1, -2)), b"\0\1"])
    medmnist(new("large compressed", ".npz", "extract"), train_images=[npy((2, ZEROS // 2, 1)), *zeros()])
    medmnist(new("LZMA", ".npz", "archive"), compression=zipfile.ZIP_LZMA)
    Image.MAX_IMAGE_PIXELS = before
    return made
