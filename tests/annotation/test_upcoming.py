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

from monai_weckd.annotation import upcoming
from monai_weckd.annotation.order import Scores, components, suggest
from monai_weckd.annotation.upcoming import Upcoming
from monai_weckd.plan.label_kind import LabelKind

IDS = [f"{place:02}.png" for place in range(60)]
ITEMS = [{"id": key, "group": key} for key in IDS]
KIND = LabelKind(("ill", "well"))


@pytest.fixture
def scores():
    features = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    return Scores.empty("").with_more(IDS, features, np.zeros((0, 60, 2)), {})


@pytest.fixture
def chosen(monkeypatch):
    """Count how often the order is made."""
    calls = []
    monkeypatch.setattr(
        upcoming, "suggest", lambda *args, **options: calls.append(options) or suggest(*args, **options)
    )
    return calls


def ask(kept, scores, labeled=(), *, count=1, items=ITEMS, guide=None, how="next"):
    options = {} if how == "renew" else {"count": count}
    found = getattr(kept, how)(scores, items, labeled, stage=1, guide=lambda: guide, **options)
    return found and [one.id for one in found]


def test_the_order_is_made_some_images_at_a_time(scores, chosen):
    kept, labeled = Upcoming(KIND, seed=0, ahead=8), []
    for _ in range(16):
        labeled += ask(kept, scores, labeled)
    assert (len(set(labeled)), len(chosen)) == (16, 2)
    ask(kept, scores, labeled, items=ITEMS[:-1])
    assert len(chosen) == 3


def test_a_new_order_is_ready_and_long_enough_for_the_next_request(scores, chosen):
    kept = Upcoming(KIND, seed=0, ahead=4)
    ask(kept, scores, count=10)
    guide = np.full((60, 2), 0.5)
    ask(kept, scores, IDS[:3], guide=guide, how="renew")
    assert len(chosen) == 2
    found = ask(kept, scores, IDS[:4], count=10)
    assert (len(found), len(chosen)) == (10, 2)
    assert chosen[-1]["guide"] is guide


def test_points_are_computed_once_and_change_nothing(scores, monkeypatch):
    kept = Upcoming(KIND, seed=0, ahead=1)
    np.testing.assert_array_equal(kept.points(scores), components(scores))
    options = {"kind": KIND, "count": 8, "stage": 1, "seed": 0}
    alone = [one.id for one in suggest(scores, ITEMS, (), **options)]
    monkeypatch.setattr(upcoming, "components", None)
    assert ask(kept, scores, count=8) == alone
