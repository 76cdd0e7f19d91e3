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

from copy import deepcopy
from functools import partial

import pytest
import torch
from chain_runs import make_chain, make_evaluator, make_network
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator, default_prepare_batch
from monai.handlers import CheckpointLoader, CheckpointSaver
from monai.transforms import (
    Lambdad,
)
from stock_chains import TABLE, build, distilling, make_items
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, SubsetRandomSampler, WeightedRandomSampler, default_collate

from monai_weckd.handlers import DistillationHandler


def from_table(batch):
    return torch.tensor([TABLE[key] for key in batch["id"]])


def collate_with(key, target):
    def collate(items):
        batch = default_collate(items)
        return {**batch, key: target(batch)}

    return collate


def prepare_by(target):
    return lambda batch, *args, **kwargs: (batch["image"], target(batch))


@pytest.mark.parametrize(
    ("collate", "prepare"),
    [
        (default_collate, prepare_by(from_table)),
        (default_collate, prepare_by(lambda batch: torch.eye(3)[from_table(batch)])),
        (collate_with("label", from_table), default_prepare_batch),
        (collate_with("target", from_table), prepare_by(lambda batch: batch["target"])),
        (lambda items: [torch.stack([item["image"] for item in items]), from_table(default_collate(items))], None),
    ],
)
def test_a_loss_that_would_get_withheld_labels_is_refused_before_the_first_batch(collate, prepare):
    loader = DataLoader(Dataset(make_items()), batch_size=8, collate_fn=collate)
    more = {} if prepare is None else {"prepare_batch": prepare}
    trainer, batches = build(loader=loader, chain={"pool_ratio": 2}, **more), []
    trainer.add_event_handler(Events.ITERATION_STARTED, batches.append)
    with pytest.raises(ValueError, match="label: expected -1 for images whose labels are withheld, got labels of 24"):
        trainer.run()
    assert not batches
    # without pool images, all that it gets is revealed
    build(loader=loader, **more).run()


def test_a_loss_that_later_gets_withheld_labels_is_stopped_before_it_learns():
    ready = []

    def prepare(batch, *args, **kwargs):
        return batch["image"], from_table(batch) if ready else batch["label"]

    trainer = build(chain={"pool_ratio": 2}, prepare_batch=prepare)
    trainer.add_event_handler(Events.EPOCH_STARTED(once=4), ready.append)
    with pytest.raises(ValueError, match="label: expected -1 for images whose labels are withheld"):
        trainer.run()
    assert trainer.state.iteration == 7


def test_a_label_that_is_no_class_after_the_transforms_is_refused():
    trainer = build(Dataset(make_items(), Lambdad("label", lambda label: label + 7)))
    with pytest.raises(ValueError, match="label: expected a class number below 3 after the transforms, got"):
        trainer.run()


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_an_engine_that_another_handler_moves_is_refused(tmp_path, epoch):
    first = build()
    state = {"net": first.network, "trainer": first}
    CheckpointSaver(tmp_path, state, save_interval=1, n_saved=9).attach(first)
    first.run()
    second, batches = build(), []
    loader = CheckpointLoader(
        str(tmp_path / f"checkpoint_epoch={epoch}.pt"), {"net": second.network, "trainer": second}
    )
    loader.attach(second)
    second.add_event_handler(Events.ITERATION_STARTED, batches.append)
    with pytest.raises(ValueError, match=f"got an engine moved to epoch {epoch} of 4"):
        second.run()
    assert not batches


@pytest.mark.parametrize(
    "move",
    [
        lambda trainer: trainer.load_state_dict({"epoch_length": 2, "max_epochs": 4, "iteration": 4}),
        lambda trainer: vars(trainer.state).update(epoch=2, iteration=4),
        lambda trainer: trainer.add_event_handler(Events.STARTED, lambda engine: vars(engine.state).update(epoch=3)),
    ],
)
def test_an_engine_that_a_script_moves_is_refused(move):
    trainer, batches = build(), []
    move(trainer)
    trainer.add_event_handler(Events.ITERATION_STARTED, batches.append)
    with pytest.raises(ValueError, match="got an engine moved to epoch"):
        trainer.run()
    assert not batches


def test_a_run_that_is_interrupted_and_goes_on_is_the_same():
    def weights(cut):
        trainer = build(chain={"pool_ratio": 1})
        if cut:
            trainer.add_event_handler(Events.ITERATION_COMPLETED(once=3), lambda engine: engine.interrupt())
            trainer.run()
            assert trainer.state.iteration == 3
        trainer.run()
        return trainer.network.state_dict()

    torch.testing.assert_close(dict(weights(cut=True)), dict(weights(cut=False)), rtol=1e-4, atol=1e-5)


def make_weighted(weights):
    dataset = Dataset(make_items())
    return DataLoader(dataset, batch_size=8, sampler=WeightedRandomSampler(weights, len(dataset)))


def test_weights_of_a_sampler_hold_within_a_stage():
    trainer = build(loader=make_weighted([0.0 if i % 3 == 1 else 1.0 for i in range(48)]), chain={"pool_ratio": 2})
    labels, pool = [], set()

    @trainer.on(Events.GET_BATCH_COMPLETED)
    def look(engine):
        labels.extend(engine.state.batch["label"].tolist())
        pool.update(engine.state.batch["index"][8:].tolist())

    trainer.run()
    assert set(labels) == {-1, 0, 2}
    # weights that tell labels must not choose the pool
    assert {index % 3 for index in pool} == {0, 1, 2}


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (lambda data: SubsetRandomSampler(range(9)), "got SubsetRandomSampler"),
        (lambda data: list(range(9)), "got list"),
        (lambda data: type("Balanced", (torch.utils.data.RandomSampler,), {})(data), "got Balanced"),
    ],
)
def test_a_sampler_that_cannot_be_kept_is_refused(sampler, message):
    dataset = Dataset(make_items())
    loader = torch.utils.data.DataLoader(dataset, batch_size=8, sampler=sampler(dataset))
    with pytest.raises(TypeError, match=message):
        build(loader=loader)


def test_weights_of_some_items_alone_are_refused():
    with pytest.raises(ValueError, match="sampler: expected a weight for each of 48 items, got 9"):
        build(loader=make_weighted([1.0] * 9))
    with pytest.raises(ValueError, match="sampler: expected a weight above 0"):
        build(loader=make_weighted([0.0] * 48)).run()


def test_an_evaluator_that_cannot_judge_is_refused():
    network = make_network()
    loader = DataLoader(Dataset(make_items(12)), batch_size=4)
    with pytest.raises(ValueError, match="evaluator: expected a key_val_metric"):
        build(evaluator=SupervisedEvaluator("cpu", loader, network))
    with pytest.raises(ValueError, match="evaluator: expected the trained network, got another"):
        build(evaluator=make_evaluator(network, make_items(12))).run()


def other_with(network, place):
    """Return another network that has a part in common with one."""
    other = make_network(1)
    other[place] = network[place]
    return other


@pytest.mark.parametrize(
    ("make", "refused"),
    [
        (lambda network: other_with(network, 0), True),
        (lambda network: other_with(network, 1), True),
        (deepcopy, True),
        (AveragedModel, True),
        (lambda network: torch.nn.Softmax(1), True),
        (torch.nn.DataParallel, False),
        (partial(torch.compile, backend="eager"), False),
        (lambda network: torch.nn.Sequential(network, torch.nn.Softmax(1)), False),
        (lambda network: torch.nn.Sequential(torch.nn.InstanceNorm2d(3, affine=True), network), False),
    ],
)
def test_an_evaluator_has_the_trained_network_or_a_wrapper_around_it(make, refused):
    trainer = build()
    evaluator = trainer.state.chain.evaluator
    evaluator.network = make(trainer.network)
    if refused:
        with pytest.raises(ValueError, match="evaluator: expected the trained network, got another"):
            trainer.run()
    else:
        trainer.run()


class Doubled(torch.nn.Sequential):
    """A head whose weight has a part in the logits twice."""

    def forward(self, images):
        *body, head = self
        for layer in body:
            images = layer(images)
        return head(images) ** 3


class Cosine(torch.nn.Linear):
    """A head that normalizes its weight."""

    def forward(self, features):
        return 5 * torch.nn.functional.cosine_similarity(features[:, None], self.weight, dim=2)


class Sum(torch.nn.Module):
    """A network of two heads."""

    def __init__(self):
        super().__init__()
        *body, self.head = make_network()
        self.body, self.other = torch.nn.Sequential(*body), torch.nn.Linear(8, 3)

    def forward(self, images):
        features = self.body(images)
        return self.head(features) + self.other(features)


@pytest.mark.parametrize("kind", ["spectral", "cubed", "softmax", "cosine", "normalized", "sum"])
def test_a_head_that_is_not_divided_stays_uncalibrated(kind, caplog):
    network = make_network()
    if kind == "spectral":
        network[-1] = torch.nn.utils.parametrizations.spectral_norm(network[-1])
    elif kind == "cosine":
        network[-1] = Cosine(8, 3)
    elif kind == "sum":
        network = Sum()
    elif kind == "cubed":
        network = Doubled(*network)
    else:
        network.append(torch.nn.LogSoftmax(1) if kind == "softmax" else torch.nn.BatchNorm1d(3))
    trainer = make_chain(network=network, calibrate=True, accept="always")
    trainer.run()
    assert [record.calibration for record in trainer.records] == [1.0] * 3
    assert "calibrate: expected logits that are divided with the head" in caplog.text
    trainer.walker.evaluator.run()
    assert trainer.walker.evaluator.state.metrics["val_accuracy"] == trainer.records[-1].value


@pytest.mark.parametrize("every", [1, 3])
def test_the_average_is_validated_within_an_epoch(every):
    network, found = make_network(), []
    evaluator = make_evaluator(network, make_items(12))
    trainer = make_chain(network=network, averaging=0.9, validate=False, handlers=[])
    trainer.walker.gate.evaluator = evaluator
    trainer.walker.gate.attach(trainer)
    evaluator.add_event_handler(Events.STARTED, lambda engine: found.append(trainer.walker.average.swapped))
    trainer.add_event_handler(Events.ITERATION_COMPLETED(every=every), lambda engine: evaluator.run())
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: found.append(not trainer.walker.average.swapped))
    trainer.run()
    assert found
    assert all(found)


@pytest.mark.parametrize("shared", ["body", "head", "normalization", "all", "storage", "view"])
def test_a_teacher_that_shares_with_the_student_is_copied(shared, caplog):
    student, teacher = make_network(), make_network(1)
    if shared == "storage":
        teacher[-1].weight.data = student[-1].weight.data
    elif shared == "view":
        teacher[-1].bias.data = student[-1].weight.data[:, 0]
    elif shared == "all":
        teacher = torch.nn.Sequential(student, torch.nn.Identity())
    else:
        place = {"body": 0, "normalization": 1, "head": -1}[shared]
        teacher[place] = student[place]
    trainer = distilling(student, DistillationHandler(teacher))
    before = student[0].weight.detach().clone(), student[-1].weight.detach().clone()
    trainer.run()
    assert not torch.equal(before[0], student[0].weight)
    assert not torch.equal(before[1], student[-1].weight)
    assert "a frozen copy is used" in caplog.text
