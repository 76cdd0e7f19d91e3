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
import threading

import numpy as np
import pytest
import torch
from chain_runs import make_chain, make_evaluator, make_items, make_network
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler, ValidationHandler
from torch.utils.data import DataLoader

import monai_weckd.utils.files
from monai_weckd import plan_chain
from monai_weckd.engines import ChainEvents, ChainOptions
from monai_weckd.handlers import ChainCheckpoint, ChainHandler, ChainRecorder, TeacherWeightHandler, TemperatureHandler
from monai_weckd.losses import DistillationLoss, TemperatureSchedule
from monai_weckd.networks import fingerprint
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.utils.draws import hash_fraction
from monai_weckd.utils.files import finish_writing, pack_state, read_state, state_bytes, write_state


def with_splits(items):
    """Return items with the split of their groups by a hash, a quarter of them in test."""
    draws = [hash_fraction(0, "split", item["group"]) for item in items]
    splits = ["test" if draw < 0.25 else "val" if draw < 0.4 else "train" for draw in draws]
    return [{**item, "split": split} for item, split in zip(items, splits, strict=True)]


ITEMS = with_splits(make_items(groups=36))
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
        plan, ChainOptions(**options), evaluator=evaluator, weight_end=0.0, temperature=TemperatureSchedule(4.0, 1.0)
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
        train_handlers=[
            chain,
            ValidationHandler(1, evaluator),
            # not in fresh: the chain finds it when the run starts
            LrScheduleHandler(torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5), print_lr=False),
            *handlers,
        ],
    )
    return trainer, evaluator


def make(output_dir, *, resume=False, by_handler=False, weights=0, more=(), checkpoint=None, **options):
    """Build a chain that is written down and kept; returns the trainer and what it drew."""
    output_dir.mkdir(exist_ok=True)
    selection = options.pop("selection", "random")
    held_out = ("val", "test") if options.get("validate", True) else ()
    items = [item if item["split"] in held_out else {**item, "split": "train"} for item in ITEMS]
    plan = plan_chain(
        items, PlanSettings(policy="cumulative", label_fraction=0.2, selection=selection), classes=("a", "b", "c")
    )
    network, drawer = make_network(weights), Drawer()
    recorder = ChainRecorder(output_dir, None, val_data_loader=DataLoader(Dataset(plan.select(items, "val"))))
    keeper = ChainCheckpoint(output_dir, resume=resume, **(checkpoint or {}))
    handlers = [*more, drawer, recorder, keeper]
    if by_handler:
        trainer, recorder.evaluator = handler_trainer(plan, network, handlers, options)
        return trainer, drawer
    loss = options.setdefault("loss_function", DistillationLoss(temperature=2.0))
    schedules = [TemperatureHandler(loss, TemperatureSchedule(4.0, 1.0)), TeacherWeightHandler(loss, 0.5, 0.0)]
    trainer = make_chain(
        items=items, plan=plan, network=network, epoch_length=2, handlers=[*schedules, *handlers], **options
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
        "average": None if chain.state.average is None else fingerprint(chain.state.average.module),
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
        Events.EPOCH_COMPLETED, lambda engine: copy_folder(whole, tmp_path / f"after_{engine.state.epoch}")
    )
    trainer.run()
    return bits(whole, trainer), drawer.drawn


def copy_folder(source, target):
    finish_writing(source / "checkpoint.pt")
    shutil.copytree(source, target)


OPTIONS = {
    "plain": {"init": "initial"},
    "recommended": {"averaging": 0.9, "calibrate": True, "pool_ratio": 1, "selection": "herding"},
    "ensemble": {"teacher": "ensemble", "accept": "always", "interval": 2},
    "student": {"teacher": "student", "pool_ratio": 1, "averaging": 0.9},
    "average": {"teacher": "average", "pool_ratio": 1, "averaging": 0.9, "alignment": True},
    "cache": {
        "views": 2,
        "teacher_cache": True,
        "pool_ratio": 1,
        "loss_function": {"attention_weight": 1.0},
        "student_layer": "2",
        "alignment": True,
    },
    "scheduler": {"scheduler": True, "selection": "margin", "stage_epochs": [1, 3, 2]},
    "rejected": {"learning_rate": 3.0, "averaging": 0.5},
    "unmeasured": {"validate": False, "averaging": 0.9, "calibrate": True},
    "handler": {"by_handler": True, "averaging": 0.9, "calibrate": True, "selection": "typical"},
}


# what other ones contain
CONTAINED = ("plain", "student", "unmeasured")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in CONTAINED else []) for name in OPTIONS]
)
def test_every_epoch_can_be_gone_on_from_to_the_same_bits(tmp_path, name):
    def options():
        found = dict(OPTIONS[name])
        if "loss_function" in found:
            found["loss_function"] = DistillationLoss(**found["loss_function"])
        return found

    expected, drawn = run_and_copy(tmp_path, **options())
    if name == "unmeasured":
        assert [record[3] for record in expected["records"]] == [None] * 3
    if name == "rejected":
        assert not all(record[4] for record in expected["records"])
    # the end of a stage, the middle of one and the end; of two chains every epoch
    for epoch in range(1, 7) if name in ("recommended", "handler") else (2, 3, 6):
        folder = tmp_path / f"after_{epoch}"
        seed_everything(100 + epoch)  # another process has other weights and generators
        trainer, drawer = make(folder, resume=True, weights=epoch, **options())
        trainer.run()
        assert bits(folder, trainer) == expected, epoch
        assert drawer.drawn == drawn[len(drawn) - len(drawer.drawn) :]
        # an epoch's draw each, those of stages and the last one
        assert len(drawer.drawn) >= 7 - epoch


class InterruptionError(Exception):
    """What ends a run in the tests."""


def interrupt(output_dir, *, iteration=5, **options):
    """Run a chain that is interrupted, by default in the first iteration of its third epoch."""

    def stop(engine):
        raise InterruptionError

    trainer, _ = make(output_dir, **options)
    trainer.add_event_handler(Events.ITERATION_STARTED(once=iteration), stop)
    with pytest.raises(InterruptionError):
        trainer.run()
    finish_writing(output_dir / "checkpoint.pt")
    return trainer


@pytest.mark.parametrize("interval", [0, -1])
def test_an_interval_of_no_epoch_is_refused(tmp_path, interval):
    with pytest.raises(ValueError, match=f"interval: expected 1 epoch or more, got {interval}. With 1 none is"):
        ChainCheckpoint(tmp_path, interval=interval)


def test_a_trainer_without_a_chain_is_refused(tmp_path):
    trainer = SupervisedTrainer("cpu", 1, [{}], torch.nn.Linear(1, 1), None, None)
    with pytest.raises(TypeError, match="engine: expected a trainer with a chain, got one without"):
        ChainCheckpoint(tmp_path).attach(trainer)


def test_a_chain_of_several_runs_is_left_alone(tmp_path):
    rounds = {"accept": "always", "chain_epochs": 6, "max_epochs": 2}
    with pytest.raises(ValueError, match="resume: expected False for a chain in several runs, got True"):
        make(tmp_path, resume=True, **rounds)
    make(tmp_path, **rounds)[0].run()
    assert not (tmp_path / "checkpoint.pt").exists()


def test_several_processes_have_none(tmp_path, monkeypatch):
    trainer, _ = make(tmp_path)
    monkeypatch.setattr("ignite.distributed.get_world_size", lambda: 2)
    with pytest.raises(ValueError, match="resume: expected False for a chain in 2 processes, got True"):
        ChainCheckpoint(tmp_path, resume=True).attach(trainer)


def test_a_recorder_behind_it_is_refused(tmp_path):
    recorder = ChainRecorder(tmp_path, None, val_data_loader=None)
    trainer = make_chain(items=ITEMS, handlers=[ChainCheckpoint(tmp_path), recorder])
    with pytest.raises(ValueError, match=r"handlers: expected ChainCheckpoint last, got \['recorder'\] after it"):
        trainer.run()


def test_the_checkpoint_is_plain_names_its_students_and_goes_at_the_end(tmp_path):
    interrupt(tmp_path)
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert state["iteration"] == 4
    assert state["identity"]["monai_weckd"] == json.dumps(monai_weckd.__version__)
    # at the end of the first stage its student is none yet; one epoch on it is that of the file
    assert state["parts"]["chain"]["students"] == []
    trainer, _ = make(tmp_path, resume=True)
    seen = []

    def look(engine):
        finish_writing(tmp_path / "checkpoint.pt")
        seen.append(read_state(tmp_path / "checkpoint.pt"))

    trainer.add_event_handler(Events.EPOCH_COMPLETED, look)
    trainer.run()
    assert [[part["file"] for part in one["parts"]["chain"]["students"]] for one in seen[:2]] == [
        ["stage_1/model.pt"]
    ] * 2
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_slow_disk_gets_the_weights_of_the_epoch_all_the_same(tmp_path, monkeypatch):
    gate, write = threading.Event(), monai_weckd.utils.files.write_atomically
    trainer, _ = make(tmp_path)
    monkeypatch.setattr(
        monai_weckd.utils.files, "write_atomically", lambda path, content: gate.wait(60) and write(path, content)
    )
    weights = {}

    @trainer.on(Events.EPOCH_COMPLETED)
    def look(engine):
        weights[engine.state.epoch] = fingerprint(engine.network)

    @trainer.on(Events.ITERATION_COMPLETED(once=3))
    def release(engine):
        gate.set()
        finish_writing(tmp_path / "checkpoint.pt")
        network = make_network(0)
        network.load_state_dict(read_state(tmp_path / "checkpoint.pt")["parts"]["network"])
        assert fingerprint(network) == weights[1] != fingerprint(engine.network)

    trainer.run()
    assert len(weights) == 6


def test_a_student_that_is_in_no_file_is_in_the_checkpoint(tmp_path):
    found, copy = [], tmp_path / "copy"
    for resume in (False, True):
        keeper = ChainCheckpoint(copy if resume else tmp_path, resume=resume)
        trainer = make_chain(items=ITEMS, epoch_length=2, handlers=[keeper], seed=2)
        if not resume:
            trainer.add_event_handler(Events.EPOCH_COMPLETED(once=3), lambda engine: copy_folder(tmp_path, copy))
        trainer.run()
        found.append(fingerprint(trainer.network))
    assert found[0] == found[1]
    assert len(trainer.records) == 3


def test_without_a_checkpoint_a_chain_begins(tmp_path):
    trainer, _ = make(tmp_path, resume=True, max_epochs=3)
    trainer.run()
    assert len(trainer.records) == 3


def test_another_run_s_checkpoint_is_not_overwritten(tmp_path):
    interrupt(tmp_path)
    with pytest.raises(FileExistsError, match="expected no interrupted run, got its checkpoint"):
        make(tmp_path)[0].run()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_epochs": 9}, "max_epochs: expected 6, as in the interrupted run, got 9. Change it back, or begin anew"),
        ({"averaging": 0.5}, "averaging: expected 0.0, as in the interrupted run, got 0.5"),
        ({"checkpoint": {"settings": {"rate": 2}}}, "rate: expected 1, as in the interrupted run, got 2"),
        ({"checkpoint": {}}, "rate: expected 1, as in the interrupted run, got nothing"),
        ({"selection": "typical"}, 'plan: expected "'),
        ({"scheduler": True}, r"handlers: expected those of the interrupted run with the states \['chain', 'distill"),
    ],
    ids=["max_epochs", "averaging", "setting", "no setting", "plan", "scheduler"],
)
def test_what_has_changed_is_named(tmp_path, changes, message):
    interrupt(tmp_path, checkpoint={"settings": {"rate": 1}})
    before = (tmp_path / "checkpoint.pt").read_bytes()
    trainer, _ = make(tmp_path, resume=True, **{"checkpoint": {"settings": {"rate": 1}}, **changes})
    with pytest.raises(ValueError, match=message):
        trainer.run()
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("name", ["monai_weckd", "monai", "torch"])
def test_other_versions_are_named(tmp_path, monkeypatch, name):
    interrupt(tmp_path)
    monkeypatch.setattr(f"{name}.__version__", "0.0.7")
    trainer, _ = make(tmp_path, resume=True)
    with pytest.raises(ValueError, match=f'^{name}: expected ".*", as in the interrupted run, got "0.0.7"'):
        trainer.run()


def test_another_label_is_named(tmp_path):
    key = sorted(interrupt(tmp_path).oracle.revealed)[0]
    trainer, _ = make(tmp_path, resume=True)
    (item,) = (item for item in trainer.walker.state.items if item["id"] == key)
    message = f"labels: expected class {item['label']} for '{key}', as it was revealed, got {(item['label'] + 1) % 3}"
    item["label"] = (item["label"] + 1) % 3
    with pytest.raises(ValueError, match=message):
        trainer.run()


@pytest.mark.parametrize("damage", ["cut", "flipped", "student", "no student", "format"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    interrupt(tmp_path, iteration=7)
    path = tmp_path / ("stage_1/model.pt" if "student" in damage else "checkpoint.pt")
    content = bytearray(path.read_bytes())
    if damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "no student":
        path.unlink()
    elif damage == "format":
        write_state(path, pack_state({**read_state(path), "format": 1}))
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    message = {
        "cut": "expected the content that was written, got .* bytes with another digest",
        "flipped": "The file is damaged: restore it from a copy, or begin anew with overwrite",
        "student": "stage_1/model.pt: expected the student that the checkpoint names, got another file. Restore",
        "no student": "stage_1/model.pt: expected the student that the checkpoint names, got no file",
        "format": "expected format 3, got 1. Begin anew",
    }
    with pytest.raises(ValueError, match=message[damage]):
        make(tmp_path, resume=True)[0].run()


def test_weights_that_another_handler_loads_at_the_start_do_not_stay(tmp_path):
    class Pretrained:
        def attach(self, engine):
            engine.add_event_handler(Events.STARTED, self)

        def __call__(self, engine):
            engine.network.load_state_dict(make_network(7).state_dict())

    trainer, _ = make(tmp_path / "whole", more=[Pretrained()], init="initial")
    trainer.run()
    interrupt(tmp_path / "run", more=[Pretrained()], init="initial", iteration=8)
    again, _ = make(tmp_path / "run", resume=True, more=[Pretrained()], init="initial")
    again.run()
    assert fingerprint(again.network) == fingerprint(trainer.network)


def test_a_stage_that_was_to_end_early_does_not_go_on(tmp_path):
    def build(folder, **options):
        early = EarlyStopping(patience=1, score_function=lambda engine: 0.0, trainer=Engine(print))
        trainer, _ = make(folder, checkpoint={"stateful": {"early": early}}, max_epochs=9, **options)
        early.trainer = trainer
        trainer.walker.evaluator.add_event_handler(Events.EPOCH_COMPLETED, early)
        return trainer, early

    trainer, _ = build(tmp_path / "run")

    def copy(engine):
        if engine.state.stage == 2:
            finish_writing(tmp_path / "run" / "checkpoint.pt")
            copy_folder(tmp_path / "run", tmp_path / "copy")

    # the checkpoint is that of the epoch in which the first stage ended early
    trainer.add_event_handler(ChainEvents.STAGE_STARTED, copy)
    trainer.run()
    again, _ = build(tmp_path / "copy", resume=True)
    again.run()
    for engine in (trainer, again):
        assert [record.epochs for record in engine.state.chain.records] == [2, 2, 2]
    assert fingerprint(again.network) == fingerprint(trainer.network)
