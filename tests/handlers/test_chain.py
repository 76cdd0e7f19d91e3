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
from dataclasses import asdict

import pytest
import torch
from chain_runs import assert_same_weights, make_chain, make_evaluator, make_items, make_network
from held_out import held_out
from ignite.engine import Events
from ignite.metrics import Accuracy
from monai.data import CacheDataset, SmartCacheDataset
from monai.data import Dataset as MonaiDataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import CheckpointSaver, LrScheduleHandler, ValidationHandler
from monai.transforms import Compose, RandGaussianNoised
from torch.utils.data import DataLoader, Dataset

from monai_weckd import plan_chain, plan_training
from monai_weckd.engines import ChainEvents, ChainOptions
from monai_weckd.handlers import ChainHandler, ChainRecorder, DistillationHandler
from monai_weckd.losses import DistillationLoss, TemperatureSchedule
from monai_weckd.utils.options import option_names

CLASSES = ("a", "b", "c")


def smooth():
    return torch.nn.CrossEntropyLoss(label_smoothing=0.1)


def make_parts(*, dataset=None, scheduler=False):
    """Return plan, loader, network, optimizer, evaluator and schedulers of an ordinary pipeline."""
    items = make_items()
    plan = plan_chain(items, held_out(policy="cumulative"), classes=CLASSES)
    network = make_network()
    transform = Compose([RandGaussianNoised("image", prob=1.0, std=0.2)])
    dataset = dataset or MonaiDataset(plan.select(items, "train"), transform)
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    fresh = [torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)] if scheduler else []
    return plan, loader, network, optimizer, make_evaluator(network, plan.select(items, "val")), fresh


def make_pipeline(parts, handlers, **options):
    _, loader, network, optimizer, evaluator, fresh = parts
    schedule = [LrScheduleHandler(part, print_lr=False) for part in fresh]
    return SupervisedTrainer(
        "cpu",
        max_epochs=6,
        epoch_length=4,
        train_data_loader=loader,
        network=network,
        optimizer=optimizer,
        loss_function=smooth(),
        train_handlers=[ValidationHandler(1, evaluator), *schedule, *handlers],
        **options,
    )


def script(evaluator):
    """Let the key metric say what the test wants, so that no rounding decides about an epoch or a stage."""
    values = iter([0.5, 0.7, 0.8, 0.75, 0.6, 0.65] + [0.9] * 6)

    @evaluator.on(Events.EPOCH_COMPLETED)
    def say(engine):
        engine.state.metrics["val_accuracy"] = next(values)


def record(trainer):
    return [{**asdict(entry), "seconds": 0, "calibration": 0} for entry in trainer.state.chain.records]


def calibrations(trainer):
    return [entry.calibration for entry in trainer.state.chain.records]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scheduler": True, "init": "initial", "accept": "always"},
        {"pool_ratio": 1, "averaging": 0.9, "calibrate": True},
        {"pool_ratio": 1, "teacher": "average", "averaging": 0.9},
        {"pool_ratio": 1, "teacher": "student", "threshold": 0.5, "hard_labels": True},
        {"attention_weight": 2.0, "student_layer": "2"},
        {"views": 2, "teacher_cache": True, "pool_ratio": 1},
        {"teacher": "ensemble", "stage_epochs": (1, 2, 3), "alignment": True, "pool_ratio": 1},
    ],
    ids=lambda options: "-".join(options) or "default",
)
def test_the_chain_is_that_of_the_trainer(options):
    loss = {key: options[key] for key in ("attention_weight", "threshold", "hard_labels") if key in options}
    expected = make_chain(
        loss_function=DistillationLoss(task_loss=smooth(), temperature=2.0, **loss),
        **{key: value for key, value in options.items() if key not in loss},
    )
    script(expected.walker.evaluator)
    expected.run()
    parts = make_parts(scheduler=options.get("scheduler", False))
    chain = {key: options[key] for key in option_names(ChainOptions) if key in options}
    distillation = {key: value for key, value in options.items() if key not in {*chain, "scheduler"}}
    # listed last, as an overlay of a bundle lists it
    handler = ChainHandler(
        parts[0], ChainOptions(**chain), evaluator=parts[4], fresh=parts[5], temperature=2.0, **distillation
    )
    found = make_pipeline(parts, [handler])
    script(parts[4])
    found.run()
    assert record(found) == record(expected)
    # None where a stage has not been calibrated
    assert calibrations(found) == [factor and pytest.approx(factor, rel=1e-3) for factor in calibrations(expected)]
    assert_same_weights(found.network, expected.network)


def test_args_validation():
    parts = make_parts()
    with pytest.raises(TypeError, match="unexpected keyword argument 'averagin'"):
        ChainHandler(parts[0], evaluator=parts[4], averagin=0.9)
    with pytest.raises(ValueError, match="attention_weight: expected 0 with teacher='ensemble'"):
        ChainHandler(
            parts[0],
            evaluator=parts[4],
            chain=ChainOptions(teacher="ensemble"),
            attention_weight=1.0,
            student_layer="2",
        )
    with pytest.raises(ValueError, match="teacher_cache: expected False with views=0"):
        ChainHandler(
            parts[0],
            evaluator=parts[4],
            chain=ChainOptions(teacher_cache=True),
        )
    handler = ChainHandler(parts[0], evaluator=parts[4])
    with pytest.raises(TypeError, match="train_data_loader: expected a DataLoader over a MONAI dataset"):
        make_pipeline((None, [{"image": torch.zeros(1), "label": 0}], *parts[2:]), [handler])


@pytest.mark.parametrize(
    ("dataset", "reason"),
    [
        (
            SmartCacheDataset(make_items(), cache_num=8, progress=False),
            "items keep their places, got SmartCacheDataset",
        ),
        (
            torch.utils.data.TensorDataset(torch.zeros(8, 3), torch.zeros(8)),
            "expected a DataLoader over a MONAI dataset",
        ),
    ],
    ids=["smart cache", "tensors"],
)
def test_what_cannot_be_drawn_anew_is_refused(dataset, reason):
    parts = make_parts(dataset=dataset)
    with pytest.raises(TypeError, match=reason):
        make_pipeline(parts, [ChainHandler(parts[0], evaluator=parts[4])])


def test_a_plain_dataset_and_loader_of_pytorch_will_do():
    class Images(Dataset):
        def __init__(self, data):
            self.data = data

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            return {key: self.data[index][key] for key in ("image", "label")}

    parts = make_parts(dataset=Images([{**item, "id": str(i)} for i, item in enumerate(make_items())]))
    plan = plan_training(parts[1].dataset.data, classes=CLASSES)
    trainer = make_pipeline(parts, [ChainHandler(plan, evaluator=parts[4])])
    trainer.run()
    assert [entry.labeled for entry in trainer.state.chain.records] == [12] * 3
    assert trainer.state.chain.oracle.budget == 36


def test_cached_items_are_drawn_too():
    items = make_items()
    parts = make_parts(dataset=CacheDataset(items, cache_rate=0.5, progress=False))
    trainer = make_pipeline(parts, [ChainHandler(plan_training(items, classes=CLASSES), evaluator=parts[4])])
    trainer.run()
    assert len(trainer.state.chain.records) == 3


def test_the_saver_at_the_end_saves_the_accepted_student(tmp_path):
    parts = make_parts()
    saver = CheckpointSaver(tmp_path, {"network": parts[2]}, save_final=True, final_filename="final.pt")
    # the saver is listed, and so attached, before the chain
    trainer = make_pipeline(parts, [saver, ChainHandler(parts[0], evaluator=parts[4])])
    trainer.add_event_handler(
        Events.EPOCH_STARTED(every=6), lambda engine: engine.network[0].weight.data.add_(1e3)
    )  # the last stage's last epoch is ruined
    trainer.run()
    accepted = [entry for entry in trainer.state.chain.records if entry.accepted][-1]
    assert accepted.stage == 2 or accepted.best_epoch == 1
    saved = torch.load(tmp_path / "final.pt", weights_only=True)
    assert all(torch.equal(saved[key], tensor) for key, tensor in trainer.network.state_dict().items())
    assert saved["0.weight"].abs().max() < 100


def test_the_recorder_writes_down_such_a_chain(tmp_path):
    parts = make_parts()
    val = parts[4].data_loader
    recorder = ChainRecorder(tmp_path, parts[4], val_data_loader=val)
    make_pipeline(parts, [ChainHandler(parts[0], evaluator=parts[4]), recorder]).run()
    assert {"plan.json", "chain.json", "history.json", "model.pt", "stage_3"} <= {p.name for p in tmp_path.iterdir()}


def test_detaching_leaves_an_ordinary_trainer():
    parts = make_parts()
    trainer = make_pipeline(parts, [])
    before = {event: list(found) for event, found in trainer._event_handlers.items() if found}
    evaluator = {event: list(found) for event, found in parts[4]._event_handlers.items() if found}
    handler = ChainHandler(parts[0], evaluator=parts[4])
    handler.attach(trainer)
    stages = []
    trainer.add_event_handler(ChainEvents.STAGE_STARTED, lambda engine: stages.append(engine.state.stage))
    trainer.run()
    assert stages == [1, 2, 3]
    handler.detach(trainer)
    left = {event: list(found) for event, found in trainer._event_handlers.items() if found}
    left.pop(ChainEvents.STAGE_STARTED)
    assert left == before
    assert {event: list(found) for event, found in parts[4]._event_handlers.items() if found} == evaluator
    trainer.state.max_epochs = 7
    trainer.run()
    # a whole batch of labeled items again, in the loader's own order
    assert trainer.state.epoch == 7
    assert "task_loss" not in trainer.state.output[0]


def test_a_schedule_after_a_detached_chain_is_that_of_its_own_run():
    parts, found = make_parts(), []
    handler = ChainHandler(parts[0], evaluator=parts[4])
    trainer = make_pipeline(parts, [handler])
    trainer.run()
    handler.detach(trainer)
    DistillationHandler(make_network(1), temperature=TemperatureSchedule(6.0, 1.0, "linear")).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: found.append(engine.state.temperature))
    trainer.run()
    assert found == pytest.approx([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])


class Several(torch.nn.Module):
    """A network that returns its features as well."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        *body, self.head = make_network()
        self.body = torch.nn.Sequential(*body)

    def forward(self, images):
        features = self.body(images)
        logits = self.head(features)
        return {"logits": logits, "features": features} if self.kind is dict else (logits, features)


@pytest.mark.parametrize(("kind", "index"), [(tuple, 0), (tuple, -2), (dict, "logits")])
@pytest.mark.parametrize(
    ("options", "selection"),
    [
        ({"calibrate": True, "pool_ratio": 1}, "margin"),
        ({"teacher": "ensemble"}, "random"),
        ({"teacher": "average", "averaging": 0.9}, "herding"),
    ],
)
def test_a_network_with_several_outputs_is_selected_by_calibrated_and_recorded(
    kind, index, options, selection, tmp_path
):
    items, network = make_items(), Several(kind)
    loader = DataLoader(MonaiDataset(items[:30]), batch_size=16)
    accuracy = Accuracy(output_transform=lambda output: (output["pred"][index], output["label"]))
    evaluator = SupervisedEvaluator("cpu", loader, network, key_val_metric={"accuracy": accuracy}, decollate=False)
    plan = plan_training(items, classes=CLASSES, label_fraction=0.2, num_stages=2, selection=selection)
    chain = ChainHandler(plan, evaluator=evaluator, accept="always", output_index=index, **options)
    trainer = SupervisedTrainer(
        "cpu",
        max_epochs=4,
        epoch_length=2,
        train_data_loader=DataLoader(MonaiDataset(items), batch_size=8),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05),
        loss_function=lambda output, target: smooth()(output[index], target),
        train_handlers=[
            ValidationHandler(1, evaluator),
            chain,
            ChainRecorder(tmp_path, evaluator, val_data_loader=loader),
        ],
        decollate=False,
    )
    trainer.run()
    records = trainer.state.chain.records
    assert [entry.calibration is not None for entry in records] == [options.get("calibrate", False)] * 2
    measured = json.loads((tmp_path / "chain.json").read_text())["stages"]
    assert [stage["val"]["accuracy"] for stage in measured] == [pytest.approx(entry.value) for entry in records]


def test_a_network_with_several_outputs_is_refused_in_words_before_labels_are_chosen():
    items = make_items()
    plan = plan_training(items, classes=CLASSES, label_fraction=0.2, num_stages=2, selection="margin")
    network = Several(tuple)
    trainer = SupervisedTrainer(
        "cpu",
        max_epochs=2,
        train_data_loader=DataLoader(MonaiDataset(items), batch_size=8),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05),
        loss_function=lambda output, target: smooth()(output[0], target),
        train_handlers=[ChainHandler(plan)],
    )
    with pytest.raises(ValueError, match=r"network: expected logits, .* got tuple of 0, 1.* output_index=0"):
        trainer.run()
