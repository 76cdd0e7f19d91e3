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

import random
from copy import deepcopy

import pytest
import torch
from chain_runs import assert_same_weights, make_chain, make_evaluator, make_items, make_network
from held_out import held_out
from ignite.engine import Events
from monai.data import CacheDataset, Dataset
from torch.utils.data import DataLoader

from monai_weckd import plan_chain
from monai_weckd.engines import ChainDistillationTrainer, ChainOptions
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import fingerprint


def final_weights(**options):
    trainer = make_chain(**options)
    trainer.run()
    return fingerprint(trainer.network)


def test_args_validation():
    with pytest.raises(ValueError, match="max_epochs: expected at least one for each of 3 stages, got 2"):
        make_chain(max_epochs=2)
    with pytest.raises(ValueError, match=r"stage_epochs: expected 3 positive numbers that add up to max_epochs=6"):
        make_chain(stage_epochs=[1, 2, 4])


def test_no_image_is_opened_before_the_options_are_checked():
    class Closed(Dataset):
        def __getitem__(self, index):
            raise AssertionError("an image was opened")

    items = make_items()
    plan = plan_chain(items, held_out())
    network = make_network()
    with pytest.raises(ValueError, match="max_epochs"):
        ChainDistillationTrainer(
            "cpu",
            1,
            plan=plan,
            train_data_loader=DataLoader(Closed(plan.select(items, "train")), batch_size=4),
            network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
            loss_function=DistillationLoss(),
            chain=ChainOptions(accept="always"),
        )


def test_the_chain_learns():
    trainer = make_chain(max_epochs=30)
    trainer.run()
    evaluator = make_evaluator(trainer.network, trainer.plan.select(make_items(), "test"))
    evaluator.run()
    assert evaluator.state.metrics["val_accuracy"] > 0.8
    assert [record.teacher for record in trainer.records] == [
        None,
        1,
        trainer.records[1].stage if trainer.records[1].accepted else 1,
    ]


def test_same_seed_same_bits_other_seed_other_bits():
    assert final_weights() == final_weights()
    assert final_weights() != final_weights(seed=1)


def test_workers_give_the_same_bits():
    assert final_weights(num_workers=2, pool_ratio=1) == final_weights(num_workers=0, pool_ratio=1)


def test_hidden_generator_state_changes_nothing():
    def disturb(engine):
        torch.rand(3)
        random.random()

    trainer = make_chain()
    trainer.add_event_handler(Events.EPOCH_COMPLETED, disturb)
    trainer.run()
    assert fingerprint(trainer.network) == final_weights()


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("pool_ratio", [0, 1])
def test_withheld_labels_change_no_bit(stratify, pool_ratio):
    items = make_items()
    plan = plan_chain(items, held_out(policy="cumulative", stratify=stratify))
    revealed = {key for stage in plan.stages for key in stage.labeled} | set(plan.val)
    withheld = [item for item in items if item["id"] not in revealed]
    labels = [item["label"] for item in withheld]
    random.Random(0).shuffle(labels)
    shuffled = deepcopy(items)
    by_id = {item["id"]: item for item in shuffled}
    for item, label in zip(withheld, labels, strict=True):
        by_id[item["id"]]["label"] = label
    assert any(a["label"] != b["label"] for a, b in zip(items, shuffled, strict=True))
    first = final_weights(items=items, plan=plan, pool_ratio=pool_ratio)
    assert first == final_weights(items=shuffled, plan=plan, pool_ratio=pool_ratio)

    # the test can fail: a revealed label does change the weights
    key = plan.stages[0].labeled[0]
    by_id[key]["label"] = (by_id[key]["label"] + 1) % 3
    assert first != final_weights(items=shuffled, plan=plan, pool_ratio=pool_ratio)


def test_a_tampered_teacher_stops_the_chain():
    trainer = make_chain(accept="always")

    def tamper(engine):
        if engine.teacher is not None:
            engine.teacher[1].running_mean += 1

    trainer.add_event_handler(Events.ITERATION_COMPLETED, tamper)
    with pytest.raises(RuntimeError, match="teacher: expected unchanged parameters and buffers"):
        trainer.run()


def test_a_shard_of_one_item_more_than_a_batch_trains_with_batch_norm():
    # a last batch of one item, as a DataLoader would give it, has no variance
    network = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 3)
    )
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        network(torch.zeros(1, 3, 8, 8))
    plan = plan_chain(make_items(), held_out(num_stages=2), classes=("a", "b", "c"))
    size = len(plan.stages[0].labeled) - 1
    trainer, sizes = make_chain(plan=plan, network=network, batch_size=size), set()
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: sizes.add(len(engine.state.batch["label"])))
    trainer.run()
    assert sizes == {size}
    assert trainer.state.iteration * size > 2 * (size + 1)


def test_a_replaced_data_list_is_planned_anew():
    items = make_items()
    plan = plan_chain(items, held_out())
    others = [{"image": item["image"], "label": item["label"]} for item in make_items(30, 1, seed=9)]
    for index, item in enumerate(others):
        item["id"] = f"new{index}"
    network = make_network()
    trainer = ChainDistillationTrainer(
        "cpu",
        3,
        plan=plan,
        train_data_loader=DataLoader(Dataset(others), batch_size=4),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=DistillationLoss(),
        chain=ChainOptions(accept="always"),
        epoch_length=2,
    )
    trainer.run()
    assert set(trainer.plan.train) == {item["id"] for item in others}
    assert [record.labeled for record in trainer.records] == [3, 3, 3]


def test_a_cache_dataset_gives_the_same_bits_as_a_plain_one():
    plain = make_chain()
    cached = make_chain()
    dataset = cached.data_loader.dataset
    cached.data_loader = DataLoader(CacheDataset(dataset.data, dataset.transform, progress=False), batch_size=8)
    plain.run()
    cached.run()
    assert fingerprint(plain.network) == fingerprint(cached.network)


def test_ledger_is_the_label_budget():
    trainer = make_chain(stratify=False)
    trainer.run()
    assert [(entry.purpose, entry.stage) for entry in trainer.oracle.ledger] == [
        ("split", None),
        ("shard", 1),
        ("shard", 2),
        ("shard", 3),
    ]
    assert trainer.oracle.budget == trainer.plan.label_budget["train"]
    stratified = make_chain(stratify=True)
    stratified.run()
    assert [entry.purpose for entry in stratified.oracle.ledger][:2] == ["split", "stratification"]
    assert stratified.oracle.budget == stratified.plan.label_budget["train"]


def test_attention_is_passed_on_from_a_named_layer():
    losses = []
    trainer = make_chain(
        loss_function=DistillationLoss(attention_weight=1.0), student_layer="2", accept="always", max_epochs=3
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: losses.append((e.state.stage, float(e.state.output["attention_loss"])))
    )
    trainer.run()
    assert all(value == 0 for stage, value in losses if stage == 1)
    assert all(value > 0 for stage, value in losses if stage == 2)


def test_the_saved_student_is_a_plain_state_dict():
    trainer = make_chain(
        loss_function=DistillationLoss(attention_weight=1.0), student_layer="2", accept="always", max_epochs=3
    )
    trainer.run()
    assert list(trainer.network.state_dict()) == list(make_network().state_dict())


def test_a_compiled_network_walks_the_same_chain_and_ends_as_a_plain_one():
    ends = []
    for options in ({}, {"compile": True, "compile_kwargs": {"backend": "eager"}}):
        network = make_network()
        # without a metric, by which rounding would choose another epoch
        trainer = make_chain(network=network, pool_ratio=1, accept="always", validate=False, **options)
        trainer.run()
        ends.append(network)
        assert list(trainer.teacher.state_dict()) == list(network.state_dict())
    assert_same_weights(*ends)
