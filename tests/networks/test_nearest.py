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
from scipy.spatial.distance import cdist

from monai_weckd.networks.nearest import neighbor_distances


def features(count, seed=0):
    return torch.rand((count, 6), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [3, 40, 700])
def test_the_distance_is_to_the_nearest_of_other_groups(count):
    groups = [str(number % (count // 2)) for number in range(count)]
    found = neighbor_distances(features(count), groups=groups)
    distances = cdist(features(count).double(), features(count).double(), "cosine")
    for place in range(count):
        others = [distances[place, other] for other in range(count) if groups[other] != groups[place]]
        expected = np.mean(sorted(others)[:5]) if others else 0
        assert found[place] == pytest.approx(expected, abs=1e-6)


def test_the_distance_to_a_reference_knows_no_groups():
    found = neighbor_distances(features(7, seed=1), features(30))
    distances = np.sort(cdist(features(7, seed=1).double(), features(30).double(), "cosine"), axis=1)
    np.testing.assert_allclose(found, distances[:, :5].mean(axis=1), atol=1e-6)
