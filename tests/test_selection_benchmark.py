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

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.selection import (
    RULES,
    compare_rules,
    embed_depths,
    graph_coverage,
    row_space_head,
    stage_size,
)
from monai_weckd.networks import EfficientNetLite
from monai_weckd.selection import SelectionContext


def blobs(size=90, classes=3):
    """Return features of well separated classes, labels, and groups of three items of a class."""
    rng = np.random.default_rng(0)
    labels = np.arange(size) % classes
    features = 5 * np.eye(classes, 6)[labels] + rng.normal(0, 0.5, (size, 6))
    return features.astype(np.float32), labels, np.array([f"{i % classes}-{i // 9}" for i in range(size)])


def test_the_head_in_few_coordinates_is_that_on_all_features():
    rng = np.random.default_rng(0)
    rows, labels, labeled = rng.standard_normal((60, 200)), rng.integers(0, 3, 60), np.arange(0, 60, 4)
    direct = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000, tol=1e-8)
    direct.fit(rows[labeled], labels[labeled])
    found = row_space_head(rows @ rows.T, labels, labeled, 4)
    np.testing.assert_allclose(found[:, :3], direct.predict_proba(rows), atol=1e-3)
    assert not found[:, 3].any()
    assert row_space_head(rows @ rows.T, np.zeros(60, dtype=int), labeled, 2)[:, 0].tolist() == [1] * 60


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("guided", [False, True])
def test_rules_choose_distinct_items_without_a_label(name, guided):
    features, _, groups = blobs()
    probabilities = np.random.default_rng(0).dirichlet(np.ones(3), 90).astype(np.float32) if guided else None
    labeled = np.arange(90) < 5
    context = SelectionContext(features, probabilities, groups.tolist(), labeled, np.ones(90, bool), seed=0, stage=2)
    chosen = RULES[name](context, 11)
    assert len(set(chosen.tolist())) == 11
    assert not labeled[chosen].any()


def test_graph_coverage_takes_an_item_of_each_blob():
    features, labels, _ = blobs()
    names = [str(i) for i in range(90)]
    context = SelectionContext(features, None, names, np.zeros(90, bool), np.ones(90, bool), seed=0, stage=1)
    assert sorted(labels[graph_coverage(context, 3)]) == [0, 1, 2]


@pytest.mark.parametrize(("budget", "count"), [("1 a class", 4), ("2 a class", 8), ("2 %", 8), ("10 %", 41)])
def test_stage_sizes(budget, count):
    assert stage_size(budget, 412, 4) == count


def test_every_rule_is_scored_in_every_fold_and_stage():
    found = compare_rules(blobs(), {name: RULES[name] for name in ("herding", "random")}, "1 a class", draws=2)
    assert {name: values.shape for name, values in found.items()} == {"herding": (10, 3), "random": (10, 3)}
    # one label of each of three separated classes is enough, and random labels lack some
    assert found["herding"].mean() > 0.95
    assert found["random"][:, 0].mean() < 0.9


def test_depths_do_not_change_when_an_image_is_flipped():
    network = EfficientNetLite(spatial_dims=2, in_channels=1, num_classes=2).eval()
    images = torch.rand(2, 1, 32, 32)
    rows = embed_depths(network, images)
    assert rows.shape == (2, 40 + 112 + 320 + 1280)
    torch.testing.assert_close(embed_depths(network, images.flip(3)), rows, rtol=1e-4, atol=1e-5)
