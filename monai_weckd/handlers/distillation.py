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

"""A handler that gives a teacher to a MONAI trainer."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer

from monai_weckd.engines.distiller import Distiller
from monai_weckd.engines.events import DistillationEvents
from monai_weckd.engines.utils import attach_first
from monai_weckd.handlers.schedules import TeacherWeightHandler, TemperatureHandler
from monai_weckd.losses import DistillationLoss, TemperatureSchedule
from monai_weckd.networks import load_teacher
from monai_weckd.networks.teacher import check_source

if TYPE_CHECKING:
    from ignite.engine import RemovableEventHandle

__all__ = ["DistillationHandler"]


class DistillationHandler:
    """Give a teacher to an ordinary :py:class:`monai.engines.SupervisedTrainer`.

    The trainer's own loss function becomes the task loss of a :py:class:`~monai_weckd.losses.DistillationLoss`. Losses,
    events and the keys in ``engine.state.output`` are those of
    :py:class:`~monai_weckd.engines.DistillationTrainer`, and the student ends with the same weights. The handler
    patches nothing: when the run starts, it wraps the trainer's ``loss_function`` and ``prepare_batch``, and
    :py:meth:`detach` restores both. List it before handlers that listen to
    ``DistillationEvents.TEACHER_COMPLETED``. Knowledge distillation after Hinton et al., arXiv 1503.02531.

    Args:
        teacher: a network, the folder of a bundle, or a file with weights, TorchScript, ``torch.export`` or ONNX, see
            :py:func:`~monai_weckd.networks.load_teacher`.
        network: the network whose copy gets the weights of a ``state_dict`` file, default None: the trained network.
        classes: the student's class names in the order of their indices; the teacher's must be equal, if they are
            known. Default None: not compared.
        weight: share of the distillation loss, 0.0 to 1.0.
        weight_end: share in the last epoch; the share changes linearly over the epochs. Default None: ``weight``.
        temperature: temperature of the distillation loss, above 0, or its schedule over the epochs.
        attention_weight: weight of the attention loss, default 0.0: none.
        student_layer: module path of the student's features for the attention loss.
        teacher_layer: module path of the teacher's features, default ``student_layer``.
        teacher_transform: turns a batch of images, (B, C, spatial dimensions), into what the teacher was trained on,
            such as other intensities; default None: teacher and student see the same.
        output_index: position of the logits in the tuple, or their key in the dictionary, that the student returns. The
            trainer's loss function still gets the whole output. Default None: the student returns logits. Instead, a
            network can be wrapped in :py:class:`~monai_weckd.networks.TakeOutput`.
        teacher_output_index: the same for the teacher, default ``output_index``.
        multilabel: whether each class has a sigmoid of its own, default False. Without, labels are class numbers, (B,),
            or class probabilities, (B, C), as of mixup or smoothed labels.
        threshold: smallest top probability at which the teacher's prediction counts, default 0.0: it always counts.
        hard_labels: whether the teacher gives its top class instead of probabilities, default False.

    Raises:
        TypeError: When ``teacher`` is neither a network nor a path.
        FileNotFoundError: When ``teacher`` is a path and nothing exists there.
        ValueError: When a number is out of its range, or an attention loss has no layer.

    Example::

        >>> from monai.engines import SupervisedTrainer
        >>> from monai_weckd.handlers import DistillationHandler
        >>> network, teacher = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        >>> trainer = SupervisedTrainer(
        ...     "cpu",
        ...     max_epochs=1,
        ...     train_data_loader=[{"image": torch.zeros(4, 2), "label": torch.tensor([0, 1, 2, 1])}],
        ...     network=network,
        ...     optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        ...     loss_function=torch.nn.CrossEntropyLoss(),
        ...     train_handlers=[DistillationHandler(teacher, temperature=2.0)],
        ... )
        >>> trainer.run()

    """

    # whether teachers come on the way
    _finds_teachers = False

    def __init__(
        self,
        teacher: torch.nn.Module | str | os.PathLike[str] | None,
        *,
        network: torch.nn.Module | None = None,
        classes: Sequence[str] | None = None,
        weight: float = 0.5,
        weight_end: float | None = None,
        temperature: float | TemperatureSchedule = 4.0,
        attention_weight: float = 0.0,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        teacher_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        output_index: int | str | None = None,
        teacher_output_index: int | str | None = None,
        multilabel: bool = False,
        threshold: float = 0.0,
        hard_labels: bool = False,
    ) -> None:
        if teacher is not None or not self._finds_teachers:
            check_source(teacher)
        if isinstance(teacher, (str, os.PathLike)) and not Path(teacher).exists():
            raise FileNotFoundError(
                f"teacher: expected a network, a bundle's folder or a file, got {teacher}, which is not there. "
                "Check the path."
            )
        if attention_weight > 0 and student_layer is None:
            raise ValueError(
                f"student_layer: expected a module path for attention_weight={attention_weight}, got None. "
                "Name the layer, for example 'layer4', or pass attention_weight=0."
            )
        self.teacher = teacher
        self.network = network
        self.classes = classes
        self.loss_function = DistillationLoss(
            weight=weight,
            temperature=temperature(0.0) if isinstance(temperature, TemperatureSchedule) else temperature,
            attention_weight=attention_weight,
            multilabel=multilabel,
            threshold=threshold,
            hard_labels=hard_labels,
        )
        self.options: dict[str, Any] = {
            "student_layer": student_layer,
            "teacher_layer": teacher_layer,
            "teacher_transform": teacher_transform,
            "output_index": output_index,
            "teacher_output_index": teacher_output_index,
        }
        self.schedules: list[Any] = []
        if isinstance(temperature, TemperatureSchedule):
            self.schedules.append(TemperatureHandler(self.loss_function, temperature))
        if weight_end is not None:
            self.schedules.append(TeacherWeightHandler(self.loss_function, weight, weight_end))
        self.distiller: Distiller | None = None
        self._handles: list[RemovableEventHandle] = []

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the handler.

        Args:
            engine: a ``SupervisedTrainer`` with its own iteration.

        Raises:
            TypeError: When it is another engine, or one that may not call its loss function.
            ValueError: When it has a teacher already.

        """
        _check_engine(engine)
        engine.register_events(*DistillationEvents)
        engine.state.distiller = None
        self._handles = [attach_first(engine, Events.STARTED, self._begin)]
        self._handles += [engine.add_event_handler(Events.EPOCH_STARTED, schedule) for schedule in self.schedules]
        if self.teacher is not None:
            self._handles.append(engine.add_event_handler(Events.COMPLETED, self._end))

    def detach(self, engine: SupervisedTrainer) -> None:
        """Remove the teacher; the trainer is then as it was before :py:meth:`attach`, and so is the teacher.

        Args:
            engine: the trainer that it was attached to.

        """
        for handle in self._handles:
            handle.remove()
        if self.distiller is not None:
            self.distiller.close()
            engine.loss_function, engine.prepare_batch = self._replaced
            self.distiller = None
        del engine.state.distiller

    def _begin(self, engine: SupervisedTrainer) -> None:
        """Install the teacher, unless the trainer continues and has it already."""
        if self.distiller is not None:
            return
        if not any(parameter.requires_grad for parameter in engine.network.parameters()):
            raise ValueError(
                "network: expected parameters to train, got none that needs a gradient. If it is another trainer's "
                "teacher, detach that handler first."
            )
        teacher = None
        if self.teacher is not None:
            teacher = load_teacher(self.teacher, network=self._definition(engine), classes=self.classes)
        self._replaced = engine.loss_function, engine.prepare_batch
        self.loss_function.task_loss = engine.loss_function
        self.distiller = Distiller(engine, self.loss_function, teacher=teacher, **self.options)
        engine.loss_function = engine.state.distiller = self.distiller
        engine.prepare_batch = self.distiller.remember(engine.prepare_batch)

    def _definition(self, engine: SupervisedTrainer) -> torch.nn.Module:
        return engine.network if self.network is None else self.network

    def _end(self, engine: SupervisedTrainer) -> None:
        engine.state.distiller.check_teacher()


def _check_engine(engine: Any) -> None:
    """Refuse an engine that could ignore a teacher, or that already has one."""
    if not isinstance(engine, SupervisedTrainer):
        raise TypeError(f"engine: expected a SupervisedTrainer, got {type(engine).__name__}. Attach it to the trainer.")
    if hasattr(engine.state, "distiller"):
        raise ValueError(
            "engine: expected a trainer without a teacher, got one with a teacher. Detach the other handler."
        )
    # Ignite's name for the function that processes a batch; a replacement may not call the loss function
    if getattr(engine._process_function, "__func__", None) is not SupervisedTrainer._iteration:
        raise TypeError(
            "engine: expected SupervisedTrainer's own iteration, got another, which need not call the loss function. "
            "Leave iteration_update out, or pass DistillationTrainer its teacher."
        )
