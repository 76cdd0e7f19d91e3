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
from scipy.stats import chi2, kstest

from monai_weckd.utils.draws import derive, uniforms


def split_mix(state):
    """Return SplitMix64's next number, in Python's own integers, after Steele, Lea and Flood."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    z = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_the_numbers_are_those_of_split_mix():
    assert split_mix(0) == 0xE220A8397B1DCDAF  # the published first output for the seed 0
    for seed in (0, 1, 2**32 - 1):
        state = split_mix(seed)
        expected = [(split_mix((state + k * 0x9E3779B97F4A7C15) % 2**64) >> 11) / 2**53 for k in range(4)]
        assert uniforms([seed], 4).tolist() == [expected]
    assert derive(3, 5).tolist() == [split_mix((split_mix(3) + 5) % 2**64) >> 32]


def test_numbers_are_uniform_and_seeds_independent():
    numbers = uniforms(np.arange(4000), 6)
    for column in numbers.T:
        assert kstest(column, "uniform").pvalue > 1e-3
    correlation = np.corrcoef(np.hstack([numbers[:-1], numbers[1:]]).T) - np.eye(12)
    assert np.abs(correlation).max() < 0.06  # 3.8 standard errors of 4,000 pairs


@pytest.mark.parametrize("parts", [(0, 1), (4, 2), (123, 3)])
def test_derived_seeds_are_spread_evenly_and_differ(parts):
    seeds = derive(*parts, np.arange(200)[:, None], np.arange(50))
    assert len(np.unique(seeds)) >= 10_000 - 2  # of 2^32, 10,000 draws have 0.01 equal pairs on average
    counts = np.bincount((seeds >> 28).ravel(), minlength=16)
    assert ((counts - 625) ** 2 / 625).sum() < chi2.ppf(0.9999, 15)


def test_the_order_of_parts_matters():
    assert derive(1, 2) != derive(2, 1)
