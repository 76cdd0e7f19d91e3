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

import io

import numpy as np
import pytest
import torch

from monai_weckd.handlers.kind import kind_reference
from monai_weckd.networks.nearest import neighbor_distances


class Embeddings:
    """Embeddings in memory."""

    def __init__(self, rows):
        self.rows = rows

    def gather(self, indices):
        return self.rows[torch.as_tensor(indices)]


def reference(count, group_of):
    rows = torch.rand((count, 8), generator=torch.Generator().manual_seed(0))
    items = [{"group": group_of(number)} for number in range(count)]
    content = kind_reference(Embeddings(rows), items)
    if content is None:
        return rows, items, None
    with np.load(io.BytesIO(content), allow_pickle=False) as found:
        return rows, items, {name: found[name] for name in found.files}


@pytest.mark.parametrize("count", [60, 512, 2000])
def test_nearly_all_images_of_the_training_are_within_the_limit(count):
    rows, items, found = reference(count, lambda number: str(number // 2))
    assert found["features"].dtype == np.float16
    assert len(found["features"]) == min(count, 512)
    np.testing.assert_allclose(np.linalg.norm(found["features"].astype(float), axis=1), 1, atol=1e-2)
    distances = neighbor_distances(rows, groups=[item["group"] for item in items])
    if count <= 512:
        assert 0 < np.mean(distances > found["limit"]) <= 0.02 + 1 / count


@pytest.mark.parametrize(
    ("count", "groups", "known"), [(100, 1, False), (100, 4, False), (100, 5, True), (19, 19, False)]
)
def test_few_images_or_groups_set_no_limit(count, groups, known):
    assert (reference(count, lambda number: str(number % groups))[2] is not None) == known
