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

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import Affine, Flip
from scipy.stats import kstest

from monai_weckd.transforms import (
    BatchAugment,
    BatchRandAffine,
    BatchRandCoarseDropout,
    BatchRandFlip,
    BatchRandGaussianNoise,
    BatchRandScaleIntensity,
    BatchRandShiftIntensity,
)
from monai_weckd.transforms.batch_spatial import affine_matrix, resample_affine
from monai_weckd.utils.draws import uniforms

EVERY = [
    BatchRandFlip(spatial_axis=(0, 1)),
    BatchRandAffine(0.7, rotate_range=0.5, translate_range=2, scale_range=0.2),
    BatchRandScaleIntensity(0.3, channel_wise=True),
    BatchRandShiftIntensity(0.2),
    BatchRandCoarseDropout(1, 2, max_holes=3, max_spatial_size=4),
    BatchRandGaussianNoise(0.1),
]
SIZES = [(3, 13, 18), (1, 8, 9, 7)]


def images(count, size, seed=0):
    return torch.rand(count, *size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchRandFlip(1.5), "prob: expected a number from 0 to 1, got 1.5"),
        (lambda: BatchRandAffine(rotate_range=-1), "rotate_range: expected a number from 0 up, got -1"),
        (lambda: BatchRandAffine(scale_range=1), "scale_range: expected a number from 0 up and below 1, got 1"),
        (lambda: BatchRandAffine(padding_mode="wrap"), "wrap"),
        (lambda: BatchRandScaleIntensity(-0.1), "factors: expected a number from 0 up, got -0.1"),
        (lambda: BatchRandShiftIntensity(-0.1), "offsets: expected a number from 0 up, got -0.1"),
        (lambda: BatchRandGaussianNoise(-1), "std: expected a number from 0 up, got -1"),
        (lambda: BatchRandCoarseDropout(0, 2), "holes: expected at least 1 and at most max_holes=0, got 0"),
        (lambda: BatchRandCoarseDropout(1, 5, max_spatial_size=4), "spatial_size: expected at least 1 and at most"),
        (lambda: BatchAugment(EVERY)(images(2, SIZES[0]), [1]), "views: expected 2 seeds, one for each image, got 1"),
        (lambda: BatchAugment(EVERY)(torch.zeros(1, 3, 4, 4).byte(), [1]), "images: expected floats of shape"),
        (lambda: BatchAugment(EVERY[2:3])(torch.zeros(1, 5, 4, 4), [1]), "channel_wise: expected at most 4 channels"),
    ],
)
def test_args_validation(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_transforms_of_single_items_are_refused():
    with pytest.raises(TypeError, match="transforms: expected transforms of batches, got Flip"):
        BatchAugment([Flip(0)])


@pytest.mark.parametrize("size", SIZES)
def test_an_item_depends_on_its_own_view_alone(size):
    batch, views = images(6, size), [5, 9, 5, 2**32 - 1, 0, 77]
    augment = BatchAugment(EVERY)
    together = augment(batch, torch.tensor(views))
    for index, view in enumerate(views):
        # a batch of another size is computed by other instructions
        torch.testing.assert_close(augment(batch[index : index + 1], [view])[0], together[index], rtol=0, atol=1e-4)
    assert torch.equal(augment(batch, views), together)
    assert (augment(batch, [view + 1 for view in views]) - together).flatten(1).abs().max(dim=1).values.min() > 0.01


@pytest.mark.parametrize("size", SIZES)
def test_the_given_batch_and_the_global_generators_are_left_alone(size):
    batch = images(4, size)
    before, state, numpy_state = batch.clone(), torch.get_rng_state(), np.random.get_state()[1].copy()
    for transform in EVERY:
        for view in range(5):
            BatchAugment([transform])(batch, range(view, view + 4))
    assert torch.equal(batch, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()


def test_transforms_that_stand_first_in_two_lists_draw_the_same():
    weak, strong = BatchAugment(EVERY[:2]), BatchAugment(EVERY[:3])
    batch = images(8, SIZES[0])
    gain = strong(batch, range(8)) / weak(batch, range(8))
    # what is left between the two is one factor for each channel
    assert gain.flatten(2).std(dim=2).max() < 1e-5
    assert gain.std() > 0.01


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


def test_intensities_change_by_what_was_drawn():
    batch = torch.ones(500, 3, 2, 2)
    scaled = BatchAugment([BatchRandScaleIntensity(0.3, prob=0.8, channel_wise=True)])(batch, range(500))[:, :, 0, 0]
    shifted = BatchAugment([BatchRandShiftIntensity(0.2, prob=0.8)])(batch, range(500))[:, :, 0, 0]
    for values, size in ((scaled, 0.3), (shifted[:, :1], 0.2)):
        changed = (values != 1).all(dim=1)
        assert 0.7 < changed.float().mean() < 0.9
        assert kstest((values[changed][:, 0] - 1 + size) / (2 * size), "uniform").pvalue > 1e-3
    assert (shifted.std(dim=1) == 0).all()
    assert (scaled.std(dim=1) > 0).float().mean() > 0.7


@pytest.mark.parametrize("size", SIZES)
def test_dropout_blanks_boxes_of_the_asked_sizes(size):
    batch = torch.ones(300, *size)
    one = BatchAugment([BatchRandCoarseDropout(1, 2, max_spatial_size=5, prob=0.5, fill_value=7)])(batch, range(300))
    blank = one[:, 0] == 7
    assert torch.equal(blank[:, None].expand_as(one), one == 7)
    assert 0.4 < blank.flatten(1).any(dim=1).float().mean() < 0.6
    lengths = set()
    for item in blank[blank.flatten(1).any(dim=1)]:
        corners = torch.nonzero(item)
        sides = corners.max(dim=0).values - corners.min(dim=0).values + 1
        assert len(corners) == sides.prod()  # a whole box
        lengths |= set(sides.tolist())
    assert lengths == {2, 3, 4, 5}
    three = BatchAugment([BatchRandCoarseDropout(3, 100, prob=1.0)])(batch, range(300))
    assert (three == 0).all()  # larger than the image is the whole image


@pytest.mark.parametrize("size", SIZES)
def test_noise_has_the_drawn_deviation(size):
    batch = torch.zeros(200, size[0], *[4 * n for n in size[1:]])
    noisy = BatchAugment([BatchRandGaussianNoise(0.5, prob=0.5)])(batch, range(200))
    draws = uniforms(range(200), 2)
    for item, (draw, share) in zip(noisy, draws, strict=True):
        expected = share * 0.5 if draw < 0.5 else 0.0
        assert item.std() == pytest.approx(expected, rel=0.1)
        assert item.mean() == pytest.approx(0.0, abs=0.02)
    first, second = noisy[(noisy != 0).flatten(1).any(dim=1)][:2]
    assert np.corrcoef(first.flatten(), second.flatten())[0, 1] < 0.1


@given(view=st.integers(0, 2**32 - 1), prob=st.sampled_from([0.0, 1.0]))
def test_probabilities_of_zero_and_one_are_kept(view, prob):
    batch = images(1, (1, 6, 6))
    flipped = BatchAugment([BatchRandFlip(prob, 0)])(batch, [view])
    assert torch.equal(flipped, batch.flip(2) if prob else batch)
