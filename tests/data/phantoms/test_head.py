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

from dataclasses import replace

import numpy as np
import pytest

from monai_weckd.data.phantoms.head import Head, head_signal


@pytest.mark.parametrize("kind", ["glioma", "meningioma"])
def test_a_tumor_changes_the_head_where_it_is_and_only_there(kind):
    grid = np.stack(np.meshgrid(*[np.arange(-80.0, 81.0, 4.0)] * 3, indexing="ij"), axis=-1)
    for seed in range(5):
        head = Head.draw(kind, np.random.default_rng(seed))
        healthy = replace(head, lesion=replace(head.lesion, kind="no_tumor"))
        change = np.abs(head_signal(grid, head) - head_signal(grid, healthy))
        rho = np.linalg.norm(grid - head.lesion.center, axis=-1) / head.lesion.radius
        assert change[rho < 0.9].mean() > 0.1
        assert change[rho > 4.5].max() < 0.05
