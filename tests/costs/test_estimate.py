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
from chain_runs import make_items
from held_out import held_out
from step_costs import COSTS, OPTIONS

from monai_weckd import plan_chain
from monai_weckd.costs.estimate import CostEstimate, estimate_cost


def make_plan(stages=3, **options):
    return plan_chain(make_items(), held_out(num_stages=stages, **options), classes=("a", "b", "c"))


def by_hand(plan, *, pool_ratio=0, views=0, batch_size=4, epochs=4, length=10):
    """Walk through a chain step by step and add up what each step costs."""
    totals = []
    for stage in plan.stages:
        pooled, seconds = pool_ratio and stage.stage > 1, 0.0
        for step in range(epochs * length):
            seconds += COSTS.pool_step if pooled else COSTS.step
            passes = [(step + 1) * batch_size / len(stage.labeled)]
            if pooled:
                passes.append((step + 1) * batch_size * pool_ratio / len(plan.pool(stage.stage)))
            # once every item of the slower part has been seen in all its views, nothing is asked any more
            shown = min(passes)
            if stage.stage > 1 and (not views or shown <= views + 1e-9):
                seconds += COSTS.pool_teacher if pooled else COSTS.teacher
        seconds += (epochs + 1) * len(plan.val) * COSTS.validate + len(plan.test) * COSTS.validate
        totals.append(seconds)
    return totals


@pytest.mark.parametrize("policy", ["disjoint", "cumulative"])
@pytest.mark.parametrize("pool_ratio", [0, 2])
@pytest.mark.parametrize("views", [0, 1, 3, 10_000])
def test_the_formula_adds_up_what_each_step_costs(policy, pool_ratio, views):
    plan = make_plan(policy=policy)
    found = estimate_cost(plan, COSTS, pool_ratio=pool_ratio, views=views, **OPTIONS)
    # a teacher that is asked for parts of batches is counted to the nearest step
    assert found.seconds == pytest.approx(by_hand(plan, pool_ratio=pool_ratio, views=views), abs=0.031)
    assert found.steps == (40, 40, 40)
    images = len(plan.train) + len(plan.val) + len(plan.test)
    assert found.load_seconds == pytest.approx(images * 0.004)
    assert found.total_seconds == pytest.approx(sum(found.seconds) + found.load_seconds)
    assert found.peak_bytes == 10**8 + 16_000 + 12_000 + 50_000 + images * 300


def test_what_is_not_held_out_costs_nothing():
    plan = make_plan(val_fraction=0.0, test_fraction=0.0)
    found = estimate_cost(plan, COSTS, **OPTIONS)
    assert found.seconds == pytest.approx([40 * 0.02, 40 * 0.027, 40 * 0.027])
    assert found.load_seconds == pytest.approx(len(make_items()) * 0.004)


def test_a_chain_of_one_stage_has_no_teacher():
    plan = make_plan(stages=1)
    first, views = (estimate_cost(plan, COSTS, pool_ratio=2, views=views, **OPTIONS) for views in (0, 5))
    assert first == views
    assert first.seconds[0] == pytest.approx(120 * 0.02 + 13 * len(plan.val) * 0.001 + len(plan.test) * 0.001)


def test_views_never_cost_more_than_none_and_stage_epochs_count():
    plan = make_plan()
    costs = [estimate_cost(plan, COSTS, views=views, **OPTIONS).total_seconds for views in (1, 2, 4, 100, 0)]
    assert costs == sorted(costs)
    assert estimate_cost(plan, COSTS, stage_epochs=(1, 2, 9), **OPTIONS).steps == (10, 20, 90)


def test_an_estimate_is_json():
    estimate = CostEstimate(steps=(1, 2), seconds=(0.5, 1.5), load_seconds=1.0, peak_bytes=7)
    assert estimate.to_dict() == {
        "steps": (1, 2),
        "seconds": (0.5, 1.5),
        "load_seconds": 1.0,
        "peak_bytes": 7,
        "total_seconds": 3.0,
    }
