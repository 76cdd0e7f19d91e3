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

import nibabel as nib
import numpy as np
import pytest

from monai_weckd.transforms.load import LoadMedicalImage

RNG = np.random.default_rng(0)


def nifti(path, *shape, changes=()):
    """Write a volume; changes are (place in the header, type, values)."""
    nib.save(nib.Nifti1Image(RNG.integers(1, 99, shape).astype(np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    for place, kind, values in changes:
        data = np.asarray(values, kind).tobytes()
        content[place : place + len(data)] = data
    path.write_bytes(content)
    return path


NO_FORM, SIZES, S_FORM = (252, "<i2", [0, 0]), 80, 280


SIZES_FAULT = r"expected three voxel sizes above 0, got .* Correct the header"


REFUSED_VOLUMES = {
    "size zero": ((6, 7, 8), [NO_FORM, (SIZES, "<f4", [0, 1, 1])], SIZES_FAULT),
    "size zero across": ((6, 7, 8), [NO_FORM, (SIZES, "<f4", [1, 1, 0])], SIZES_FAULT),
    "size negative": ((6, 7, 8), [NO_FORM, (SIZES, "<f4", [-1, 1, 1])], SIZES_FAULT),
    "size NaN": ((6, 7, 8), [NO_FORM, (SIZES, "<f4", [1, np.nan, 1])], SIZES_FAULT),
    "size infinite": ((6, 7, 8), [NO_FORM, (SIZES, "<f4", [np.inf, 1, 1])], SIZES_FAULT),
    "size zero and a qform": ((6, 7, 8), [(252, "<i2", [1, 0]), (SIZES, "<f4", [0, 1, 1])], SIZES_FAULT),
    "tiny": ((6, 7, 8), [NO_FORM, (SIZES, "<f4", [1e-6] * 3)], r"expected voxels of 0\.0001 to 1000 mm .* got 1e-06 x"),
    "huge": ((6, 7, 8), [NO_FORM, (SIZES, "<f4", [1e6] * 3)], r"expected voxels of 0\.0001 to 1000 mm .* got 1e\+06 x"),
    "one direction twice": ((6, 7, 8), [(S_FORM, "<f4", [1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0])], "expected voxels of"),
    "no directions": ((6, 7, 8), [(S_FORM, "<f4", [0] * 12)], "expected voxels of"),
    "directions NaN": ((6, 7, 8), [(S_FORM, "<f4", [np.nan] * 4)], "expected voxels of"),
    "no unit": ((6, 7, 8), [(123, "u1", [7])], r"cannot be decoded \(its content is damaged\)\. Repair"),
    "meters": ((6, 7, 8), [(123, "u1", [1])], r"expected millimeters, got meter\. Convert"),
    "microns": ((6, 7, 8), [(123, "u1", [3 | 8])], r"expected millimeters, got micron\. Convert"),
    "one sagittal slice": (
        (1, 7, 8),
        [],
        r"expected a picture or a volume, got one slice \(1 x 7 x 8\)\. Save it as 7 x 8",
    ),
    "one coronal slice": (
        (6, 1, 8),
        [],
        r"expected a picture or a volume, got one slice \(6 x 1 x 8\)\. Save it as 6 x 8",
    ),
    "no voxels": ((6, 7, 8), [(42, "<i2", [0])], r"expected voxels, got none \(0 x 7 x 8\)\. Repair"),
}


@pytest.mark.parametrize(("shape", "changes", "reason"), REFUSED_VOLUMES.values(), ids=REFUSED_VOLUMES)
def test_a_volume_without_a_geometry_is_refused(tmp_path, shape, changes, reason):
    path = nifti(tmp_path / "a.nii", *shape, changes=changes)
    with pytest.raises(ValueError, match=rf"a\.nii: {reason}"):
        LoadMedicalImage()(path)


@pytest.mark.parametrize(
    ("shape", "changes"),
    [
        ((6, 7), [NO_FORM, (SIZES, "<f4", [0, 0, 0])]),
        ((6, 7, 1), [NO_FORM, (SIZES, "<f4", [1, 1, 0])]),
        ((6, 7, 8), [(123, "u1", [0])]),
        ((6, 7, 8), [(123, "u1", [10])]),
    ],
)
def test_a_geometry_that_does_not_count_may_be_odd(tmp_path, shape, changes):
    expected = tuple(size for size in shape if size > 1)
    assert LoadMedicalImage()(nifti(tmp_path / "a.nii", *shape, changes=changes)).shape == (1, *expected)


def both_forms(path, sform, qform, codes=(2, 1)):
    image = nib.Nifti1Image(RNG.integers(1, 99, (6, 7, 8)).astype(np.int16), np.eye(4))
    image.set_qform(qform, codes[1])
    image.set_sform(sform, codes[0])
    nib.save(image, path)
    return path


TURNED = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, 6], [0, 0, 1, 7], [0, 0, 0, 1]])


def test_the_sform_counts_where_the_qform_has_the_same_voxels(tmp_path):
    path = both_forms(tmp_path / "a.nii", TURNED, np.eye(4))
    np.testing.assert_allclose(LoadMedicalImage()(path).affine, TURNED, atol=1e-6)


@pytest.mark.parametrize(
    ("sform", "codes"),
    [
        (np.diag([2.0, 3, 4, 1]), (2, 1)),
        (np.diag([2.0, 3, 4, 1]), (1, 0)),
        (np.diag([-1.0, 1, 1, 1]), (1, 1)),
        (np.eye(4)[[1, 0, 2, 3]], (4, 1)),
    ],
)
def test_a_volume_with_two_geometries_is_refused(tmp_path, sform, codes):
    path = both_forms(tmp_path / "a.nii", sform, np.eye(4), codes)
    with pytest.raises(
        ValueError, match=r"a\.nii: expected one geometry, got an sform unlike qform or pixdim\. Correct"
    ):
        LoadMedicalImage()(path)
