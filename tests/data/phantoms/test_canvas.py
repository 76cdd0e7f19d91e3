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

from monai_weckd.data.phantoms.canvas import blend, blur, photograph, pixel_grid, segment_distance, turn


def test_a_segment_is_as_far_as_geometry_says():
    # right above the middle, and beyond the end by the sides 3 and 4 of a triangle
    x, y = np.array([1.0, 5.0]), np.array([2.0, 4.0])
    distance, along = segment_distance(x, y, (0.0, 0.0), (2.0, 0.0))
    np.testing.assert_allclose(distance, [2.0, 5.0])
    np.testing.assert_allclose(along, [0.5, 1.0])


def test_a_quarter_turn_brings_y_to_x():
    x, y = turn(*pixel_grid(4), np.pi / 2)
    np.testing.assert_allclose(x, pixel_grid(4)[1], atol=1e-12)
    np.testing.assert_allclose(y, -pixel_grid(4)[0], atol=1e-12)


def test_half_an_opacity_gives_the_mean_of_two_colors():
    image = np.full((2, 2, 3), 0.2)
    np.testing.assert_allclose(blend(image, (0.4, 0.6, 0.8), np.full((2, 2), 0.5))[0, 0], [0.3, 0.4, 0.5])


@pytest.mark.parametrize("sigma", [0.8, 2.0])
def test_a_point_is_blurred_to_the_deviation(sigma):
    image = np.zeros((41, 41))
    image[20, 20] = 1
    blurred, axis = blur(image, sigma), np.arange(41) - 20.0
    assert blurred.sum() == pytest.approx(1)
    # the Gaussian is cut off at three deviations
    assert np.sqrt(blurred.sum(axis=1) @ axis**2) == pytest.approx(sigma, rel=0.05)


def test_the_brightness_of_a_photograph_does_not_tell_that_of_the_scene():
    scene = np.random.default_rng(0).uniform(0.2, 0.8, (64, 64, 3))
    options = {"exposure": (0.5, 0.5), "tint": (1.0, 1.0, 1.0), "defocus": (0.5, 0.5), "grain": (0.0, 0.0)}
    bright, dark = (
        photograph(
            factor * scene,
            np.ones((64, 64)),
            group=np.random.default_rng(1),
            item=np.random.default_rng(2),
            **options,
        )
        for factor in (1.0, 0.1)
    )
    np.testing.assert_array_equal(bright, dark)
