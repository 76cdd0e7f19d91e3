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

"""Each file that would fill the memory is refused in one line, and took less than the budget until then."""

from __future__ import annotations

import sys

import nibabel as nib
import numpy as np
import pytest
from dicom_files import dicom_dataset
from hostile_files import hostile_files, nifti, peaks, save
from PIL import Image
from pydicom.uid import RLELossless

from monai_weckd.data.image_reader import read_image

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells, and resets, the peak of a process")

BUDGET = 2**26
NAMES = [
    *("rle", "frames", "color", "claimed frames", "deflated ", "deflated report", "deflated header", "deflated send"),
    *("deflated items", "deflated items of a report", "deflated items of a header", "items", "items of a known length"),
    *("palette", "palette that copies", "palette that copies copies"),
    *("bytes", "scaled", "numbers of 64 bits", "complex numbers", "colors", "claimed voxels", "NIfTI 2", "extension"),
    *("extension beyond its place", "extensions without end", "many voxels in a row"),
    *("L png", "RGB png", "P png", "I;16 png", "RGB jpg", "RGB tif", "CMYK tif", "fax", "BMP"),
    *("tags that share bytes", "claimed labels", "many labels", "wide labels", "long header"),
    *("labels of less than nothing", "large compressed", "LZMA"),
]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return an image that fits."""
    path = tmp_path_factory.mktemp("small") / "small.png"
    Image.new("RGB", (40, 40)).save(path)
    return path


@pytest.fixture(scope="module")
def told(tmp_path_factory, small):
    files = hostile_files(tmp_path_factory.mktemp("hostile"))
    assert sorted(files) == sorted(NAMES)
    found = peaks([[files[name]] for name in NAMES], small, budget=BUDGET)
    return {name: (files[name][0], peak, said) for name, (peak, (said,)) in zip(NAMES, found, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_would_fill_the_memory_is_one_line(told, name):
    path, peak, said = told[name]
    if name != "tags that share bytes":  # newer versions of Pillow leave such tags out
        assert said.startswith(str(path))
        assert said.endswith(".")
        assert "\n" not in said
        assert len(said) < 600
    assert path.stat().st_size < 12_000_000
    assert peak < BUDGET


def test_many_at_once_take_turns(tmp_path, small):
    picture, scan, volume = (tmp_path / name for name in ("a.png", "a.dcm", "a.nii.gz"))
    Image.new("RGB", (1300, 1300)).save(picture)
    save(dicom_dataset(np.zeros((900, 900), np.uint16)), scan, RLELossless)
    nifti(volume, (128, 128, 128), np.uint8, slope=2.0, content=[bytes(4), bytes(2**21)])
    lines = [[(path, "")] * 8 for path in (picture, scan, volume)] + [[(picture, ""), (scan, ""), (volume, "")] * 3]
    for line, (peak, said) in zip(lines, peaks(lines, small, budget=BUDGET), strict=True):
        assert said == ["read"] * len(line)
        assert peak < BUDGET


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_volume_with_extensions_is_read(tmp_path, kind):
    image = kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), np.eye(4))
    image.header.extensions += [nib.nifti1.Nifti1Extension(6, b"x" * count) for count in (3, 100)]
    nib.save(image, tmp_path / "a.nii.gz")
    assert np.array_equal(read_image(tmp_path / "a.nii.gz")[0][0], image.dataobj)
