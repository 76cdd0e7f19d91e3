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
from scipy.spatial.distance import pdist

from monai_weckd.selection.projection import DIMENSIONS, embed


def centered_directions(features):
    directions = features / np.linalg.norm(features, axis=1, keepdims=True)
    return directions - directions.mean(axis=0)


@pytest.mark.parametrize("shape", [(50, 3), (20, DIMENSIONS), (2, 2)])
def test_few_dimensions_keep_all_distances(shape):
    features = np.random.default_rng(0).standard_normal(shape)
    embedding = embed(features, np.random.default_rng(1))
    assert embedding.shape == shape
    np.testing.assert_allclose(pdist(embedding), pdist(centered_directions(features)), atol=1e-10)


@pytest.mark.parametrize("items", [60, 400])
def test_many_dimensions_are_projected_as_by_singular_values(items):
    rng = np.random.default_rng(0)
    # features of a network have a spectrum that falls, not a flat one
    features = (
        rng.standard_normal((items, 200)) * np.arange(1, 201) ** -1.0 @ np.linalg.qr(rng.standard_normal((200, 200)))[0]
    )
    embedding = embed(features.astype(np.float32), rng)
    left, values, _ = np.linalg.svd(centered_directions(features), full_matrices=False)
    exact = (left * values)[:, :DIMENSIONS]
    assert embedding.shape == (items, DIMENSIONS)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(pdist(embedding), pdist(exact), rtol=0.01, atol=0.003)


def test_length_does_not_matter():
    features = np.random.default_rng(0).standard_normal((30, 6))
    longer = features * np.random.default_rng(1).uniform(0.1, 10, (30, 1))
    first, second = (embed(values, np.random.default_rng(2)) for values in (features, longer))
    np.testing.assert_allclose(pdist(first), pdist(second), atol=1e-10)


def test_rows_of_zeros_and_equal_rows():
    assert not embed(np.zeros((5, 40), dtype=np.float32), np.random.default_rng(0)).any()
    assert np.abs(embed(np.ones((5, 40), dtype=np.float32), np.random.default_rng(0))).max() < 1e-6


def test_features_are_left_as_they_are():
    features = np.random.default_rng(0).standard_normal((30, 50)).astype(np.float32)
    before = features.copy()
    embed(features, np.random.default_rng(1))
    assert np.array_equal(features, before)
