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

from monai_weckd.data.phantoms.blood_smear import LEUKOCYTES, draw_cell


@pytest.mark.parametrize("kind", LEUKOCYTES)
def test_a_nucleus_takes_more_red_light_than_all_else(kind):
    red = np.array(
        [draw_cell(kind, np.random.default_rng([0, i]), np.random.default_rng([1, i]))[..., 0] for i in range(20)],
        dtype=float,
    )
    mean = red.mean(axis=0)
    # the white cell lies about the middle; what is in the corners is the background and red cells
    middle, corners = mean[36:60, 36:60].mean(), np.mean([mean[:16, :16], mean[-16:, -16:], mean[:16, -16:]])
    assert middle < 0.8 * corners
