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

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_weckd.losses.temperature import SHAPES, TemperatureSchedule, check_temperature

temperatures = st.floats(0.1, 100)


@pytest.mark.parametrize("value", [0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["start", "end"])
def test_refuses_temperatures_that_do_not_divide(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected a positive finite number, got {value}"):
        TemperatureSchedule(**{name: value})


def test_check_temperature_names_its_argument():
    with pytest.raises(ValueError, match=r"^temperature: expected a positive finite number, got 0"):
        check_temperature(0)
    check_temperature(1e-3)


def test_unknown_shape_names_the_nearest():
    with pytest.raises(
        ValueError, match=r"^shape: expected one of constant, .*, got 'cosin'\. Did you mean 'cosine'\?"
    ):
        TemperatureSchedule(shape="cosin")


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
@pytest.mark.parametrize("shape", SHAPES)
def test_refuses_progress_outside_the_stage(shape, progress):
    with pytest.raises(ValueError, match=f"^progress: expected a number from 0 to 1, got {progress}"):
        TemperatureSchedule(shape=shape)(progress)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TemperatureSchedule().start = 2.0


@pytest.mark.parametrize(("start", "end"), [(4.0, 1.0), (1.0, 8.0), (3, 3), (20.0, 0.5)])
def test_equals_numpy(start, end):
    progress = np.linspace(0, 1, 11)
    expected = {
        "constant": np.full(11, float(start)),
        "linear": np.interp(progress, [0, 1], [start, end]),
        # half a period of a cosine between the two levels
        "cosine": (start + end) / 2 + (start - end) / 2 * np.cos(np.linspace(0, np.pi, 11)),
        "exponential": np.geomspace(start, end, 11),
    }
    assert set(expected) == set(SHAPES)
    for shape, values in expected.items():
        schedule = TemperatureSchedule(start, end, shape)
        np.testing.assert_allclose([schedule(float(u)) for u in progress], values, rtol=1e-12)


@given(start=temperatures, end=temperatures, shape=st.sampled_from(SHAPES), progress=st.floats(0, 1))
def test_stays_between_its_ends(start, end, shape, progress):
    value = TemperatureSchedule(start, end, shape)(progress)
    assert min(start, end) * (1 - 1e-9) <= value <= max(start, end) * (1 + 1e-9)


@given(start=temperatures, end=temperatures, shape=st.sampled_from(SHAPES), ends=st.tuples(*[st.floats(0, 1)] * 2))
def test_never_turns_back(start, end, shape, ends):
    schedule, (early, late) = TemperatureSchedule(start, end, shape), sorted(ends)
    assert (schedule(late) - schedule(early)) * (end - start) >= -1e-9
