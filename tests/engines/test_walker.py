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
from chain_runs import make_chain, make_items, make_network
from ignite.engine import Events

from monai_weckd.engines import ChainEvents
from monai_weckd.networks import fingerprint


def test_stages_walk_in_order_inside_one_run():
    seen = []
    trainer = make_chain(max_epochs=7)
    trainer.add_event_handler(
        ChainEvents.STAGE_STARTED, lambda e: seen.append(("start", e.state.stage, e.state.epoch, e.teacher is not None))
    )
    trainer.add_event_handler(
        ChainEvents.STAGE_COMPLETED, lambda e: seen.append(("end", e.state.stage, e.records[-1].epochs))
    )
    trainer.run()
    assert seen == [
        ("start", 1, 1, False),
        ("end", 1, 2),
        ("start", 2, 3, True),
        ("end", 2, 2),
        ("start", 3, 5, True),
        ("end", 3, 3),
    ]
    assert trainer.state.epoch == 7
    assert trainer.state.iteration == 7 * 4


def test_each_stage_trains_on_the_labels_of_its_plan_and_no_others():
    items = make_items()
    for index, item in enumerate(items):
        item["image"][0, 0, 0] = index  # a tag, to know the item by in a batch
    seen = {1: set(), 2: set(), 3: set()}

    def look(engine):
        assert (engine.state.batch["label"] >= 0).all()
        seen[engine.state.stage] |= {items[round(float(tag))]["id"] for tag in engine.state.batch["image"][:, 0, 0, 0]}

    trainer = make_chain(items=items, policy="disjoint", epoch_length=20, noise=0.0, learning_rate=1e-6)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run()
    assert [seen[stage.stage] for stage in trainer.plan.stages] == [set(stage.labeled) for stage in trainer.plan.stages]


def test_pool_images_come_without_labels_and_only_under_a_teacher():
    counts = {1: set(), 2: set(), 3: set()}
    trainer = make_chain(pool_ratio=2)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: counts[e.state.stage].add((len(e.state.batch["label"]), int((e.state.batch["label"] == -1).sum()))),
    )
    trainer.run()
    assert counts == {1: {(8, 0)}, 2: {(24, 16)}, 3: {(24, 16)}}


def test_optimizer_and_scheduler_begin_afresh():
    rates, momenta = [], []
    trainer = make_chain(scheduler=True)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda e: rates.append(e.optimizer.param_groups[0]["lr"]))
    trainer.add_event_handler(ChainEvents.STAGE_STARTED, lambda e: momenta.append(len(e.optimizer.state)))
    trainer.run()
    assert rates == pytest.approx([0.025, 0.0125] * 3)
    assert momenta == [0, 0, 0]


@pytest.mark.parametrize("init", ["teacher", "initial"])
def test_init_decides_where_a_student_starts(init):
    begin, initial = [], make_network()
    trainer = make_chain(init=init, accept="always")
    expected = []

    def compare(engine):
        source = engine.teacher if init == "teacher" and engine.teacher is not None else initial
        expected.append(fingerprint(source))
        begin.append(fingerprint(engine.network))

    trainer.add_event_handler(ChainEvents.STAGE_STARTED, compare)
    trainer.run()
    assert begin == expected
    assert len(set(begin)) == (3 if init == "teacher" else 1)


def test_teacher_is_another_object_and_does_not_change():
    teachers = []

    def look(engine):
        if engine.teacher is not None:
            assert engine.teacher is not engine.network
            teachers.append((engine.state.stage, fingerprint(engine.teacher), engine.teacher.training))

    trainer = make_chain(accept="always")
    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run()
    assert len({print_ for stage, print_, _ in teachers if stage == 2}) == 1
    assert len({print_ for _, print_, _ in teachers}) == 2
    assert not any(training for *_, training in teachers)
