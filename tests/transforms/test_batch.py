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

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import Flip
from random_images import SIZES, images

from monai_weckd.transforms import (
    BatchAugment,
    BatchRandAffine,
    BatchRandCoarseDropout,
    BatchRandFlip,
    BatchRandGaussianNoise,
    BatchRandScaleIntensity,
    BatchRandShiftIntensity,
)

EVERY = [
    BatchRandFlip(spatial_axis=(0, 1)),
    BatchRandAffine(0.7, rotate_range=0.5, translate_range=2, scale_range=0.2),
    BatchRandScaleIntensity(0.3, channel_wise=True),
    BatchRandShiftIntensity(0.2),
    BatchRandCoarseDropout(1, 2, max_holes=3, max_spatial_size=4),
    BatchRandGaussianNoise(0.1),
]


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


@given(view=st.integers(0, 2**32 - 1), prob=st.sampled_from([0.0, 1.0]))
def test_probabilities_of_zero_and_one_are_kept(view, prob):
    batch = images(1, (1, 6, 6))
    flipped = BatchAugment([BatchRandFlip(prob, 0)])(batch, [view])
    assert torch.equal(flipped, batch.flip(2) if prob else batch)
