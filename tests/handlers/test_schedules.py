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
import torch
from chain_runs import make_items, make_network
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler, StatsHandler

from monai_weckd import plan_training
from monai_weckd.handlers import ChainHandler, TemperatureHandler
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


def rates(scheduler, *, fresh, epoch_level=True, first=False):
    """Return the learning rate in each epoch of a chain of two stages, whose scheduler MONAI's handler moves."""
    items = make_items()
    network = make_network()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    moved, found = scheduler(optimizer), []
    plan = plan_training(items, classes=("a", "b", "c"), label_fraction=0.2, num_stages=2)
    handlers = [ChainHandler(plan, accept="always", fresh=[moved] if fresh else [])]
    handlers.insert(0 if first else 1, LrScheduleHandler(moved, print_lr=False, epoch_level=epoch_level))
    trainer = SupervisedTrainer(
        "cpu",
        max_epochs=6,
        epoch_length=2,
        train_data_loader=DataLoader(Dataset(items), batch_size=4),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=handlers,
    )
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: found.append(optimizer.param_groups[0]["lr"]))
    trainer.run()
    return found


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("scheduler", "epoch_level"),
    [
        (lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch), True),
        (lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 3), True),
        (lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2]), True),
        (lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=6), False),
    ],
)
def test_a_scheduler_of_monais_handler_begins_anew_in_each_stage(scheduler, epoch_level, first):
    found = rates(scheduler, fresh=False, epoch_level=epoch_level, first=first)
    assert len(set(found[:6])) > 1
    assert found[:6] == found[6:]
    assert found == rates(scheduler, fresh=True, epoch_level=epoch_level, first=first)
