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
import time

import pytest
import torch
from ignite.engine import Engine, Events
from ignite.handlers import TimeLimit
from monai.handlers import EarlyStopHandler
from stock_chains import build

from monai_weckd.engines.early_end import handlers_of


@pytest.mark.parametrize(
    "event",
    [
        Events.EPOCH_COMPLETED(every=2),
        Events.ITERATION_COMPLETED(every=5),
        Events.EPOCH_STARTED(once=1),
        Events.EPOCH_STARTED(once=2),
        Events.GET_BATCH_STARTED(once=3),
        Events.GET_BATCH_COMPLETED(once=3),
        Events.ITERATION_STARTED(once=1),
    ],
)
@pytest.mark.parametrize("whose", ["trainer", "evaluator"])
def test_terminate_ends_a_stage(event, whose, caplog):
    caplog.set_level(logging.INFO, "monai_weckd")
    trainer = build(max_epochs=8)
    if whose == "evaluator":
        trainer.state.chain.evaluator.add_event_handler(
            Events.COMPLETED, lambda: trainer.terminate() if trainer.state.epoch == 2 else None
        )
    trainer.add_event_handler(event, lambda engine: engine.terminate() if engine.state.stage == 1 else None)
    trainer.run()
    records = trainer.state.chain.records
    assert [record.stage for record in records] == [1, 2]
    assert records[0].epochs < 4
    assert records[1].epochs == 4
    assert "stage 1 of 2 ends early" in caplog.text


def test_an_epoch_that_ends_early_shifts_no_batch():
    def ids(cut):
        trainer, seen = build(epoch_length=4), []
        trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: seen.append(engine.state.batch["id"]))
        if cut:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=2), lambda engine: engine.terminate_epoch())
        trainer.run()
        return seen

    whole = ids(cut=False)
    assert ids(cut=True) == whole[:2] + whole[4:]


def test_an_early_stop_counts_anew_in_each_stage():
    trainer = build(max_epochs=8)
    EarlyStopHandler(1, lambda engine: -engine.state.epoch, trainer=trainer).attach(trainer)
    trainer.run()
    assert [record.epochs for record in trainer.state.chain.records] == [2, 2]


def test_a_time_limit_and_an_output_that_is_not_finite_end_the_run(caplog):
    trainer = build()
    trainer.add_event_handler(Events.ITERATION_COMPLETED, TimeLimit(1))
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: time.sleep(0.6))
    trainer.run()
    assert [record.stage for record in trainer.state.chain.records] == [1]
    assert "the run ended after stage 1 of 2" in caplog.text
    trainer = build()

    @trainer.on(Events.ITERATION_COMPLETED)
    def stop(engine):
        engine.state.output = {"pred": torch.tensor(float("nan"))}
        engine.terminate()

    trainer.run()
    assert "an output is not finite" in caplog.text


def test_handlers_are_found_by_method_and_behind_a_filter():
    class Counter:
        def count(self, engine):
            """Count an event."""

    def plain(engine):
        """Handle an event."""

    engine, counter = Engine(lambda engine, batch: None), Counter()
    engine.add_event_handler(Events.EPOCH_COMPLETED, counter.count)
    engine.add_event_handler(Events.ITERATION_COMPLETED(every=2), plain)
    assert list(handlers_of(engine)) == [counter, plain]
