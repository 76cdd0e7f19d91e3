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
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

from monai_weckd.data.datalist import Datalist, image_files
from monai_weckd.data.medmnist import archive_split, check_split, parse_reference
from monai_weckd.utils import nearest

__all__ = ["verify_images"]

logger = logging.getLogger(__name__)

_MODES = ("error", "skip")


def verify_images(datalist: Datalist, *, on_bad_item: str = "error") -> Datalist:
    """Decode every image once and stop at, or leave out, the items that cannot be read.

    PNG, JPEG, TIFF and BMP are decoded in full, NIfTI is read with its data, of DICOM the data set is read and its
    pixel data must be there in full length (compressed pixel data are not decompressed). In a folder, each image. Of a
    MedMNIST archive each split is read once, against its checksum. What this process has read before, and what has not
    been written to since, is not read again.

    Args:
        datalist: what :py:func:`monai_weckd.data.load_datalist` returns.
        on_bad_item: "error" raises, "skip" leaves the bad items out and lists them in ``skipped``. Default "error".

    Raises:
        ValueError: When ``on_bad_item`` is unknown.
        ValueError: When ``on_bad_item`` is "error" and an image cannot be read.

    """
    if on_bad_item not in _MODES:
        raise ValueError(f"on_bad_item: expected one of {_MODES}, got {on_bad_item!r}. {nearest(on_bad_item, _MODES)}")
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        # the images of one split of an archive stand and fall together
        paths = list(dict.fromkeys(archive_split(item["image"]) for item in datalist.items))
        faults = dict(zip(paths, pool.map(_fault, paths), strict=True))
    bad = {item["id"]: fault for item in datalist.items if (fault := faults[archive_split(item["image"])])}
    if not bad:
        return datalist
    if on_bad_item == "error":
        name, fault = next(iter(bad.items()))
        raise ValueError(
            f"image: expected readable files, got {len(bad)} that are not, first {name!r}: {fault}. "
            "Repair or remove the file, or pass on_bad_item='skip'."
        )
    logger.warning("left out %d unreadable items, repair or remove them: %s", len(bad), ", ".join(bad))
    items = [item for item in datalist.items if item["id"] not in bad]
    return datalist._replace(items=items, skipped=(*datalist.skipped, *bad))


def _fault(path: str) -> str | None:
    """Return what is wrong with an image, or with the images in a folder."""
    try:
        files = tuple(image_files(path)) if os.path.isdir(path) else (path,)
        return _known_fault(files, tuple(map(_state, files)))
    except OSError as error:
        return f"{type(error).__name__}: {error}"


def _state(path: str) -> tuple[int, int]:
    found = parse_reference(f"{path}/0")
    status = os.stat(path if found is None else found.archive)
    return status.st_size, status.st_mtime_ns


# one process may run many trainings on the same images: what has not changed since is not decoded again
@lru_cache(maxsize=1 << 17)
def _known_fault(files: tuple[str, ...], states: tuple[tuple[int, int], ...]) -> str | None:
    try:
        _read_all(files)
    # the decoders raise whatever the damaged bytes lead them to; nothing is lost, each fault is reported
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())
    return None


def _read_all(paths: Iterable[str]) -> None:
    path = None
    for path in paths:
        name = path.lower()
        if check_split(path):
            continue
        if name.endswith((".nii", ".nii.gz")):
            _read_nifti(path)
        elif name.endswith((".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")):
            _read_picture(path)
        else:
            _read_dicom(path)
    if path is None:
        raise ValueError("a folder without images")


def _read_picture(path: str) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.load()


def _read_nifti(path: str) -> None:
    import nibabel
    import numpy as np

    image: Any = nibabel.load(path)
    np.asanyarray(image.dataobj)


def _read_dicom(path: str) -> None:
    import pydicom
    from pydicom.pixels.utils import get_expected_length

    dataset = pydicom.dcmread(path)
    if "PixelData" not in dataset:
        raise ValueError(f"a DICOM file without pixel data ({dataset.get('Modality', 'no modality')})")
    expected = get_expected_length(dataset)
    if not dataset.file_meta.TransferSyntaxUID.is_compressed and len(dataset.PixelData) < expected:
        raise ValueError(f"pixel data of {len(dataset.PixelData)} bytes, its header tells {expected}")
