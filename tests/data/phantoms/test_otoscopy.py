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

from monai_weckd.data.phantoms.otoscopy import EAR_FINDINGS, draw_ear


@pytest.mark.parametrize("finding", EAR_FINDINGS)
def test_only_what_the_speculum_shows_is_lit(finding):
    pictures = [draw_ear(finding, np.random.default_rng([0, i]), np.random.default_rng([1, i])) for i in range(8)]
    mean = np.mean(pictures, axis=(0, 3))
    assert mean[48:80, 48:80].mean() > 2 * max(mean[i, j] for i in (0, -1) for j in (0, -1))
