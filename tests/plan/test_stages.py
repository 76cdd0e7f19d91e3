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
from held_out import held_out

from monai_weckd import ChainPlan, plan_chain
from monai_weckd.plan import read_shards, replan
from monai_weckd.plan.checks import check_plan

ITEMS = [{"id": f"i{i:04}", "group": f"p{i // 2}", "label": (i * 7 + i // 5) % 3} for i in range(300)]
CLASSES = ("ill", "well", "unsure")


def active(**options):
    return plan_chain(ITEMS, held_out(selection="margin", **options), classes=CLASSES)


def shard(plan, first):
    return plan.train[first : first + plan.shard_size]


def test_a_plan_for_a_teacher_to_fill_reads_no_training_label():
    home = {key: split for split in ("train", "val", "test") for key in getattr(active(), split)}
    items = [{**item, "split": home[item["id"]]} for item in ITEMS]
    unlabeled = [{**item, "label": 9} if item["split"] == "train" else item for item in items]
    plan = plan_chain(unlabeled, held_out(selection="margin"), classes=CLASSES)
    assert [stage.labeled for stage in plan.stages] == [(), (), ()]
    assert plan.undrawn == 1
    assert not plan.settings.stratify


@pytest.mark.parametrize(("policy", "sizes"), [("cumulative", [1, 2, 3]), ("disjoint", [1, 1, 1])])
def test_drawn_shards_become_stages(policy, sizes):
    plan = active(policy=policy)
    budget, expected = plan.label_budget, [size * plan.shard_size for size in sizes]
    assert [plan.num_labeled(stage) for stage in (1, 2, 3)] == expected
    for stage in (1, 2, 3):
        plan = plan.draw(stage, shard(plan, 40 * stage))
        assert check_plan(plan, ITEMS) == []
    assert plan.undrawn is None
    assert [len(stage.labeled) for stage in plan.stages] == expected == [plan.num_labeled(s) for s in (1, 2, 3)]
    assert plan.label_budget == budget
    assert ChainPlan.from_json(plan.to_json()) == plan


def finding_plan(**options):
    rng = np.random.default_rng(0)
    items = [
        {"id": f"i{i:03}", "group": f"p{i // 2}", "label": rng.integers(0, 2, 3).astype(np.float32)} for i in range(200)
    ]
    return plan_chain(items, held_out(**options), classes=CLASSES, findings=True), items


@pytest.mark.parametrize("policy", ["disjoint", "cumulative", "shared"])
def test_random_shards_ask_for_some_findings_by_chance(policy):
    plan, items = finding_plan(findings_per_image=2, policy=policy, label_fraction=0.2)
    assert set(plan.asked) == {key for stage in plan.stages for key in stage.labeled}
    assert {len(places) for places in plan.asked.values()} == {2}
    assert ChainPlan.from_json(plan.to_json()) == plan
    assert ChainPlan.from_json(plan.to_json()).asked == plan.asked
    assert check_plan(plan, items) == []
    whole, _ = finding_plan(policy=policy, label_fraction=0.2)
    assert whole.asked == {}
    assert [stage.new for stage in whole.stages] == [stage.new for stage in plan.stages]


def test_a_teacher_fills_in_what_it_asks_for():
    plan, _ = finding_plan(findings_per_image=1, selection="margin")
    for stage in (1, 2):
        ids = shard(plan, 40 * stage)
        plan = plan.draw(stage, ids, {key: (place % 3,) for place, key in enumerate(ids)})
        assert [plan.asked[key] for key in ids] == [(place % 3,) for place in range(len(ids))]
    assert len(plan.asked) == 2 * plan.shard_size
    assert ChainPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("stages", [2, 1])
def test_given_shards_of_a_plan_keep_the_findings_that_were_asked_for(tmp_path, stages):
    plan, items = finding_plan(findings_per_image=1, num_stages=2, label_fraction=0.3)
    (tmp_path / "plan.json").write_text(plan.to_json())
    settings = held_out(num_stages=stages)
    other = plan_chain(items, settings, classes=CLASSES, findings=True, shards=tmp_path / "plan.json", earlier=plan)
    assert other.asked == plan.asked
    whole = plan_chain(
        items, settings, classes=CLASSES, findings=True, shards=[stage.new for stage in plan.stages][:stages]
    )
    assert whole.asked == {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"findings_per_image": 4}, "findings_per_image: expected at most as many as there are, got 4 of 3 findings"),
        ({"findings_per_image": 0}, "findings_per_image: expected an integer of at least 1, got 0"),
    ],
)
def test_findings_that_cannot_be_asked_for_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        finding_plan(**options)


def test_one_class_an_image_has_no_single_findings():
    with pytest.raises(ValueError, match="got 1 for labels of one class an image"):
        plan_chain(ITEMS, held_out(findings_per_image=1), classes=CLASSES)


def test_a_shared_shard_is_drawn_once():
    plan = active(policy="shared")
    plan = plan.draw(1, shard(plan, 0))
    assert plan.undrawn is None
    assert len({stage.labeled for stage in plan.stages}) == 1
    assert plan.label_budget["train"] == plan.shard_size


def test_shards_are_drawn_in_turn_and_from_training_items():
    plan = active()
    with pytest.raises(ValueError, match=r"stage: expected 1, whose shard is next, got 2"):
        plan.draw(2, shard(plan, 0))
    with pytest.raises(ValueError, match=r"ids: expected \d+ training items that no stage has yet, got 1,"):
        plan.draw(1, plan.train[:1])
    with pytest.raises(ValueError, match=r"ids: expected .* 1 of them not in training and 0 used before"):
        plan.draw(1, [plan.test[0], *shard(plan, 0)[1:]])
    drawn = plan.draw(1, shard(plan, 0))
    with pytest.raises(ValueError, match=rf"0 of them not in training and {plan.shard_size} used before"):
        drawn.draw(2, shard(plan, 0))
    with pytest.raises(ValueError, match=r"stage: expected None, whose shard is next, got 1"):
        plan_chain(ITEMS, held_out(), classes=CLASSES).draw(1, ())


def test_given_shards_are_taken_as_they_are():
    plan = plan_chain(ITEMS, held_out(), classes=CLASSES)
    parts = [plan.train[:3], plan.train[10:20], plan.train[30:31]]
    given = plan_chain(ITEMS, held_out(policy="cumulative"), classes=CLASSES, shards=parts)
    assert [stage.new for stage in given.stages] == parts
    assert [len(stage.labeled) for stage in given.stages] == [3, 13, 14]
    assert check_plan(given, ITEMS) == []
    one = plan_chain(ITEMS, held_out(policy="shared"), classes=CLASSES, shards=parts)
    assert {len(stage.labeled) for stage in one.stages} == {14}


def test_given_shards_that_do_not_fit_are_refused():
    plan = plan_chain(ITEMS, held_out(), classes=CLASSES)
    with pytest.raises(ValueError, match=r"shards: expected one for each of 3 stages, got 2"):
        plan_chain(ITEMS, held_out(), classes=CLASSES, shards=[plan.train[:5], plan.train[5:9]])
    with pytest.raises(ValueError, match=r"shards: expected distinct ids of labeled training items, got 1 twice and 0"):
        plan_chain(ITEMS, held_out(num_stages=2), classes=CLASSES, shards=[plan.train[:5], plan.train[4:9]])
    with pytest.raises(ValueError, match=r"shards: expected distinct ids .* got 0 twice and 1 others"):
        plan_chain(ITEMS, held_out(num_stages=1), classes=CLASSES, shards=[plan.test[:1]])
    given = plan_chain(ITEMS, held_out(num_stages=1), classes=CLASSES, shards=[plan.train[:9]])
    with pytest.raises(ValueError, match=r"train_items: expected the items of the given shards, got others"):
        replan(given, plan.select(ITEMS, "train"))


def test_a_missing_class_can_be_allowed():
    few = [{**ITEMS[n], "group": f"g{n}", "label": 0, "split": ("train", "val", "test")[n % 3]} for n in range(300)]
    for number in range(3):
        few[number]["label"] = 1
    with pytest.raises(ValueError, match=r"got none of .* stratify=True, another seed, or missing_classes='allow'"):
        plan_chain(few, held_out(stratify=False), classes=("a", "b"))
    plan = plan_chain(few, held_out(stratify=False, missing_classes="allow"), classes=("a", "b"))
    assert plan.shard_size == 10


def test_settings_are_checked():
    with pytest.raises(ValueError, match=r"selection: expected one of .* got 'typcial'. Did you mean 'typical'"):
        plan_chain(ITEMS, held_out(selection="typcial"), classes=CLASSES)
    with pytest.raises(ValueError, match=r"missing_classes: expected one of .* got 'ok'"):
        plan_chain(ITEMS, held_out(missing_classes="ok"), classes=CLASSES)
    with pytest.raises(ValueError, match=r"shard_by: expected 'item' with selection='margin', got 'group'"):
        active(shard_by="group")


def test_shards_are_read_from_a_plan(tmp_path):
    plan = plan_chain(ITEMS, held_out(), classes=CLASSES)
    path = tmp_path / "plan.json"
    path.write_text(plan.to_json())
    assert read_shards(path) == [stage.new for stage in plan.stages]
    path.write_text(active().to_json())
    with pytest.raises(ValueError, match=r"path: expected a plan whose shards are drawn, got none for stage 1"):
        read_shards(path)
