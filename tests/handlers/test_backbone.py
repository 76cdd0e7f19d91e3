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
from copy import deepcopy

import ignite.distributed as idist
import pytest
import torch
from chain_runs import make_items, make_network
from held_out import held_out
from ignite.engine import Events
from ignite.metrics import Accuracy
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from monai.handlers import ValidationHandler, from_engine

from monai_weckd import plan_chain
from monai_weckd.data import ByteCacheDataset
from monai_weckd.engines import ChainDistillationTrainer, ChainOptions
from monai_weckd.handlers import FrozenBackbone, predict_probabilities
from monai_weckd.losses import DistillationLoss
from monai_weckd.utils.options import option_names

CLASSES = ("a", "b", "c")


def make_frozen(
    *, network=None, num_stages=3, selection="random", batch_size=8, num_workers=0, handlers=(), data=None, **options
):
    """Build a small chain of heads; returns trainer, backbone and the datasets of training and validation."""
    known = {"freeze", "head_layer", "cache_dir"}
    frozen = {key: options.pop(key) for key in known & options.keys()}
    chain = {name: options.pop(name) for name in option_names(ChainOptions) if name in options}
    network = network or make_network()
    backbone = FrozenBackbone(network, **frozen)
    items = make_items()
    # a network that asks for its labels cannot ask class by class
    stratify = selection == "random"
    settings = held_out(policy="cumulative", num_stages=num_stages, selection=selection, stratify=stratify, seed=0)
    plan = plan_chain(items, settings, classes=CLASSES)
    make = data or (lambda part: ByteCacheDataset(part, []))
    train, val = (backbone.embed(make(plan.select(items, split))) for split in ("train", "val"))
    metric = {"val_accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))}
    evaluator = SupervisedEvaluator(
        "cpu",
        DataLoader(val, batch_size=16, num_workers=num_workers),
        network,
        inferer=options.pop("val_inferer", backbone.inferer),
        key_val_metric=metric,
        decollate=False,
    )
    trainer = ChainDistillationTrainer(
        "cpu",
        2 * num_stages,
        plan=plan,
        train_data_loader=DataLoader(train, batch_size=batch_size, num_workers=num_workers),
        network=network,
        optimizer=options.pop("optimizer", torch.optim.AdamW(backbone.parameters(), lr=0.05, weight_decay=0.1)),
        loss_function=options.pop("loss_function", DistillationLoss(temperature=2.0)),
        epoch_length=4,
        evaluator=evaluator,
        inferer=options.pop("inferer", backbone.inferer),
        chain=ChainOptions(**{"pool_ratio": 1, **chain}),
        train_handlers=[ValidationHandler(1, evaluator), *handlers, backbone],
        **options,
    )
    return trainer, backbone, (train, val)


def body(network, head="6"):
    """Return a copy of all tensors outside the head."""
    return {key: tensor.clone() for key, tensor in network.state_dict().items() if not key.startswith(f"{head}.")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_refuses_a_head_that_is_not_there():
    with pytest.raises(ValueError, match=r"^path: expected a module of Sequential, got 'hed'"):
        FrozenBackbone(make_network(), head_layer="hed")


def test_refuses_several_processes(monkeypatch):
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"^backbone: expected one process, got 2\. Heads train in seconds"):
        FrozenBackbone(make_network())
    FrozenBackbone(make_network(), freeze=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inferer": None}, "inferer: expected a HeadInferer in trainer and evaluator, got SimpleInferer"),
        ({"val_inferer": None}, "inferer: expected a HeadInferer in trainer and evaluator, got SimpleInferer"),
        (
            {"loss_function": DistillationLoss(attention_weight=1.0), "student_layer": "2"},
            "attention_weight: expected 0 with a frozen backbone, got 1.0",
        ),
    ],
)
def test_refuses_when_the_trainer_starts(options, message):
    trainer, _, (train, _) = make_frozen(**options)
    with pytest.raises(ValueError, match=f"^{message}"):
        trainer.run()
    assert train.made_by is None


@pytest.mark.parametrize("teacher", ["last", "ensemble", "student", "average"])
def test_only_the_head_changes(teacher):
    trainer, backbone, _ = make_frozen(teacher=teacher, accept="always", averaging=0.9)
    before, head, seen = body(trainer.network), deepcopy(trainer.network[6].state_dict()), []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: seen.append(e.state.output["image"].shape))
    trainer.run()
    assert same(body(trainer.network), before)
    assert not same(trainer.network[6].state_dict(), head)
    assert {shape[1:] for shape in seen} == {(8,)}
    assert [name for name, one in trainer.network.named_parameters() if one.requires_grad] == ["6.weight", "6.bias"]
    assert set(backbone.parameters()) == set(trainer.network[6].parameters())
    assert trainer.records[-1].value > 0.6


def test_every_image_goes_through_the_backbone_once():
    calls = []
    trainer, _, datasets = make_frozen()
    trainer.network[0].register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    trainer.run()
    assert sum(calls) == sum(map(len, datasets))


def test_embeddings_give_what_images_give():
    trainer, backbone, (_, val) = make_frozen()
    trainer.run()
    loader = DataLoader(val, batch_size=16)
    found = predict_probabilities(trainer.network, loader, torch.device("cpu"), inferer=backbone.inferer)
    images = DataLoader(val.images, batch_size=1)
    expected = predict_probabilities(trainer.network, images, torch.device("cpu"))
    assert found[0] == pytest.approx(expected[0], abs=1e-5)
    assert list(found[1]) == list(expected[1])


def test_a_backbone_that_changes_is_noticed():
    trainer, _, _ = make_frozen()

    @trainer.on(Events.EPOCH_COMPLETED)
    def spoil(engine):
        engine.network[1].running_mean += 1

    with pytest.raises(RuntimeError, match=r"^backbone: expected unchanged parameters and buffers, got some"):
        trainer.run()


def test_weights_loaded_late_are_embedded_anew(caplog):
    trainer, _, (train, _) = make_frozen()
    stale = train[0]["image"]
    trainer.network[0].weight.data += 1
    with caplog.at_level(logging.INFO):
        trainer.run()
    assert not torch.allclose(train[0]["image"], stale)
    assert "embedding: " in caplog.text


def test_worker_processes_change_no_bit():
    weights = []
    for num_workers in (0, 2):
        trainer, _, _ = make_frozen(num_workers=num_workers, accept="always")
        trainer.run()
        weights.append(trainer.network.state_dict())
    assert same(*weights)


def test_without_freeze_it_is_not_there():
    network, items = make_network(), make_items()
    backbone, dataset = FrozenBackbone(network, freeze=False), Dataset(items)
    assert backbone.embed(dataset) is dataset
    assert list(backbone.parameters()) == list(network.parameters())
    assert all(one.requires_grad for one in network.parameters())
    trainer, backbone, (train, _) = make_frozen(freeze=False, accept="always")
    assert isinstance(train, ByteCacheDataset)
    before = body(trainer.network)
    trainer.run()
    assert not same(body(trainer.network), before)


def test_selection_asks_by_the_embeddings():
    trainer, _, (train, val) = make_frozen(selection="herding")
    calls = []
    trainer.network[0].register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    trainer.run()
    assert all(stage.new for stage in trainer.plan.stages)
    assert sum(calls) == len(train) + len(val)
