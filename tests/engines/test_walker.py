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
from chain_runs import make_chain, make_network
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
