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
from chain_runs import make_chain
from distillation_runs import make_batches, make_network, make_trainer
from ignite.engine import Events
from monai.engines import IterationEvents
from monai.utils import CommonKeys
from torch.nn import functional

from monai_weckd.engines import DistillationKeys
from monai_weckd.losses import DistillationLoss, attention_transfer_loss, distillation_loss
from monai_weckd.networks import fingerprint


def test_the_teacher_is_asked_before_activations_of_the_student_exist():
    calls = []
    network, teacher = make_network(), make_network(5)
    for name, net in (("student", network), ("teacher", teacher)):
        net.register_forward_pre_hook(lambda module, inputs, name=name: calls.append(name))
    trainer = make_trainer(network=network, teacher=teacher, max_epochs=1)
    trainer.add_event_handler(
        IterationEvents.FORWARD_COMPLETED,
        lambda engine: calls.append(DistillationKeys.TEACHER_PRED in engine.state.output),
    )
    trainer.run()
    assert calls == ["teacher", "student", False] * 4


def test_a_teacher_left_in_train_mode_does_not_change():
    teacher = make_network(5).train()
    before = fingerprint(teacher)
    trainer = make_trainer(teacher=teacher)
    # somebody's code switches it back in the middle of the run
    trainer.add_event_handler(Events.ITERATION_STARTED, lambda: teacher.train())
    trainer.run()
    assert fingerprint(teacher) == before
    assert not teacher.training
    assert all(not p.requires_grad and p.grad is None for p in teacher.parameters())
    trainer.distiller.check_teacher()
    teacher[1].running_mean += 1
    with pytest.raises(RuntimeError, match="teacher: expected unchanged parameters and buffers"):
        trainer.distiller.check_teacher()


def test_the_guard_would_see_a_batch_norm_teacher_that_learns():
    teacher = make_network(5).train()
    before = fingerprint(teacher)
    teacher(make_batches(1)[0]["image"])
    assert fingerprint(teacher) != before


def test_output_holds_the_parts_of_the_loss():
    loss_function = DistillationLoss(weight=0.3, temperature=2.0, attention_weight=0.5)
    teacher = make_network(5)
    seen = {}

    def keep(engine):
        seen.update(engine.state.output)

    trainer = make_trainer(
        teacher=teacher, loss_function=loss_function, student_layer="0", decollate=False, max_epochs=1, epoch_length=1
    )
    student = deepcopy(trainer.network)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, keep)
    trainer.run()
    image, label = make_batches()[0].values()
    student_logits, teacher_logits = student(image), teacher(image)
    torch.testing.assert_close(seen[DistillationKeys.TEACHER_PRED], teacher_logits)
    torch.testing.assert_close(
        seen[DistillationKeys.TASK_LOSS], functional.cross_entropy(student_logits, label).detach()
    )
    kd = distillation_loss(student_logits, teacher_logits, temperature=2.0).detach()
    at = attention_transfer_loss(student[0](image), teacher[0](image)).detach()
    torch.testing.assert_close(seen[DistillationKeys.DISTILLATION_LOSS], kd)
    torch.testing.assert_close(seen[DistillationKeys.ATTENTION_LOSS], at)
    total = 0.7 * seen[DistillationKeys.TASK_LOSS] + 0.3 * kd + 0.5 * at
    torch.testing.assert_close(seen[CommonKeys.LOSS].detach(), total)


def test_prepare_batch_with_extra_arguments_reaches_the_teacher():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_network()
            self.seen = []

        def forward(self, image, scale, *, shift):
            self.seen.append((scale, shift))
            return self.inner(image * scale + shift)

    teacher, network = Scaled(), Scaled()

    def prepare(batch, device, non_blocking, **kwargs):
        return batch["image"], batch["label"], (2.0,), {"shift": 1.0}

    make_trainer(network=network, teacher=teacher, prepare_batch=prepare, max_epochs=1).run()
    assert teacher.seen == network.seen == [(2.0, 1.0)] * 4


def test_teacher_and_student_see_the_same_view():
    views = {"student": [], "teacher": []}
    network, teacher = make_network(), make_network(5)
    network.register_forward_pre_hook(lambda module, inputs: views["student"].append(inputs[0].clone()))
    teacher.register_forward_pre_hook(lambda module, inputs: views["teacher"].append(inputs[0].clone()))
    make_trainer(network=network, teacher=teacher, max_epochs=1).run()
    assert len(views["student"]) == 4
    assert all(torch.equal(s, t) for s, t in zip(views["student"], views["teacher"], strict=True))


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"student_layer": "layer4"}, "student_layer: expected a module of Sequential, got 'layer4'"),
        ({"student_layer": "0.weight"}, "student_layer: expected a module of Sequential, got '0.weight'"),
        ({"student_layer": "0", "teacher_layer": "conv"}, "teacher_layer: expected a module of Sequential, got 'conv'"),
    ],
)
def test_a_layer_that_is_not_there_is_refused_before_the_run(layers, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make_chain(loss_function=DistillationLoss(attention_weight=1.0), **layers)


@pytest.mark.parametrize("layer", ["4", "6"])
def test_a_layer_without_a_feature_map_is_refused_in_the_first_batch(layer):
    trainer = make_chain(loss_function=DistillationLoss(attention_weight=1.0), student_layer=layer)
    with pytest.raises(ValueError, match=r"^student_layer: expected features \(B, C, spatial dimensions\), got"):
        trainer.run()
    assert trainer.state.iteration == 1
