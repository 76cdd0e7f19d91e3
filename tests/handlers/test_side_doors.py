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
from copy import deepcopy
from functools import partial

import monai
import numpy as np
import pytest
import torch
from chain_runs import make_chain, make_evaluator, make_network
from ignite.engine import Events
from ignite.handlers import TimeLimit
from ignite.metrics import Accuracy
from monai.data import CacheDataset, Dataset, MetaTensor, PersistentDataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer, default_prepare_batch
from monai.handlers import CheckpointLoader, CheckpointSaver, EarlyStopHandler, ValidationHandler, from_engine
from monai.transforms import (
    AsDiscreted,
    Compose,
    CopyItemsd,
    Lambda,
    Lambdad,
    MapLabelValued,
    RandCropByPosNegLabeld,
)
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, SubsetRandomSampler, WeightedRandomSampler, default_collate

from monai_weckd import plan_training
from monai_weckd.handlers import ChainHandler, DistillationHandler

CLASSES = ("a", "b", "c")


def make_items(count=48):
    generator = torch.Generator().manual_seed(0)
    return [
        {"id": f"i{i}", "image": torch.randn(3, 8, 8, generator=generator) + i % 3, "label": i % 3}
        for i in range(count)
    ]


def build(dataset=None, *, loader=None, handlers=(), evaluator=True, max_epochs=4, epoch_length=2, chain=None, **more):
    dataset = dataset or Dataset(make_items())
    network = make_network()
    validate = make_evaluator(network, make_items(12)) if evaluator is True else evaluator
    plan = plan_training(
        (loader.dataset if loader else dataset).data, classes=CLASSES, label_fraction=0.25, num_stages=2
    )
    return SupervisedTrainer(
        "cpu",
        max_epochs=max_epochs,
        epoch_length=epoch_length,
        network=network,
        train_data_loader=loader or DataLoader(dataset, batch_size=8, shuffle=True),
        optimizer=torch.optim.Adam(network.parameters(), 1e-2),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[
            ValidationHandler(1, validate),
            ChainHandler(plan, evaluator=validate, accept="always", **(chain or {})),
            *handlers,
        ],
        **more,
    )


TABLE = {item["id"]: item["label"] for item in make_items()}
GENERATOR = np.random.default_rng(0)


def noise():
    """Return noise that no seed of PyTorch or NumPy repeats."""
    return torch.from_numpy(GENERATOR.normal(size=3))


def tag_image(item):
    return {**item, "image": MetaTensor(item["image"], meta={"truth": item["label"]})}


def nest(item):
    return {**item, "report": {"finding": [f"class {item['label']}"]}}


@pytest.mark.parametrize(
    ("transform", "name"),
    [
        (CopyItemsd("label", names="target"), "target"),
        (Compose([CopyItemsd("label", names="onehot"), AsDiscreted("onehot", to_onehot=3)]), "onehot"),
        (Lambda(lambda item: {**item, "soft": torch.eye(3)[item["label"]] * 0.9}), "soft"),
        (Lambda(tag_image), "image.meta.truth"),
        (Lambda(nest), "report.finding.0"),
        # a transform that knows the labels needs none from the item
        (Lambda(lambda item: {**item, "target": TABLE[item["id"]]}), "target"),
        (Lambda(lambda item: {**item, "target": torch.eye(3)[TABLE[item["id"]]]}), "target"),
        (Lambda(lambda item: {**item, "report": {"label": TABLE[item["id"]]}}), "report.label"),
        (Lambda(lambda item: {**item, "soft": (5 * torch.eye(3)[item["label"]] + noise()).softmax(0)}), "soft"),
    ],
)
@pytest.mark.parametrize("kind", [Dataset, partial(CacheDataset, progress=False)])
def test_a_copy_that_a_transform_makes_keeps_pool_images_out(transform, name, kind, caplog):
    trainer, seen = build(kind(make_items(), transform), chain={"pool_ratio": 2}), set()
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: seen.update(engine.state.batch["id"]))
    trainer.run()
    assert seen <= {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    assert f"under 'label' alone, got it in {name} too" in caplog.text


@pytest.mark.parametrize(
    "listed",
    [
        lambda label: {"target": label},
        lambda label: {"name": CLASSES[label]},
        lambda label: {"soft": [0.1 + 0.7 * (label == place) for place in range(3)]},
        lambda label: {"meta": {"truth": torch.tensor(label)}},
        lambda label: {"report": {"label": label, "id": 7}},
    ],
)
def test_a_copy_in_the_data_list_keeps_pool_images_out(listed, caplog):
    data = [{**item, **listed(item["label"])} for item in make_items()]
    trainer, seen = build(Dataset(data), chain={"pool_ratio": 2}), set()
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: seen.update(engine.state.batch["id"]))
    trainer.run()
    assert seen <= {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    assert "under 'label' alone" in caplog.text


class OwnTargets(torch.utils.data.Dataset):
    """A dataset that keeps its targets beside its items."""

    def __init__(self):
        self.data = make_items()
        self.targets = [item["label"] for item in self.data]

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return {**self.data[index], "target": self.targets[index]}


def test_targets_that_a_dataset_keeps_keep_pool_images_out(caplog):
    trainer, seen = build(OwnTargets(), chain={"pool_ratio": 2}), set()
    trainer.add_event_handler(Events.GET_BATCH_COMPLETED, lambda engine: seen.update(engine.state.batch["id"]))
    trainer.run()
    assert seen <= {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    assert "under 'label' alone, got it in target too" in caplog.text


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


@pytest.mark.parametrize("kind", [Dataset, partial(CacheDataset, progress=False)])
def test_each_part_of_an_item_has_its_label_or_none(kind):
    """A transform such as RandCropByPosNegLabeld makes a list of an item."""
    crop = RandCropByPosNegLabeld("image", label_key="image", spatial_size=(6, 6), num_samples=2)
    parts = Lambda(lambda item: [item, item]) if kind is not Dataset else crop
    loader = monai.data.DataLoader(kind(make_items(), parts), batch_size=8)
    trainer, found = build(loader=loader, chain={"pool_ratio": 2, "views": 2, "teacher_cache": True}), []

    @trainer.on(Events.GET_BATCH_COMPLETED)
    def look(engine):
        batch, revealed = engine.state.batch, engine.state.chain.plan.stages[engine.state.stage - 1].labeled
        labels = [TABLE[key] if key in revealed else -1 for key in batch["id"]]
        found.append((len(labels), batch["label"].tolist() == labels, len(set(batch["view"].tolist()))))

    trainer.run()
    assert found == [(16, True, 16)] * 4 + [(48, True, 48)] * 4


@pytest.mark.parametrize("kind", [Dataset, CacheDataset, PersistentDataset])
def test_no_transform_sees_a_withheld_label(kind, tmp_path):
    """The cache of a dataset has been filled with all labels before the chain begins; its own items say nothing."""
    seen = {}

    def look(item):
        seen.setdefault(item["id"], set()).add(int(item["label"]))
        return item

    options = {Dataset: {}, CacheDataset: {"progress": False}, PersistentDataset: {"cache_dir": tmp_path}}[kind]
    dataset = kind(make_items(), Compose([Lambdad("image", lambda image: image * 2), look]), **options)
    trainer = build(dataset, chain={"pool_ratio": 2}, max_epochs=8)
    for index in range(len(dataset)):
        dataset[index]
    seen.clear()
    trainer.run()
    revealed = {key for stage in trainer.state.chain.plan.stages for key in stage.labeled}
    # labels that are made up for the first item only show where its label goes
    assert all(seen[key] == {-1} for key in set(seen) - revealed - {"i0"})
    assert len(set(seen) - revealed) > 10


def test_an_ordinary_pipeline_has_its_pool_images(caplog):
    trainer, shapes = build(chain={"pool_ratio": 2}), []
    trainer.add_event_handler(
        Events.GET_BATCH_COMPLETED, lambda engine: shapes.append(int(engine.state.batch["label"].eq(-1).sum()))
    )
    trainer.run()
    assert shapes == [0] * 4 + [16] * 4
    assert "under 'label' alone" not in caplog.text


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (Lambdad("label", lambda label: 2 - label), lambda label: 2 - label),
        (
            Compose([Lambdad("label", np.array), MapLabelValued("label", [0, 1, 2], [1, 1, 0], dtype=np.int64)]),
            lambda label: [1, 1, 0][label],
        ),
        (Lambdad("label", lambda label: torch.tensor([label])), lambda label: label),
        (Lambdad("label", lambda label: ["a", "b", "c"].index("abc"[label])), lambda label: label),
    ],
)
def test_labels_pass_through_the_transforms(transform, expected):
    trainer, found = build(Dataset(make_items(), transform), chain={"pool_ratio": 1}), {}
    trainer.add_event_handler(
        Events.GET_BATCH_COMPLETED,
        lambda engine: found.update(zip(engine.state.batch["id"], engine.state.batch["label"].tolist(), strict=True)),
    )
    trainer.run()
    known = {item["id"]: expected(item["label"]) for item in make_items()}
    final = set(trainer.state.chain.plan.stages[-1].labeled)
    assert all(label in (known[key], -1) for key, label in found.items())
    assert all(found[key] == known[key] for key in final & set(found))


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


@pytest.mark.parametrize("decollate", [True, False])
def test_training_metrics_leave_out_items_without_a_label(decollate):
    trainer = make_chain(
        pool_ratio=3,
        key_train_metric={"train": Accuracy(output_transform=from_engine(["pred", "label"]))},
        **({"postprocessing": Lambdad("pred", lambda pred: pred)} if decollate else {}),
    )
    counts = []
    metric = next(
        handler.__self__
        for handler, _, _ in trainer._event_handlers[Events.EPOCH_COMPLETED]
        if isinstance(getattr(handler, "__self__", None), Accuracy)
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: counts.append(int(metric._num_examples)))
    trainer.run()
    assert set(counts) == {8 * 4}


def distilling(student, handler):
    return SupervisedTrainer(
        "cpu",
        max_epochs=1,
        network=student,
        train_data_loader=DataLoader(Dataset(make_items()), batch_size=8),
        optimizer=torch.optim.SGD(student.parameters(), 0.1),
        loss_function=torch.nn.CrossEntropyLoss(),
        train_handlers=[handler],
    )


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


class Last(torch.nn.Module):
    def forward(self, features):
        return features.permute(0, 2, 3, 1)


class First(torch.nn.Module):
    def forward(self, features):
        return features.permute(0, 3, 1, 2)


class Recomputed(torch.nn.Sequential):
    def forward(self, images):
        return torch.utils.checkpoint.checkpoint(super().forward, images.requires_grad_(), use_reentrant=True)


class Detached(torch.nn.Module):
    def forward(self, features):
        return features.detach()


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("last", "1", "channels come last"),
        ("reentrant", "0.0.0", "takes no gradient"),
        ("detached", "1", "takes no gradient"),
        ("frozen", "0", "takes no gradient"),
        ("plain", "3", r"features of several positions, got \(8, 8, 1, 1\)"),
        ("plain", "4", r"features \(B, C, spatial dimensions\), got \(8, 8\)"),
        ("plain", "nowhere", "expected a module of Sequential, got 'nowhere'"),
    ],
)
def test_features_that_teach_nothing_are_refused(kind, layer, message):
    def network(seed):
        layers = make_network(seed)
        layers[0].requires_grad_(kind != "frozen")
        if kind == "reentrant":
            return torch.nn.Sequential(Recomputed(torch.nn.Sequential(layers[0], torch.nn.ReLU())), *layers[1:])
        more = {"last": [Last(), First()], "detached": [Detached()]}.get(kind, [])
        return torch.nn.Sequential(layers[0], *more, *layers[1:])

    trainer = distilling(network(0), DistillationHandler(network(1), attention_weight=1.0, student_layer=layer))
    with pytest.raises(ValueError, match=message):
        trainer.run()
