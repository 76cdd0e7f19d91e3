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

import pytest
import torch
from chain_runs import assert_same_weights
from distillation_runs import make_batches, make_network, make_trainer
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines import IterationEvents, SupervisedTrainer
from monai.handlers import StatsHandler, from_engine
from monai.transforms import Compose
from torch.nn import functional

from monai_weckd.engines import DistillationEvents, DistillationKeys, DistillationTrainer
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import fingerprint


def test_args_validation():
    with pytest.raises(TypeError, match="loss_function: expected a DistillationLoss, got CrossEntropyLoss"):
        make_trainer(loss_function=torch.nn.CrossEntropyLoss())
    with pytest.raises(ValueError, match="student_layer: expected a module path for attention_weight=1"):
        make_trainer(loss_function=DistillationLoss(attention_weight=1.0))
    network = make_network()
    with pytest.raises(ValueError, match="teacher: expected another object than the trained network"):
        make_trainer(network=network, teacher=network)
    with pytest.raises(ValueError, match=r"student_layer: expected a module of Sequential, got '9'"):
        make_trainer(loss_function=DistillationLoss(attention_weight=1.0), student_layer="9")
    with pytest.raises(TypeError, match="unexpected keyword argument 'acumulation_steps'"):
        make_trainer(acumulation_steps=2)


def test_without_teacher_equals_supervised_trainer():
    ours, stock = make_network(), make_network()
    make_trainer(network=ours).run()
    make_trainer(SupervisedTrainer, network=stock, loss_function=torch.nn.CrossEntropyLoss()).run()
    assert_same_weights(ours, stock)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
@pytest.mark.parametrize("decollate", [True, False])
def test_steps_equal_a_hand_written_loop(accumulation_steps, decollate):
    teacher = make_network(5)
    network = make_network()
    make_trainer(
        network=network, teacher=teacher, accumulation_steps=accumulation_steps, decollate=decollate, max_epochs=1
    ).run()

    expected = make_network().train()
    frozen = deepcopy(make_network(5)).eval()
    optimizer = torch.optim.SGD(expected.parameters(), lr=0.1)
    for step, batch in enumerate(make_batches()):
        logits = expected(batch["image"])
        with torch.no_grad():
            target = functional.softmax(frozen(batch["image"]) / 2, dim=1)
        kl = functional.kl_div(functional.log_softmax(logits / 2, dim=1), target, reduction="batchmean") * 4
        loss = 0.7 * functional.cross_entropy(logits, batch["label"]) + 0.3 * kl
        (loss / accumulation_steps).backward()
        if (step + 1) % accumulation_steps == 0:
            optimizer.step()
            optimizer.zero_grad()
    for ours, theirs in zip(network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("student_layer", [None, "0"])
def test_an_iteration_equals_that_of_the_base_class(student_layer):
    class Slow(DistillationTrainer):
        _iteration = SupervisedTrainer._iteration

    networks, outputs = [], []
    for kind in (DistillationTrainer, Slow):
        network = make_network()
        loss_function = DistillationLoss(weight=0.3, attention_weight=0.0 if student_layer is None else 0.5)
        trainer = make_trainer(
            kind, network=network, teacher=make_network(5), loss_function=loss_function, student_layer=student_layer
        )
        trainer.run()
        networks.append(network)
        outputs.append(trainer.state.output)
    assert_same_weights(*networks)
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-4, atol=1e-5)


def test_an_event_without_listeners_is_still_the_last_event():
    trainer = make_trainer()
    for event in (IterationEvents.LOSS_COMPLETED, DistillationEvents.TEACHER_COMPLETED, Events.EPOCH_STARTED):
        trainer.fire_event(event)
        assert trainer.last_event_name == event
    with pytest.raises(ValueError, match="nobody's event"):
        trainer.fire_event("nobody's event")


def test_events_come_in_monai_order():
    seen = []
    trainer = make_trainer(teacher=make_network(5), max_epochs=1)
    events = [
        *IterationEvents,
        DistillationEvents.TEACHER_COMPLETED,
        Events.ITERATION_STARTED,
        Events.ITERATION_COMPLETED,
    ]
    for event in events:
        trainer.add_event_handler(event, lambda engine, event=event: seen.append(event.name))
    trainer.run()
    assert seen[: len(seen) // 4] == [
        "ITERATION_STARTED",
        "FORWARD_COMPLETED",
        "TEACHER_COMPLETED",
        "LOSS_COMPLETED",
        "BACKWARD_COMPLETED",
        "MODEL_COMPLETED",
        "ITERATION_COMPLETED",
    ]


def test_a_handler_from_a_configuration_may_listen_to_the_teacher():
    class Listener:
        count = 0

        def attach(self, engine):
            engine.add_event_handler(DistillationEvents.TEACHER_COMPLETED, self)

        def __call__(self, engine):
            self.count += 1

    listener = Listener()
    make_trainer(teacher=make_network(5), max_epochs=1, train_handlers=[listener]).run()
    assert listener.count == 4


def test_batches_are_taken_apart_only_for_a_postprocessing_or_when_asked():
    for options, kind in (
        ({}, dict),
        ({"decollate": True}, list),
        ({"postprocessing": Compose([])}, list),
        ({"postprocessing": Compose([]), "decollate": False}, dict),
    ):
        trainer = make_trainer(max_epochs=1, **options)
        trainer.run()
        assert isinstance(trainer.state.output, kind)


def test_the_networks_see_plain_tensors():
    class Plain(torch.nn.Sequential):
        def forward(self, x):
            assert type(x) is torch.Tensor
            return super().forward(x)

    trainer = make_trainer(network=Plain(*make_network()), teacher=Plain(*make_network(5)), max_epochs=1)
    trainer.data_loader = [{**batch, "image": MetaTensor(batch["image"])} for batch in make_batches()]
    trainer.run()
    assert trainer.state.iteration == 4


@pytest.mark.parametrize("decollate", [True, False])
def test_losses_can_be_logged_with_and_without_a_teacher(decollate, caplog):
    keys = [DistillationKeys.TASK_LOSS, DistillationKeys.DISTILLATION_LOSS, DistillationKeys.ATTENTION_LOSS]
    for teacher in (None, make_network(5)):
        logged = []
        stats = StatsHandler(
            epoch_log=False,
            iteration_print_logger=lambda engine, log=logged: log.append(
                from_engine(keys, first=True)(engine.state.output)
            ),
        )
        make_trainer(teacher=teacher, decollate=decollate, train_handlers=[stats], max_epochs=1).run()
        assert len(logged) == 4
        assert (float(logged[0][1]) > 0) == (teacher is not None)


def test_compile_gives_the_same_weights():
    options = {"teacher": make_network(5), "max_epochs": 1}
    plain, compiled = make_network(), make_network()
    make_trainer(network=plain, **options).run()
    make_trainer(network=compiled, compile=True, compile_kwargs={"backend": "eager"}, **options).run()
    for ours, theirs in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_amp_on_a_cpu_still_trains():
    network = make_network()
    before = fingerprint(network)
    with pytest.warns(UserWarning, match="CUDA"):
        make_trainer(network=network, teacher=make_network(5), amp=True, max_epochs=1).run()
    assert fingerprint(network) != before


def test_unlabeled_items_are_guided_by_the_teacher_alone():
    network, teacher = make_network(), make_network(5)
    batches = [{**batch, "label": torch.full_like(batch["label"], -1)} for batch in make_batches()]
    trainer = make_trainer(network=network, teacher=teacher, max_epochs=1)
    trainer.data_loader = batches
    before = fingerprint(network)
    trainer.run()
    assert fingerprint(network) != before
    assert trainer.state.output[DistillationKeys.TASK_LOSS] == 0


@pytest.mark.parametrize("wrap", [lambda network: network, torch.nn.DataParallel])
def test_a_network_that_was_put_in_eval_mode_goes_back_to_train_mode(wrap):
    network, modes = make_network(), []
    trainer = make_trainer(network=wrap(network), max_epochs=1)
    trainer.add_event_handler(Events.ITERATION_STARTED(every=2), lambda _: network.eval())
    trainer.add_event_handler(
        IterationEvents.FORWARD_COMPLETED, lambda _: modes.append({module.training for module in network.modules()})
    )
    trainer.run()
    assert modes == [{True}] * 4
