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

import math

import pytest
import torch
import torch.nn.functional as F
from monai.transforms import Affine, Flip
from random_images import SIZES, images
from scipy.stats import kstest

from monai_weckd.transforms import (
    BatchAugment,
    BatchRandAffine,
    BatchRandFlip,
)
from monai_weckd.transforms.batch_spatial import affine_matrix, resample_affine
from monai_weckd.utils.draws import uniforms


@pytest.mark.parametrize("size", SIZES)
def test_flips_are_exact(size):
    batch = images(40, size)
    numbers = uniforms(range(40), 1)[:, 0]
    flipped = BatchAugment([BatchRandFlip(0.5, 1)])(batch, range(40))
    assert 8 < (numbers < 0.5).sum() < 32
    for index, number in enumerate(numbers):
        expected = Flip(1)(batch[index]) if number < 0.5 else batch[index]
        assert torch.equal(flipped[index], torch.as_tensor(expected))


def every_voxel_on_its_own(batch, matrix, padding_mode):
    """Resample with whole coordinates for each item: shift, then one product for each axis added in turn."""
    sizes = batch.shape[2:]
    places = [torch.arange(size, dtype=batch.dtype) - (size - 1) / 2 for size in sizes]
    places = torch.meshgrid(*places, indexing="ij")
    grids = []
    for item in matrix:
        coordinates = []
        for row, size in zip(item, sizes, strict=True):
            row = row * torch.tensor(2.0 / size, dtype=batch.dtype)
            coordinate = row[-1].expand(sizes)
            for factor, place in zip(row[:-1], places, strict=True):
                coordinate = coordinate + factor * place
            coordinates.append(coordinate)
        grids.append(torch.stack(coordinates[::-1]))
    return F.grid_sample(batch, torch.stack(grids).movedim(1, -1), padding_mode=padding_mode, align_corners=False)


# model files hang on every bit of the pictures: what makes this faster must round as before
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [*SIZES, (3, 64, 64), (2, 33, 41), (1, 1, 5), (2, 12, 16, 11)])
def test_the_affine_rounds_like_the_plain_formula(size, dtype):
    batch = images(9, size).to(dtype)
    augment = BatchRandAffine(0.7, rotate_range=0.5, translate_range=2, scale_range=0.2)
    numbers = torch.from_numpy(uniforms(range(9), augment.draws)).float()
    chosen, signed, dims = numbers[:, 0] < 0.7, 2 * numbers[:, 1:] - 1, len(size) - 1
    assert 0 < chosen.sum() < 9
    matrix = affine_matrix(
        angles=signed[:, : 1 if dims == 2 else 3] * 0.5,
        shifts=signed[:, 3 : 3 + dims] * 2,
        scales=1 + signed[:, 6] * 0.2,
    )
    expected = batch.clone()
    expected[chosen] = every_voxel_on_its_own(batch[chosen], matrix[chosen].to(dtype), "border")
    for _ in range(2):  # nothing that is kept for the next call may change
        assert torch.equal(augment(batch, numbers, range(9)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", SIZES)
def test_flips_of_several_axes_are_independent_and_exact(size, dtype):
    batch, axes = images(40, size).to(dtype), range(len(size) - 1)
    numbers = torch.from_numpy(uniforms(range(40), len(axes))).float()
    flipped = BatchRandFlip(0.5, axes)(batch, numbers, range(40))
    drawn = [[axis for axis in axes if row[axis] < 0.5] for row in numbers]
    assert len({tuple(some) for some in drawn}) == 2 ** len(axes)
    for item, some, image in zip(flipped, drawn, batch, strict=True):
        assert torch.equal(item, image.flip([1 + axis for axis in some]))


@pytest.mark.parametrize("padding_mode", ["border", "zeros", "reflection"])
@pytest.mark.parametrize("size", [(3, 33, 40), (2, 12, 15, 10)])
def test_the_affine_agrees_with_monai(size, padding_mode):
    dims, generator = len(size) - 1, torch.Generator().manual_seed(1)
    batch = images(4, size)
    angles = torch.rand(4, 1 if dims == 2 else 3, generator=generator) * 4 - 2
    shifts = torch.rand(4, dims, generator=generator) * 6 - 3
    scales = torch.rand(4, generator=generator) * 0.6 + 0.7
    matrix = affine_matrix(angles=angles, shifts=shifts, scales=scales)
    found = resample_affine(batch, matrix, padding_mode=padding_mode)
    for index in range(4):
        reference = Affine(
            rotate_params=angles[index].tolist() if dims == 3 else angles[index].item(),
            translate_params=shifts[index].tolist(),
            scale_params=[scales[index].item()] * dims,
            padding_mode=padding_mode,
            image_only=True,
        )
        assert (found[index] - torch.as_tensor(reference(batch[index]))).abs().max() < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_a_quarter_turn_is_a_permutation(size):
    batch = images(1, (size[0], 9, 9, *size[3:]))
    angles = torch.tensor([[math.pi / 2]] if len(size) == 3 else [[0.0, 0.0, math.pi / 2]])
    matrix = affine_matrix(angles=angles, shifts=torch.zeros(1, len(size) - 1), scales=torch.ones(1))
    assert torch.allclose(resample_affine(batch, matrix, padding_mode="zeros"), batch.rot90(-1, (2, 3)), atol=1e-5)


def test_the_affine_draws_within_its_ranges_and_leaves_the_others_unresampled():
    place = torch.arange(41.0) - 20
    batch = torch.stack(torch.meshgrid(place, place, indexing="ij")).expand(400, 2, 41, 41)
    affine = BatchRandAffine(0.6, rotate_range=0.4, translate_range=3, scale_range=0.2)
    moved = BatchAugment([affine])(batch, range(400))
    same = (moved == batch).flatten(1).all(dim=1)
    assert 0.3 < same.float().mean() < 0.5
    # a picture of its own coordinates shows the map that was applied
    center, right = moved[~same, :, 20, 20], moved[~same, :, 20, 21] - moved[~same, :, 20, 20]
    scales, angles = right.norm(dim=1), torch.atan2(-right[:, 0], right[:, 1])
    assert kstest((scales - 0.8) / 0.4, "uniform").pvalue > 1e-3
    assert kstest((angles + 0.4) / 0.8, "uniform").pvalue > 1e-3
    assert 2.9 < center.norm(dim=1).max() <= 3 * math.sqrt(2) + 1e-4
