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

import logging

import pytest
from chain_runs import make_chain, make_items
from held_out import held_out
from ignite.engine import Events

from monai_weckd import plan_chain
from monai_weckd.engines import ChainEvents
from monai_weckd.networks import fingerprint


class Script:
    """A key metric that says what the test wants, validation by validation."""

    def __init__(self, trainer, values):
        self.values = iter(values)
        self.weights = []
        evaluator = trainer.walker.evaluator
        evaluator.add_event_handler(Events.EPOCH_COMPLETED, self.set, trainer)

    def set(self, evaluator, trainer):
        evaluator.state.metrics["val_accuracy"] = next(self.values)
        self.weights.append(fingerprint(trainer.network))


def test_best_weights_of_the_stage_come_back_latest_of_equals():
    trainer = make_chain(max_epochs=9)
    script = Script(trainer, [0.5, 0.7, 0.6, 0.8, 0.8, 0.7, 0.8, 0.9, 0.9])
    ends = []
    trainer.add_event_handler(ChainEvents.STAGE_COMPLETED, lambda e: ends.append(fingerprint(e.network)))
    trainer.run()
    assert [record.best_epoch for record in trainer.records] == [2, 2, 3]
    assert ends == [script.weights[1], script.weights[4], script.weights[8]]
    assert [record.value for record in trainer.records] == [0.7, 0.8, 0.9]


def test_gate_rejects_a_stage_that_is_worse_than_its_teacher():
    trainer = make_chain(max_epochs=6)
    script = Script(trainer, [0.6, 0.7, 0.5, 0.6, 0.7, 0.1])
    trainer.run()
    assert [record.accepted for record in trainer.records] == [True, False, True]
    assert [record.teacher for record in trainer.records] == [None, 1, 1]
    assert [record.previous for record in trainer.records] == [None, 0.7, 0.7]
    assert fingerprint(trainer.network) == script.weights[4]


@pytest.mark.parametrize(("tolerance", "accepted"), [(0.0, False), (0.09, False), (0.11, True)])
@pytest.mark.parametrize("sign", [1, -1])
def test_gate_accepts_what_is_worse_by_less_than_the_tolerance(tolerance, accepted, sign):
    trainer = make_chain(max_epochs=3, tolerance=tolerance)
    if sign == -1:  # the less the better
        trainer.walker.evaluator.metric_cmp_fn = lambda current, best: current < best
    Script(trainer, [sign * 0.6, sign * 0.5, sign * 0.7])
    trainer.run()
    assert [record.accepted for record in trainer.records] == [True, accepted, True]
    assert [record.tolerance for record in trainer.records] == [tolerance] * 3
    assert trainer.records[2].previous == sign * (0.5 if accepted else 0.6)


def test_a_rejected_last_stage_leaves_the_accepted_student():
    trainer = make_chain(max_epochs=3)
    script = Script(trainer, [0.6, 0.7, 0.1])
    trainer.run()
    assert fingerprint(trainer.network) == script.weights[1]


def test_accept_always_takes_every_stage():
    trainer = make_chain(max_epochs=3, accept="always")
    script = Script(trainer, [0.6, 0.5, 0.1])
    trainer.run()
    assert [record.accepted for record in trainer.records] == [True] * 3
    assert fingerprint(trainer.network) == script.weights[2]


@pytest.mark.parametrize("empty", [False, True])
@pytest.mark.parametrize("accept", ["improves", "always"])
def test_without_validation_each_stage_is_accepted_with_its_last_weights(caplog, empty, accept):
    items = make_items()
    plan = plan_chain(items, held_out(val_fraction=0.0), classes=("a", "b", "c"))
    with caplog.at_level(logging.INFO, "monai_weckd.engines.gate"):
        trainer = make_chain(items=items, plan=plan, max_epochs=6, accept=accept, calibrate=True, validate=empty)
    assert caplog.messages == ["no validation: every stage is accepted with the weights of its last epoch"]
    last, kept = [], []
    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=2), lambda engine: last.append(fingerprint(engine.network)))
    trainer.add_event_handler(ChainEvents.STAGE_COMPLETED, lambda engine: kept.append(fingerprint(engine.network)))
    trainer.run()
    assert kept == last
    assert len(set(last)) == 3
    assert fingerprint(trainer.network) == last[-1]
    for record in trainer.records:
        assert record.accepted
        assert (record.metric, record.value, record.previous, record.calibration) == (None, None, None, None)


def test_with_validation_nothing_is_said_of_its_absence(caplog):
    with caplog.at_level(logging.INFO, "monai_weckd.engines.gate"):
        make_chain(max_epochs=3)
    assert caplog.messages == []


def test_a_stage_without_a_validation_is_measured_at_its_end():
    trainer = make_chain(max_epochs=3, interval=10)
    trainer.run()
    assert [record.best_epoch for record in trainer.records] == [1, 1, 1]
    assert all(record.value is not None for record in trainer.records)
