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

import json
import random
import shutil

import numpy as np
import pytest
import torch
from chain_runs import make_chain, make_evaluator, make_items, make_network
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import ValidationHandler
from torch.utils.data import DataLoader

from monai_weckd import plan_chain
from monai_weckd.engines import ChainEvents, fingerprint
from monai_weckd.files import state_bytes
from monai_weckd.handlers import ChainCheckpoint, ChainHandler, ChainRecorder, TeacherWeightHandler, TemperatureHandler
from monai_weckd.losses import DistillationLoss, TemperatureSchedule

ITEMS = make_items(groups=36)
# and the digests of files with these in them
CLOCK = ("seconds", "cost", "total_seconds", "peak_bytes", "digest")


class Drawer:
    """Draw from every global generator at each epoch, and when a stage starts, before the epoch's seed is set."""

    def __init__(self):
        self.drawn = []

    def attach(self, engine):
        for event in (Events.EPOCH_STARTED, ChainEvents.STAGE_STARTED, Events.COMPLETED):
            engine.add_event_handler(event, self)

    def __call__(self, engine):
        self.drawn.append((random.random(), np.random.rand(), torch.rand(1).item()))


def handler_trainer(plan, network, handlers, options):
    """The same chain by MONAI's trainer and a handler."""
    evaluator = make_evaluator(network, plan.select(ITEMS, "val"))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    chain = ChainHandler(
        plan, evaluator=evaluator, weight_end=0.0, temperature=TemperatureSchedule(4.0, 1.0), **options
    )
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        6,
        train_data_loader=DataLoader(Dataset(plan.select(ITEMS, "train")), batch_size=8),
        network=network,
        optimizer=optimizer,
        loss_function=torch.nn.CrossEntropyLoss(),
        epoch_length=2,
        decollate=False,
        train_handlers=[chain, ValidationHandler(1, evaluator), *handlers],
    )
    return trainer, evaluator


def make(output_dir, *, resume=False, by_handler=False, weights=0, more=(), checkpoint=None, **options):
    """Build a chain that is written down and kept; returns the trainer and what it drew."""
    output_dir.mkdir(exist_ok=True)
    selection = options.pop("selection", "random")
    plan = plan_chain(ITEMS, classes=("a", "b", "c"), policy="cumulative", label_fraction=0.2, selection=selection)
    network, drawer = make_network(weights), Drawer()
    recorder = ChainRecorder(output_dir, None, val_data_loader=DataLoader(Dataset(plan.select(ITEMS, "val"))))
    keeper = ChainCheckpoint(output_dir, resume=resume, **(checkpoint or {}))
    handlers = [*more, drawer, recorder, keeper]
    if by_handler:
        trainer, recorder.evaluator = handler_trainer(plan, network, handlers, options)
        return trainer, drawer
    loss = options.setdefault("loss_function", DistillationLoss(temperature=2.0))
    schedules = [TemperatureHandler(loss, TemperatureSchedule(4.0, 1.0)), TeacherWeightHandler(loss, 0.5, 0.0)]
    trainer = make_chain(
        items=ITEMS, plan=plan, network=network, epoch_length=2, handlers=[*schedules, *handlers], **options
    )
    recorder.evaluator = trainer.walker.evaluator
    return trainer, drawer


def without_clock(value):
    if isinstance(value, dict):
        return {key: without_clock(part) for key, part in value.items() if key not in CLOCK}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def bits(output_dir, trainer):
    """Return everything that must be the same, to the bit."""
    files = {path.name: path.read_bytes() for path in output_dir.glob("*.csv")}
    files |= {str(path.relative_to(output_dir)): path.read_bytes() for path in output_dir.rglob("*.pt")}
    files |= {path.name: without_clock(json.loads(path.read_text())) for path in output_dir.glob("*.json")}
    chain = trainer.state.chain
    return {
        "files": files,
        "network": fingerprint(trainer.network),
        "optimizer": state_bytes(trainer.optimizer.state_dict()),
        "fresh": [part.state_dict() for part in chain.fresh],
        "average": None if chain.average is None else fingerprint(chain.average.module),
        "records": [(r.stage, r.teacher, r.best_epoch, r.value, r.accepted, r.calibration) for r in chain.records],
        "ledger": chain.oracle.to_dicts(),
        "budget": (chain.oracle.budget, chain.oracle.revealed),
        "random": (
            random.getstate(),
            np.random.get_state(legacy=False)["state"]["key"].tolist(),
            torch.get_rng_state().tolist(),
        ),
        "criterion": (trainer.state.distiller.criterion.temperature, trainer.state.distiller.criterion.weight),
        "progress": (trainer.state.epoch, trainer.state.iteration, trainer.state.stage_epoch),
    }


def seed_everything(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def run_and_copy(tmp_path, **options):
    """Run a chain to its end, with a copy of its folder after each epoch; returns what came out and what it drew."""
    whole = tmp_path / "whole"
    seed_everything(0)
    trainer, drawer = make(whole, **options)
    trainer.add_event_handler(
        Events.EPOCH_COMPLETED, lambda engine: shutil.copytree(whole, tmp_path / f"after_{engine.state.epoch}")
    )
    trainer.run()
    return bits(whole, trainer), drawer.drawn


OPTIONS = {
    "plain": {"init": "initial"},
    "recommended": {"averaging": 0.9, "calibrate": True, "pool_ratio": 1, "selection": "auto"},
    "ensemble": {"teacher": "ensemble", "accept": "always", "interval": 2},
    "student": {"teacher": "student", "pool_ratio": 1, "averaging": 0.9},
    "average": {"teacher": "average", "pool_ratio": 1, "averaging": 0.9, "alignment": True},
    "aligned": {"pool_ratio": 1, "alignment": True},
    "cache": {
        "views": 2,
        "teacher_cache": True,
        "pool_ratio": 1,
        "loss_function": {"attention_weight": 1.0},
        "student_layer": "2",
    },
    "scheduler": {"scheduler": True, "selection": "margin", "stage_epochs": [1, 3, 2]},
    "rejected": {"learning_rate": 3.0, "averaging": 0.5},
    "handler": {"by_handler": True, "averaging": 0.9, "calibrate": True, "selection": "typical"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_epoch_can_be_gone_on_from_to_the_same_bits(tmp_path, name):
    def options():
        found = dict(OPTIONS[name])
        if "loss_function" in found:
            found["loss_function"] = DistillationLoss(**found["loss_function"])
        return found

    expected, drawn = run_and_copy(tmp_path, **options())
    if name == "rejected":
        assert not all(record[4] for record in expected["records"])
    for epoch in range(1, 7):
        folder = tmp_path / f"after_{epoch}"
        seed_everything(100 + epoch)  # another process has other weights and generators
        trainer, drawer = make(folder, resume=True, weights=epoch, **options())
        trainer.run()
        assert bits(folder, trainer) == expected, epoch
        assert drawer.drawn == drawn[len(drawn) - len(drawer.drawn) :]
        # an epoch's draw each, those of stages and the last one
        assert len(drawer.drawn) >= 7 - epoch
