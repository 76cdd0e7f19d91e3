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

from functools import partial

import pytest
import torch
from chain_runs import make_evaluator, make_items, make_network
from ignite.engine import Events
from ignite.handlers import CosineAnnealingScheduler, PiecewiseLinear, create_lr_scheduler_with_warmup
from ignite.handlers.param_scheduler import LRScheduler, ParamGroupScheduler, ReduceLROnPlateauScheduler
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, OneCycleLR, ReduceLROnPlateau, SequentialLR, StepLR

from monai_weckd import plan_training
from monai_weckd.handlers import ChainHandler

ITEMS = make_items(groups=24)


def build(*, max_epochs=6, optimizer=torch.optim.SGD, parameters=None, **chain):
    network = make_network()
    evaluator = make_evaluator(network, ITEMS[:9])
    plan = plan_training(ITEMS, classes=("a", "b", "c"), label_fraction=0.25, num_stages=2)
    trainer = SupervisedTrainer(
        "cpu",
        max_epochs=max_epochs,
        epoch_length=2,
        train_data_loader=DataLoader(Dataset(ITEMS), batch_size=4),
        network=network,
        optimizer=optimizer(parameters(network) if parameters else network.parameters(), lr=0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[
            ValidationHandler(1, evaluator),
            ChainHandler(plan, evaluator=evaluator, accept="always", **chain),
        ],
    )
    return trainer, evaluator


def cosine(optimizer):
    return CosineAnnealingLR(optimizer, 3)


class Steps:
    """A handler of somebody's own."""

    def __init__(self, scheduler):
        self.settings = {"scheduler": scheduler}

    def __call__(self, engine):
        self.settings["scheduler"].step()

    def step(self):
        self.settings["scheduler"].step()


def step(engine, scheduler=None):
    (scheduler or GLOBAL["scheduler"]).step()


GLOBAL = {}


def step_the_global_one(trainer, scheduler):
    GLOBAL["scheduler"] = scheduler
    trainer.add_event_handler(Events.EPOCH_COMPLETED, step)


WAYS = {
    "handler": lambda trainer, made: LrScheduleHandler(made, print_lr=False).attach(trainer),
    "lambda": lambda trainer, made: trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: made.step()),
    "every": lambda trainer, made: trainer.add_event_handler(Events.EPOCH_COMPLETED(every=1), lambda: made.step()),
    "object": lambda trainer, made: trainer.add_event_handler(Events.EPOCH_COMPLETED, Steps(made)),
    "method": lambda trainer, made: trainer.add_event_handler(Events.EPOCH_COMPLETED, Steps(made).step),
    "partial": lambda trainer, made: trainer.add_event_handler(Events.EPOCH_COMPLETED, partial(step, scheduler=made)),
    "argument": lambda trainer, made: trainer.add_event_handler(Events.EPOCH_COMPLETED, step, made),
    "global": step_the_global_one,
    "evaluator": lambda trainer, made: LrScheduleHandler(made, print_lr=False).attach(trainer.state.chain.evaluator),
}


def rates(make, attach, **options):
    """Return the learning rate in each iteration of a chain of two stages, and the chain."""
    trainer, _ = build(**options)
    scheduler, found = make(trainer.optimizer), []
    attach(trainer, scheduler)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: found.append(engine.optimizer.param_groups[0]["lr"])
    )
    trainer.run()
    return found, trainer.state.chain


def check(found):
    assert len(set(found[:6])) > 1
    assert found[:6] == found[6:]


@pytest.mark.parametrize("way", WAYS)
def test_a_scheduler_begins_anew_however_a_handler_moves_it(way, caplog):
    found, chain = rates(cosine, WAYS[way])
    check(found)
    assert len(chain.fresh) == 1
    assert "got none" not in caplog.text


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: LambdaLR(optimizer, lambda epoch: 0.5**epoch),
        lambda optimizer: OneCycleLR(optimizer, 0.2, total_steps=7),
        lambda optimizer: SequentialLR(optimizer, [StepLR(optimizer, 1, 0.5), cosine(optimizer)], [2]),
    ],
)
def test_schedulers_of_other_forms_begin_anew(make):
    found, chain = rates(make, WAYS["lambda"])
    check(found)
    assert len(chain.fresh) == 1


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: PiecewiseLinear(optimizer, "lr", milestones_values=[(0, 0.1), (6, 0.01)]),
        lambda optimizer: CosineAnnealingScheduler(optimizer, "lr", 0.1, 0.001, 12),
        lambda optimizer: LRScheduler(LambdaLR(optimizer, lambda epoch: 0.5**epoch)),
        lambda optimizer: create_lr_scheduler_with_warmup(StepLR(optimizer, 2, 0.5), 0.001, 3),
        lambda optimizer: ParamGroupScheduler(
            [CosineAnnealingScheduler(optimizer, "lr", 0.1, 0.001, 12, param_group_index=0)]
        ),
    ],
)
def test_schedulers_of_ignite_begin_anew(make):
    found, chain = rates(make, lambda trainer, made: trainer.add_event_handler(Events.ITERATION_STARTED, made))
    check(found)
    assert len(chain.fresh) == 1


def test_a_scheduler_by_a_metric_begins_anew():
    def attach(trainer, made):
        trainer.state.chain.evaluator.add_event_handler(Events.COMPLETED, made)

    found, _ = rates(
        lambda optimizer: ReduceLROnPlateauScheduler(optimizer, "val_accuracy", patience=0, threshold=1.0), attach
    )
    check(found)
    found, _ = rates(
        lambda optimizer: ReduceLROnPlateau(optimizer, patience=0),
        lambda trainer, made: trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: made.step(1.0)),
    )
    check(found)


def test_a_scheduler_that_no_handler_leads_to_is_told_of(caplog):
    _, chain = rates(cosine, lambda trainer, made: None)
    assert chain.fresh == []
    assert "fresh: expected the scheduler of the optimizer in a handler, got none" in caplog.text


def test_a_scheduler_of_another_optimizer_goes_on():
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = StepLR(other, 1, 0.5)
    _, chain = rates(lambda optimizer: scheduler, WAYS["lambda"])
    assert chain.fresh == []
    assert other.param_groups[0]["lr"] == 0.5**6


def test_a_scheduler_in_fresh_is_there_once():
    trainer, _ = build()
    scheduler = cosine(trainer.optimizer)
    trainer.state.chain.fresh.append(scheduler)
    WAYS["lambda"](trainer, scheduler)
    trainer.run()
    assert trainer.state.chain.fresh == [scheduler]


def head(network):
    network[0].requires_grad_(False)
    return network[-1].parameters()


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("epoch", [2, 5])
def test_parameter_groups_that_are_added_on_the_way_stay(optimizer, epoch):
    trainer, _ = build(parameters=head, optimizer=optimizer)
    found = []

    @trainer.on(Events.EPOCH_STARTED(once=epoch))
    def unfreeze(engine):
        body = engine.network[0].requires_grad_(True)
        engine.optimizer.add_param_group({"params": body.parameters(), "lr": 0.01})

    @trainer.on(Events.EPOCH_COMPLETED)
    def look(engine):
        found.append([(len(group["params"]), group["lr"]) for group in engine.optimizer.param_groups])

    trainer.run()
    assert found == [[(2, 0.1)]] * (epoch - 1) + [[(2, 0.1), (2, 0.01)]] * (7 - epoch)


def test_other_first_parameter_groups_are_refused():
    trainer, _ = build(parameters=head)

    @trainer.on(Events.EPOCH_COMPLETED(once=2))
    def change(engine):
        engine.optimizer.param_groups[0]["params"].extend(engine.network[0].parameters())

    with pytest.raises(ValueError, match=r"optimizer: expected parameter groups of \[2\] parameters, .* got \[4\]"):
        trainer.run()
