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

"""Read damaged files in a process that has little more memory than the budget, and tell what was wrong.

python tests/fuzz_reader.py KIND COUNT FOLDER, with MONAI_WECKD_MEMORY
"""

from __future__ import annotations

import gzip
import io
import json
import random
import resource
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from monai_weckd.annotation.label_files import read_labels
from monai_weckd.annotation.store import class_of
from monai_weckd.data import load_datalist
from monai_weckd.data.medmnist import read_medmnist
from monai_weckd.pacs.multipart import boundary_of, single_part
from monai_weckd.transforms import LoadMedicalImage
from monai_weckd.utils.budget import memory_budget
from monai_weckd.utils.records import parse_json

SLACK = 2**25  # for what the interpreter keeps between two files, and a picture in two forms
LARGE = (
    b"\xff",
    b"\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x10",
    b"\x10\0\0\0",
    b"\0\x7f",
    b"\x7f\0",
)
# as the decoders say it when the system has no more
EXHAUSTED = ("expected memory to decode it, got too little", "MemoryError", "Cannot allocate", "Unable to allocate")


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Change, remove, insert or repeat bytes, most of them in the header, or cut the end off."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(min(len(content), 600) if rng.random() < 0.7 else len(content))
        kind = rng.random()
        if kind < 0.4:
            content[at] = rng.randrange(256)
        elif kind < 0.7:
            value = rng.choice(LARGE)
            content[at : at + len(value)] = value
        elif kind < 0.8 and len(content) > 100:
            del content[at : at + rng.randrange(1, 64)]
        elif kind < 0.9:
            content[at:at] = rng.randbytes(rng.randrange(1, 16))
        else:
            content[at:at] = bytes(content[at : at + 64]) * rng.choice((1, 100))
    return bytes(content[: rng.randrange(1, len(content))]) if rng.random() < 0.1 else bytes(content)


def gradient(*shape: int, kind=np.uint8) -> np.ndarray:
    return np.arange(int(np.prod(shape)), dtype=np.uint32).astype(kind).reshape(shape)


def dicom_seeds() -> list[bytes]:
    from dicom_files import dicom_dataset
    from hostile_files import item_of

    made = [
        dicom_dataset(gradient(20, 20, kind=np.uint16), RescaleSlope="2", RescaleIntercept="1"),
        dicom_dataset(gradient(9, 9, 3)),
        dicom_dataset(gradient(3, 8, 8)),
        dicom_dataset(np.zeros((200, 200), np.uint16), syntax=DeflatedExplicitVRLittleEndian),
    ]
    compressed = [dicom_dataset(gradient(24, 24)), dicom_dataset(gradient(64, 64, 3))]
    compressed[0].compress(RLELossless)
    compressed[1].compress(JPEG2000Lossless)
    found = []
    for dataset in (*made, *compressed):
        with io.BytesIO() as buffer:
            dataset.save_as(buffer, enforce_file_format=True)
            found.append(buffer.getvalue())
    place = found[0].index(b"\xe0\x7f\x10\x00O")
    return [*found, *(found[0][:place] + item_of(3000, closed=closed) + found[0][place:] for closed in (True, False))]


def nifti_seeds() -> list[bytes]:
    shapes = ((6, 5, 4), np.uint8), ((6, 5), np.int16), ((3, 4, 5, 2), np.float32), ((4, 4, 4), np.float64)
    images = [
        kind(gradient(*shape, kind=dtype), np.eye(4))
        for shape, dtype in shapes
        for kind in (nib.Nifti1Image, nib.Nifti2Image)
    ]
    images[0].header.set_slope_inter(2.0, 1.0)
    return [image.to_bytes() for image in images]


def pictures(form: str, modes, **options) -> list[bytes]:
    found = []
    for mode in modes:
        with io.BytesIO() as buffer:
            Image.fromarray(gradient(20, 30, 3)).convert(mode).save(buffer, form, **options)
            found.append(buffer.getvalue())
    return found


def with_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks have the checksums of their content, so that a decoder goes on."""
    out, at = bytearray(data[:8]), 8
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        if at + 12 + length > len(data):
            break
        body = data[at + 4 : at + 8 + length]
        out += data[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + length
    return bytes(out) + data[at:]


def archive(rng: random.Random) -> bytes:
    """Return an archive of MedMNIST, one member of which is damaged, or the archive itself."""
    with io.BytesIO() as buffer:
        members = {
            f"{split}_{name}": value
            for split in ("train", "val", "test")
            for name, value in (("images", gradient(3, 8, 8)), ("labels", gradient(3, 1) % 2))
        }
        damaged = rng.choice([*members, ""])
        with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as file:
            for name, value in members.items():
                with io.BytesIO() as one:
                    np.save(one, value)
                    content = one.getvalue()
                file.writestr(f"{name}.npy", mutated(content, rng) if name == damaged else content)
        return buffer.getvalue() if damaged else mutated(buffer.getvalue(), rng)


def load(path: Path) -> None:
    LoadMedicalImage(1)(path)


def load_archive(path: Path) -> None:
    load_datalist(path)
    read_medmnist(f"{path}::train/1")


def read_multipart(path: Path) -> None:
    content = path.read_bytes()
    kind, _, body = content.partition(b"\n")
    pieces = (body[k : k + 7] for k in range(0, len(body), 7))
    for _ in single_part(pieces, boundary_of(kind.decode("latin-1"))):
        pass


def read_json(path: Path) -> None:
    """Read a body, a label and a file of labels; raise what the last one says if it is none of these."""
    content = path.read_bytes()
    readers = (
        lambda: parse_json(content, where="body"),
        lambda: class_of(content, ("a", "b")),
        lambda: read_labels(path),
    )
    refusals = []
    for read in readers:
        try:
            read()
        except ValueError as error:
            refusals.append(str(error))
    if len(refusals) == len(readers):
        raise ValueError(refusals[-1])


MULTIPART = b'multipart/related; type="application/dicom"; boundary=b-1\n--b-1\r\nContent-Type: a/b\r\n\r\n' + bytes(
    300
)
JSONS = [
    json.dumps({"labels": {"a.png": {"label": "a", "note": [1, 2.5, {"x": None}]}}}).encode(),
    b'{"idx": 1}',
    b"[" * 2**20,
]

KINDS: dict[str, tuple[str, Callable[[random.Random], bytes], Callable[[Path], None]]] = {}


def kind(name: str, suffix: str, seeds: list[bytes], read, *, then=lambda data: data) -> None:
    KINDS[name] = suffix, lambda rng: then(mutated(rng.choice(seeds), rng)), read


def make_kinds() -> None:
    kind("DICOM", ".dcm", dicom_seeds(), load)
    kind("NIfTI", ".nii", nifti_seeds(), load)
    kind("NIfTI in gzip", ".nii.gz", nifti_seeds(), load, then=lambda data: gzip.compress(data, 1))
    kind("PNG", ".png", pictures("PNG", ("L", "RGB", "P", "RGBA", "1")), load, then=with_checksums)
    kind("JPEG", ".jpg", pictures("JPEG", ("L", "RGB", "CMYK")), load)
    seeds = pictures("TIFF", ("L", "RGB", "CMYK")) + pictures("TIFF", ("L", "RGB"), compression="tiff_lzw")
    kind("TIFF", ".tif", seeds, load)
    kind("BMP", ".bmp", pictures("BMP", ("L", "RGB", "1")), load)
    KINDS["npz"] = ".npz", archive, load_archive
    kind("multipart", ".txt", [MULTIPART + b"\r\n--b-1--\r\n"], read_multipart)
    kind("JSON", ".json", JSONS, read_json)


def main(name: str, count: int, folder: Path) -> None:
    """Print how many files were read, and the seed and the outcome of each that was neither read nor refused."""
    warnings.simplefilter("ignore")
    make_kinds()
    suffix, make, read = KINDS[name]
    Image.new("RGB", (64, 64)).save(folder / "warm.png")
    load(folder / "warm.png")
    with open("/proc/self/status") as file:
        taken = next(int(line.split()[1]) for line in file if line.startswith("VmSize")) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (taken + memory_budget() + SLACK,) * 2)
    path, done, wrong = folder / f"a{suffix}", 0, []
    for seed in range(count):
        path.write_bytes(make(random.Random(seed)))
        try:
            read(path)
            done += 1
        except (ValueError, EOFError) as error:  # the latter for an answer that breaks off, which is asked for again
            text = str(error)
            if "\n" in text or len(text) > 1000 or any(one in text for one in EXHAUSTED):
                wrong.append((seed, text[:300]))
        except BaseException as error:
            wrong.append((seed, f"{type(error).__name__}: {error}"[:300]))
    print(json.dumps({"read": done, "wrong": wrong}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
