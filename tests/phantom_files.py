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

import csv
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image

KINDS = {"otoscopy": 4, "blood_smear": 4, "brain_mri": 3, "brain_mri_3d": 3}
GROUP_SIZES = {"otoscopy": (2, 4), "blood_smear": (2, 4), "brain_mri": (2, 4), "brain_mri_3d": (1, 2)}


def manifest(folder: Path) -> list[dict[str, str]]:
    with open(folder / "manifest.csv", newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def pixels(path: Path) -> np.ndarray:
    """Read an image as an array with its channels last."""
    if path.suffix == ".png":
        return np.asarray(Image.open(path), dtype=float)
    if path.suffix == ".dcm":
        return pydicom.dcmread(path).pixel_array[..., None].astype(float)
    return np.asarray(nib.load(path).dataobj, dtype=float)[..., None]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
