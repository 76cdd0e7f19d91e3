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

import pytest
from held_out import held_out

from monai_weckd.plan.checks import PlanError, check_plan
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.plan.planner import plan_chain, replan

ITEMS = [{"id": f"i{i:04}", "group": f"p{i // 2}", "label": (i * 7 + i // 5) % 3} for i in range(300)]
PLAN = plan_chain(ITEMS, held_out(), classes=("ill", "well", "unsure"))


def test_replan_with_the_same_items_is_the_same_plan():
    train = PLAN.select(ITEMS, "train")
    assert replan(PLAN, train) == PLAN
    assert replan(PLAN, reversed(train)) == PLAN
    assert PLAN.split_by_label


def test_replan_with_other_items():
    others = [{**item, "id": f"new/{item['id']}", "group": f"new {item['group']}"} for item in ITEMS[:200]]
    oracle = LabelOracle(others)
    plan = replan(PLAN, others, oracle=oracle)
    assert plan.train == tuple(sorted(item["id"] for item in others))
    assert (plan.val, plan.test, plan.settings.policy, plan.settings.seed) == (
        PLAN.val,
        PLAN.test,
        PLAN.settings.policy,
        PLAN.settings.seed,
    )
    assert [len(stage.new) for stage in plan.stages] == [20, 20, 20]
    assert check_plan(plan, [*others, *PLAN.select(ITEMS, "val"), *PLAN.select(ITEMS, "test")]) == []
    assert oracle.budget == 60
    assert not plan.split_by_label


def test_replan_validation():
    with pytest.raises(
        ValueError, match=r"train_items: expected no item of validation or test, got \d+, first '.*'. Leave"
    ):
        replan(PLAN, ITEMS)
    with pytest.raises(
        ValueError, match=r"label_fraction: expected a label of each of 3 classes in a shard, got 1 labels"
    ):
        replan(PLAN, PLAN.select(ITEMS, "train")[:10])
    with pytest.raises(PlanError, match=r"train: expected class indices below 3, got 7 for"):
        replan(PLAN, [{**item, "label": 7} for item in PLAN.select(ITEMS, "train")])
