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

"""The trainer that distills one frozen teacher into one student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from ignite.engine import EventEnum, Events
from ignite.metrics import Metric
from monai.data import MetaTensor
from monai.engines import IterationEvents, SupervisedTrainer, default_prepare_batch
from monai.inferers import Inferer
from monai.transforms import Transform
from monai.utils import CommonKeys
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from monai_weckd.engines.distiller import Distiller
from monai_weckd.engines.events import DistillationEvents
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks.features import unwrap

if TYPE_CHECKING:
    from typing_extensions import Unpack

__all__ = ["DistillationTrainer", "SupervisedOptions"]


class SupervisedOptions(TypedDict, total=False):
    """Options that the trainers pass unchanged to :py:class:`monai.engines.SupervisedTrainer`; see there."""

    epoch_length: int | None
    non_blocking: bool
    prepare_batch: Callable
    iteration_update: Callable | None
    inferer: Inferer | None
    postprocessing: Transform | None
    key_train_metric: dict[str, Metric] | None
    additional_metrics: dict[str, Metric] | None
    metric_cmp_fn: Callable
    amp: bool
    event_to_attr: dict | None
    decollate: bool
    optim_set_to_none: bool
    to_kwargs: dict | None
    amp_kwargs: dict | None
    compile: bool
    compile_kwargs: dict | None
    accumulation_steps: int


def prepare_plain_batch(batchdata: Any, *args: Any, **kwargs: Any) -> Any:
    """Prepare a batch as MONAI does, but with plain tensors: operations on a MetaTensor also process its metadata.

    Args:
        batchdata: a batch whose tensors may be MetaTensors; it is not modified.
        args: further arguments of :py:func:`monai.engines.default_prepare_batch`.
        kwargs: further named arguments of it.

    """
    if isinstance(batchdata, dict):
        batchdata = {key: as_plain(value) for key, value in batchdata.items()}
    return default_prepare_batch(batchdata, *args, **kwargs)


def as_plain(value: Any) -> Any:
    """Return a MetaTensor as a plain tensor, and anything else unchanged."""
    return value.as_tensor() if isinstance(value, MetaTensor) else value


class DistillationTrainer(SupervisedTrainer):
    """Train one student under one frozen teacher.

    This is a :py:class:`monai.engines.SupervisedTrainer` with another loss: the teacher sees the same view of the same
    batch, ``DistillationEvents.TEACHER_COMPLETED`` fires after MONAI's ``FORWARD_COMPLETED``, and the loss is a
    :py:class:`monai_weckd.losses.DistillationLoss`. ``engine.state.output`` holds MONAI's keys and those of
    :py:class:`monai_weckd.engines.DistillationKeys`. The losses among them are zero without a teacher, so a handler can
    always log them. Knowledge distillation after Hinton et al., arXiv 1503.02531.

    Args:
        device: device of the training.
        max_epochs: number of epochs.
        train_data_loader: batches with ``image`` and ``label``; the label ``-1`` means unlabeled.
        network: the student.
        optimizer: the student's optimizer.
        loss_function: task, distillation and attention loss and their weights.
        teacher: the frozen network to learn from, default None: supervised training. The trainer puts it in eval mode
            on ``device``, computes no gradient for it, and never wraps or saves it.
        student_layer: module path of the student's features where ``loss_function.attention_weight`` is above 0.
        teacher_layer: module path of the teacher's features, default ``student_layer``.
        teacher_transform: turns a batch of images into what the teacher was trained on, default None: teacher and
            student see the same.
        teacher_cache: whether to keep the teacher's outputs for each item's ``index`` and ``view``, so that it runs
            once for each pair; batches must contain both. Default False.
        train_handlers: handlers of the training.
        event_names: further events for the engine to know.
        options: further arguments of :py:class:`monai.engines.SupervisedTrainer`. Two have other defaults:
            ``optim_set_to_none`` is True, as in PyTorch, which saves a pass over all gradients; ``decollate`` is False
            unless there is a ``postprocessing``, since decollating every batch costs more than a small step.
            If the network is in train mode, a layer in eval mode stays in eval mode until the next validation; MONAI
            would reset it in each step.
            Images from the default ``prepare_batch`` have no metadata. Handlers that read
            ``from_engine("loss", first=True)`` need ``decollate=True``, or
            :py:func:`monai_weckd.handlers.losses_from_output` instead.

    Raises:
        TypeError: When ``loss_function`` is not a ``DistillationLoss``.

    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        *,
        train_data_loader: Iterable | DataLoader,
        network: torch.nn.Module,
        optimizer: Optimizer,
        loss_function: DistillationLoss,
        teacher: torch.nn.Module | None = None,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        teacher_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        teacher_cache: bool = False,
        train_handlers: Sequence | None = None,
        event_names: Sequence[str | EventEnum | type[EventEnum]] | None = None,
        **options: Unpack[SupervisedOptions],
    ) -> None:
        if not isinstance(loss_function, DistillationLoss):
            raise TypeError(
                f"loss_function: expected a DistillationLoss, got {type(loss_function).__name__}. "
                "Pass DistillationLoss(task_loss=...)."
            )
        self._fired: set[Any] = set()
        options.setdefault("prepare_batch", prepare_plain_batch)
        options.setdefault("optim_set_to_none", True)
        options.setdefault("decollate", options.get("postprocessing") is not None)
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            train_data_loader=train_data_loader,
            network=network,
            optimizer=optimizer,
            loss_function=loss_function,
            # MONAI passes None for a disabled component
            train_handlers=[handler for handler in train_handlers or [] if handler is not None],
            event_names=[DistillationEvents, *(event_names or [])],
            **options,
        )
        self.state.distiller = Distiller(
            self,
            loss_function,
            teacher=teacher,
            student_layer=student_layer,
            teacher_layer=teacher_layer,
            teacher_transform=teacher_transform,
            teacher_cache=teacher_cache,
        )
        self.loss_function = self.distiller
        self.prepare_batch = self.distiller.remember(self.prepare_batch)
        if teacher is not None:
            self.add_event_handler(Events.COMPLETED, self.distiller.check_teacher)

    def _iteration(self, engine: SupervisedTrainer, batchdata: Any) -> dict[str, Any]:
        """Train on one batch with the events and output of the base class, which still handles its special cases."""
        if self.compile or self.amp or self.accumulation_steps > 1 or batchdata is None:
            return super()._iteration(engine, batchdata)
        state = self.state
        images, labels, *rest = self.prepare_batch(batchdata, state.device, self.non_blocking, **self.to_kwargs)
        args, kwargs = rest or ((), {})
        state.output = {CommonKeys.IMAGE: images, CommonKeys.LABEL: labels}
        if not unwrap(self.network).training:  # visiting hundreds of modules takes as long as a small step
            self.network.train()
        self.optimizer.zero_grad(set_to_none=self.optim_set_to_none)
        state.output[CommonKeys.PRED] = self.inferer(images, self.network, *args, **kwargs)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        state.output[CommonKeys.LOSS] = self.loss_function(state.output[CommonKeys.PRED], labels)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        state.output[CommonKeys.LOSS].backward()
        self.fire_event(IterationEvents.BACKWARD_COMPLETED)
        self.optimizer.step()
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        return state.output

    @property
    def distiller(self) -> Distiller:
        """The loss function of the trainer; handlers of any trainer with a teacher find it in ``engine.state``."""
        distiller: Distiller = self.state.distiller
        return distiller

    @property
    def teacher(self) -> torch.nn.Module | None:
        """The frozen network to learn from, or None."""
        return self.distiller.teacher

    @teacher.setter
    def teacher(self, teacher: torch.nn.Module | None) -> None:
        self.distiller.teacher = teacher

    def fire_event(self, event_name: Any) -> None:
        """Fire an event; the base class would search the list of all events each time, this searches it once."""
        if event_name in self._fired:
            self._fire_event(event_name)
        else:
            super().fire_event(event_name)
            self._fired.add(event_name)

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        """Fire an event; skip the base class, which formats a log line, for events without handlers (nine a step)."""
        if self._event_handlers.get(event_name):
            super()._fire_event(event_name, *event_args, **event_kwargs)
        else:
            self.last_event_name = event_name
