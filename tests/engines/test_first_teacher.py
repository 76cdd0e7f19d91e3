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

import pytest
import torch
from chain_runs import assert_same_weights, make_chain, make_items, make_network
from held_out import held_out
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedTrainer
from torch.utils.data import DataLoader

from monai_weckd import plan_chain
from monai_weckd.engines import DistillationTrainer
from monai_weckd.handlers import ChainHandler
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import StoredLogits, freeze

CLASSES = ("a", "b", "c")


def first_stage(teacher, *, pool_ratio=0, **options):
    """Train one stage; returns the trainer and the distillation losses of its iterations."""
    items = make_items()
    plan = plan_chain(items, held_out(num_stages=1, seed=0), classes=CLASSES)
    trainer = make_chain(
        items=items, plan=plan, noise=0.0, max_epochs=2, first_teacher=teacher, pool_ratio=pool_ratio, **options
    )
    losses, sizes = [], []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["distillation_loss"]))
    )
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda engine: sizes.append(len(engine.state.batch["image"])))
    trainer.run()
    return trainer, losses, sizes


def stored(network, items):
    with torch.no_grad():
        return StoredLogits(freeze(network).eval()(torch.stack([item["image"] for item in items])))


def train_items():
    items = make_items()
    return plan_chain(items, held_out(num_stages=1, seed=0), classes=CLASSES).select(items, "train")


@pytest.mark.parametrize("pool_ratio", [0, 2])
def test_stored_logits_teach_as_their_network_does(pool_ratio):
    teacher = make_network(seed=5)
    by_network, told, sizes = first_stage(freeze(teacher), pool_ratio=pool_ratio)
    by_table, found, _ = first_stage(stored(teacher, train_items()), pool_ratio=pool_ratio)
    assert set(sizes) == {8 * (1 + pool_ratio)}
    assert min(found) > 0
    assert found == pytest.approx(told, abs=1e-4)
    assert_same_weights(by_table.network, by_network.network)


def test_without_a_first_teacher_the_first_stage_learns_from_labels_alone():
    _, losses, sizes = first_stage(None, pool_ratio=2)
    assert set(losses) == {0.0}
    assert set(sizes) == {8}


def test_an_accepted_student_follows_the_first_teacher():
    items = make_items()
    plan = plan_chain(items, held_out(num_stages=2, seed=0), classes=CLASSES)
    first = freeze(make_network(seed=5))
    trainer = make_chain(items=items, plan=plan, max_epochs=4, first_teacher=first, accept="always")
    teachers = []
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: teachers.append(engine.teacher))
    trainer.run()
    assert [teacher is first for teacher in teachers] == [True, True, False, False]


def test_the_handler_has_a_first_teacher_as_well():
    teacher, items = make_network(seed=5), train_items()
    by_trainer, expected, _ = first_stage(stored(teacher, items), validate=False)
    network = make_network()
    losses = []
    trainer = SupervisedTrainer(
        "cpu",
        2,
        train_data_loader=DataLoader(Dataset(items), batch_size=8),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9),
        loss_function=torch.nn.CrossEntropyLoss(),
        epoch_length=4,
        decollate=False,
        train_handlers=[
            ChainHandler(by_trainer.plan, temperature=2.0, first_teacher=stored(teacher, items)),
        ],
    )
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: losses.append(float(engine.state.output["distillation_loss"]))
    )
    trainer.run()
    assert losses == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("options", [{"teacher": "student"}, {"teacher": "average", "averaging": 0.9}])
def test_a_student_that_teaches_itself_has_no_first_teacher(options):
    with pytest.raises(ValueError, match=r"^first_teacher: expected None with teacher="):
        make_chain(first_teacher=make_network(seed=5), **options)


def test_stored_logits_need_the_places_of_the_items():
    items, network = train_items(), make_network()
    trainer = DistillationTrainer(
        "cpu",
        1,
        train_data_loader=DataLoader(Dataset(items), batch_size=8),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.05),
        loss_function=DistillationLoss(),
        teacher=stored(make_network(seed=5), items),
    )
    with pytest.raises(ValueError, match=r"^index: expected the place of each item"):
        trainer.run()
