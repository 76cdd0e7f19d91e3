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

from types import SimpleNamespace

import numpy as np
import pytest

from monai_weckd.annotation.learning import Learning
from monai_weckd.annotation.live import LiveHead
from monai_weckd.annotation.order import Scores
from monai_weckd.networks import StandardizedLinear
from monai_weckd.plan.label_kind import LabelKind

KIND = LabelKind(("ill", "well"))
IDS = [f"{place:02}.png" for place in range(40)]
ITEMS = [{"id": key} for key in IDS]


def scores_of(ids):
    random = np.random.default_rng(0)
    points = random.normal(size=(len(ids), 4)) + 2 * (np.arange(len(ids)) % 2)[:, None]
    return Scores.empty("").with_more(ids, points.astype(np.float32), np.zeros((0, len(ids), 2)), {})


@pytest.fixture
def learning():
    made = []
    bundle = SimpleNamespace(
        kind=KIND,
        live_head=lambda ids, features: (
            made.append(len(ids)) or LiveHead(StandardizedLinear(4, 2), ids, features, KIND)
        ),
    )
    learning = Learning(bundle)
    learning.made = made
    return learning


def labels(count):
    return {key: KIND.names[place % 2] for place, key in enumerate(IDS[:count])}


def test_figures_follow_the_labels(learning):
    scores = scores_of(IDS)
    learning.solve(scores, ITEMS, labels(1))
    assert (learning.model(scores), learning.guide(scores), learning.figures(scores)) == (None, None, None)
    learning.solve(scores, ITEMS, labels(12))
    assert learning.figures(scores)["estimate"] is None  # not yet
    learning.estimate(scores, ITEMS)
    learning.solve(scores, ITEMS, labels(14))
    learning.estimate(scores, ITEMS)
    found = learning.figures(scores)
    assert (found["labels"], found["estimate"]["labels"], found["before"]["labels"]) == (14, 14, 12)
    assert learning.made == [40]
    assert learning.guide(scores).shape == (40, 2)


def test_a_head_counts_for_its_own_images_alone(learning):
    scores, more = scores_of(IDS[:30]), scores_of(IDS)
    learning.solve(scores, ITEMS, labels(12))
    assert learning.model(more) is None
    learning.estimate(more, ITEMS)
    assert learning.figures(scores)["estimate"] is None
    learning.solve(Scores.empty(""), ITEMS, labels(12))  # nothing has been scored
    assert learning.model(scores) is not None
