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

import io
import logging

import pytest
from ignite.engine import Engine, Events
from monai.handlers import StatsHandler

from monai_weckd.handlers import TemperatureHandler
from monai_weckd.losses import DistillationLoss, TemperatureSchedule


def run(engine, loss_function, epochs):
    seen = []
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: seen.append((loss_function.temperature, e.state.temperature))
    )
    engine.run([0], max_epochs=epochs)
    return seen


def test_temperature_is_annealed_over_a_run_without_stages():
    loss_function = DistillationLoss(temperature=7.0)
    engine = Engine(lambda engine, batch: None)
    TemperatureHandler(loss_function, TemperatureSchedule(4.0, 1.0, "linear")).attach(engine)
    assert run(engine, loss_function, 4) == [(4.0, 4.0), (3.0, 3.0), (2.0, 2.0), (1.0, 1.0)]


def test_temperature_begins_anew_with_each_stage():
    loss_function = DistillationLoss()
    engine = Engine(lambda engine, batch: None)

    @engine.on(Events.EPOCH_STARTED)
    def walk(engine):
        engine.state.stage_epoch, engine.state.stage_epochs = (engine.state.epoch - 1) % 2 + 1, 2

    TemperatureHandler(loss_function, TemperatureSchedule(4.0, 1.0, "cosine")).attach(engine)
    assert [value for value, _ in run(engine, loss_function, 4)] == pytest.approx([4.0, 1.0, 4.0, 1.0])


def test_a_single_epoch_begins_at_the_start():
    loss_function = DistillationLoss()
    engine = Engine(lambda engine, batch: None)
    TemperatureHandler(loss_function, TemperatureSchedule(4.0, 1.0, "exponential")).attach(engine)
    assert run(engine, loss_function, 1) == [(4.0, 4.0)]


def test_monai_logs_it_as_a_state_attribute():
    stream = io.StringIO()
    logger = logging.getLogger("stats_of_temperature")
    logger.setLevel(logging.INFO)
    logger.addHandler(logging.StreamHandler(stream))
    engine = Engine(lambda engine, batch: {"loss": 0.0})
    TemperatureHandler(DistillationLoss(), TemperatureSchedule(3.0, 3.0, "constant")).attach(engine)
    StatsHandler(iteration_log=False, state_attributes=["temperature"], name=logger.name).attach(engine)
    engine.run([0], max_epochs=1)
    assert "temperature: 3.0" in stream.getvalue()
