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
from random_images import SIZES
from scipy.stats import kstest

from monai_weckd.transforms import (
    BatchAugment,
    BatchRandCoarseDropout,
    BatchRandGaussianNoise,
    BatchRandScaleIntensity,
    BatchRandShiftIntensity,
)
from monai_weckd.utils.draws import uniforms


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
