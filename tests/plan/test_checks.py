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

import re
from dataclasses import replace

import pytest
from held_out import held_out

from monai_weckd.plan.chain_plan import ChainPlan, StagePlan
from monai_weckd.plan.checks import PlanError, check_plan
from monai_weckd.plan.planner import plan_chain
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.options import option_names

CLASSES = ("ill", "well", "unsure")
ITEMS = [{"id": f"i{i:04}", "group": f"p{i // 2}", "label": (i * 7 + i // 5) % 3} for i in range(300)]
LABELS = {item["id"]: item["label"] for item in ITEMS}
PLAN = plan_chain(ITEMS, held_out(), classes=CLASSES)


def test_plan_error_shows_the_first_problem_and_keeps_all():
    assert str(PlanError(["one: bad"])) == "one: bad"
    error = PlanError(["one: bad", "two: bad", "three: bad"])
    assert str(error) == "one: bad (2 more, see `problems`)"
    assert error.problems == ("one: bad", "two: bad", "three: bad")


def broken(**changes) -> ChainPlan:
    """Return the plan with other fields, of which those of its settings are changed there."""
    names = changes.keys() & set(option_names(PlanSettings))
    settings = replace(PLAN.settings, **{name: changes.pop(name) for name in names})
    return replace(PLAN, settings=settings, **changes)


def stages(**changes) -> tuple[StagePlan, ...]:
    return (PLAN.stages[0], replace(PLAN.stages[1], **changes), PLAN.stages[2])


FIRST = PLAN.stages[0].new
ILL = tuple(key for key in PLAN.stages[1].new if LABELS[key] == 0)
BROKEN = {
    "unknown": (broken(val=(*PLAN.val, "zz")), r"val: expected ids of the items, got 1 unknown, first 'zz'"),
    "twice": (broken(val=(*PLAN.val, PLAN.val[0])), r"val: expected distinct ids, got 1 repeated"),
    "parted": (
        broken(val=PLAN.val + PLAN.test[:1]),
        r"group: expected each in one split, got 1 parted, first 'p.*' in val and test",
    ),
    "empty": (broken(train=()), r"train: expected at least one item, got none"),
    "class_of_val": (broken(val=PLAN.val[:1]), r"val: expected labels of every class, got none of \[.*\] among 1"),
    "numbers": (broken(stages=PLAN.stages[:2]), r"stages: expected the numbers 1 to 3, got \[1, 2\]"),
    "not_train": (broken(stages=stages(new=PLAN.val, labeled=PLAN.val)), r"stage 2: expected training items, got 'i"),
    "overlap": (
        broken(stages=stages(new=FIRST, labeled=FIRST)),
        r"stage 2: expected each item in one shard, got 18 in two",
    ),
    "policy": (
        broken(policy="cumulative"),
        r"stage 2: expected the 36 labels of policy 'cumulative', got 18 too many or too few",
    ),
    "shared": (broken(policy="shared"), r"stage 2: expected no new labels \(shared\), got 18"),
    "class_of_stage": (
        broken(stages=stages(new=ILL, labeled=ILL)),
        r"stage 2: expected labels of every class, got none of \['well', 'unsure'\]",
    ),
    "shared_group": (
        broken(shard_by="group"),
        r"stage \d: expected each group in one shard, got \d+ in two, first 'p.*' as in stage",
    ),
}


@pytest.mark.parametrize(("plan", "message"), BROKEN.values(), ids=BROKEN)
def test_check_plan_finds(plan, message):
    problems = check_plan(plan, ITEMS)
    assert any(re.match(message, problem) for problem in problems), problems
    assert not any("\n" in problem for problem in problems)


@pytest.mark.parametrize("changes", [{"val": ()}, {"test": ()}, {"val": (), "test": ()}])
def test_validation_and_test_may_be_absent(changes):
    assert check_plan(broken(**changes), ITEMS) == []


def test_check_plan_finds_an_item_that_lost_its_label():
    items = [{**item, "label": UNLABELED} if item["id"] == FIRST[0] else item for item in ITEMS]
    (problem,) = check_plan(PLAN, items)
    assert problem.startswith(f"stage 1: expected class indices below 3, got None for '{FIRST[0]}'")


@pytest.mark.parametrize("policy", ["disjoint", "cumulative", "shared"])
@pytest.mark.parametrize("shard_by", ["item", "group"])
@pytest.mark.parametrize("stratify", [True, False])
def test_check_plan_finds_nothing_in_a_good_plan(policy, shard_by, stratify):
    plan = plan_chain(ITEMS, held_out(policy=policy, shard_by=shard_by, stratify=stratify), classes=CLASSES)
    assert check_plan(plan, ITEMS) == []
