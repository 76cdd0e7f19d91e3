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

import random

import pytest
import torch
from chain_runs import make_chain, make_items
from held_out import held_out
from ignite.engine import Events

from monai_weckd import plan_chain
from monai_weckd.engines import ChainEvents

CLASSES = ("a", "b", "c")


def active_plan(items, **options):
    return plan_chain(items, held_out(selection="herding", policy="cumulative", **options), classes=CLASSES)


def run(items, **options):
    trainer = make_chain(items=items, plan=active_plan(items), max_epochs=3, accept="always", **options)
    trainer.run()
    return trainer


def weights(trainer):
    return torch.cat([tensor.flatten().double() for tensor in trainer.network.state_dict().values()])


def test_shards_are_drawn_when_their_stage_starts():
    items, known = make_items(), []
    trainer = make_chain(items=items, plan=active_plan(items), max_epochs=3, accept="always")
    assert trainer.plan.undrawn == 1
    trainer.add_event_handler(
        ChainEvents.STAGE_STARTED, lambda e: known.append([len(s.labeled) for s in e.plan.stages])
    )
    trainer.run()
    size = trainer.plan.shard_size
    assert known == [[size, 0, 0], [size, 2 * size, 0], [size, 2 * size, 3 * size]]
    assert trainer.plan.undrawn is None
    assert trainer.oracle.budget == 3 * size == trainer.plan.label_budget["train"]
    assert [record.selection for record in trainer.records] == ["herding"] * 3


def test_a_first_shard_that_nobody_can_be_unsure_of_is_typical():
    items, shards = make_items(), {}
    for selection in ("typical", "margin", "badge"):
        plan = plan_chain(items, held_out(selection=selection, policy="cumulative"), classes=CLASSES)
        trainer = make_chain(items=items, plan=plan, max_epochs=3, accept="always")
        trainer.run()
        shards[selection] = [stage.new for stage in trainer.plan.stages]
    assert shards["typical"][0] == shards["margin"][0] == shards["badge"][0]
    assert shards["typical"][1] != shards["margin"][1] != shards["badge"][1]


def test_the_same_run_chooses_the_same():
    assert run(make_items()).plan == run(make_items()).plan
    assert torch.equal(weights(run(make_items())), weights(run(make_items())))


def test_labels_that_were_never_asked_for_change_nothing():
    items = [{**item, "split": "train" if place % 5 else "val"} for place, item in enumerate(make_items(per_group=1))]
    first = run(items)
    seen = first.oracle.revealed | set(first.plan.val) | set(first.plan.test)
    hidden = [item for item in items if item["id"] not in seen]
    labels = [item["label"] for item in hidden]
    random.Random(1).shuffle(labels)
    changed = {item["id"]: label for item, label in zip(hidden, labels, strict=True)}
    assert any(changed[item["id"]] != item["label"] for item in hidden)
    second = run([{**item, "label": changed.get(item["id"], item["label"])} for item in items])
    assert first.plan == second.plan
    assert torch.equal(weights(first), weights(second))


def test_another_run_can_use_the_chosen_labels():
    items = make_items()
    chosen = run(items).plan
    shards = [stage.new for stage in chosen.stages]
    one = plan_chain(items, held_out(num_stages=1), classes=CLASSES, shards=shards)
    assert one.settings.selection == "given"
    assert set(one.stages[0].labeled) == set(chosen.stages[-1].labeled)
    trainer = make_chain(items=items, plan=one, max_epochs=1, accept="always")
    trainer.run()
    assert trainer.records[0].labeled == 3 * chosen.shard_size


@pytest.mark.parametrize("teacher", ["student", "average"])
def test_a_student_can_teach_itself_from_the_first_stage_on(teacher):
    batches, differs = [], []

    def look(engine):
        batches.append(len(engine.state.batch["label"]))
        pairs = zip(engine.teacher.parameters(), engine.network.parameters(), strict=True)
        differs.append(any(not torch.equal(a, b) for a, b in pairs))

    trainer = make_chain(
        max_epochs=3, teacher=teacher, averaging=0.9 if teacher == "average" else 0.0, pool_ratio=1, accept="always"
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run()
    assert batches == [16] * 12  # eight labeled and as many pool images, in the first stage too
    # after a step the student is its own teacher, whereas an average lags behind
    assert all(differs) if teacher == "average" else not any(differs)


def test_a_teacher_that_changes_cannot_be_cached():
    with pytest.raises(ValueError, match=r"teacher_cache: expected False with teacher='student', which changes"):
        make_chain(teacher="student", teacher_cache=True, views=2)


def test_an_unknown_teacher_is_refused():
    with pytest.raises(ValueError, match=r"teacher: expected one of .*, got 'ensembel'. Did you mean 'ensemble'"):
        make_chain(teacher="ensembel")
