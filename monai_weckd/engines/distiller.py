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

"""The loss function that queries the teacher and combines its answer with the labels."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events
from monai.utils import CommonKeys

from monai_weckd.engines.alignment import DistributionAlignment
from monai_weckd.engines.events import DistillationEvents
from monai_weckd.engines.feature_check import check_features
from monai_weckd.engines.labeled_output import measure_labeled
from monai_weckd.engines.teacher_cache import TeacherCache
from monai_weckd.networks.features import FeatureHook, find_module, unwrap
from monai_weckd.networks.freezing import fingerprint, freeze, page_out, shares_parameters
from monai_weckd.networks.outputs import take_output
from monai_weckd.networks.stored import StoredLogits
from monai_weckd.utils.enums import INDEX, UNLABELED, VIEW, DistillationKeys

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

    from monai_weckd.losses import DistillationLoss

__all__ = ["Distiller"]

logger = logging.getLogger(__name__)


class Distiller:
    """The loss function of a trainer whose network learns from a teacher as well as from labels.

    It replaces a trainer's loss function. It runs the teacher through the trainer's own inferer, on the same batch that
    the student sees, or on the ``teacher_image`` of the batch if there is one. It stores each part of the loss in
    ``engine.state.output`` under the names of :py:class:`DistillationKeys`. Without a teacher the loss is the task loss
    alone.

    Args:
        engine: the trainer; its ``prepare_batch`` must be wrapped by :py:meth:`remember`.
        loss_function: computes and weights the parts of the loss.
        teacher: the network to learn from, or None for a stage without one.
        student_layer: module path of the student's features for the attention loss.
        teacher_layer: module path of the teacher's features, default ``student_layer``.
        teacher_transform: turns a batch of images, (B, C, spatial dimensions), into what the teacher was trained on,
            such as other intensities; default None: teacher and student see the same.
        teacher_cache: whether to keep the teacher's outputs by item and view; batches must then contain ``index`` and
            ``view``. After an epoch in which the cache answered everything, the weights of the teacher are
            memory-mapped from disk to free RAM. Default False.
        output_index: position of the logits in a tuple that the student returns, or their key in a dictionary; the task
            loss gets all of it. Default None: the student returns logits.
        teacher_output_index: the same for the teacher, default ``output_index``.

    Raises:
        ValueError: When ``loss_function.attention_weight`` is above 0 and there is no ``student_layer``.
        ValueError: When ``teacher`` is the trained network itself.

    """

    def __init__(
        self,
        engine: SupervisedTrainer,
        loss_function: DistillationLoss,
        *,
        teacher: torch.nn.Module | None = None,
        student_layer: str | None = None,
        teacher_layer: str | None = None,
        teacher_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        teacher_cache: bool = False,
        output_index: int | str | None = None,
        teacher_output_index: int | str | None = None,
    ) -> None:
        if loss_function.attention_weight > 0 and student_layer is None:
            raise ValueError(
                f"student_layer: expected a module path for attention_weight={loss_function.attention_weight}, "
                "got None. "
                "Name the layer, for example 'layer4', or pass attention_weight=0."
            )
        self.engine = engine
        self.criterion = loss_function
        self.teacher_layer = teacher_layer or student_layer
        self.teacher_transform = teacher_transform
        self.output_index = output_index
        self.teacher_output_index = output_index if teacher_output_index is None else teacher_output_index
        self.student_hook: FeatureHook | None = None
        if loss_function.attention_weight > 0 and student_layer is not None:
            _check_layer("student_layer", engine.network, student_layer)
            # in a chain the teacher comes later, and is a copy of the student
            _check_layer("teacher_layer", engine.network if teacher is None else teacher, str(self.teacher_layer))
            self.student_hook = FeatureHook(engine.network, student_layer)
        self.teacher_hook: FeatureHook | None = None
        self.teacher_cache = teacher_cache
        self.cache: TeacherCache | None = None
        self._folder: tempfile.TemporaryDirectory | None = None
        self._call: tuple[tuple, dict] = ((), {})
        self._batch: Any = None
        self._answer: tuple[torch.Tensor, torch.Tensor | None] | None = None
        self._asked = 0
        self._zero = torch.zeros((), device=engine.state.device)
        # shifts the teacher's logits by its predictions so far; replaced with each teacher
        self.alignment: DistributionAlignment | None = None
        self._teacher: torch.nn.Module | None = None
        self._dtype: torch.dtype | None = None
        self._given: tuple[list[torch.nn.Module], list[bool]] = [], []
        self._fingerprint: str | None = None
        self.teacher = teacher
        measure_labeled(engine)
        self._handles = [engine.add_event_handler(Events.STARTED, measure_labeled)]
        if teacher_cache:
            self._handles += [
                engine.add_event_handler(Events.EPOCH_STARTED, self._count_questions),
                engine.add_event_handler(Events.EPOCH_COMPLETED, self._page_out),
            ]

    @property
    def teacher(self) -> torch.nn.Module | None:
        """The network to learn from, in eval mode and without gradients."""
        return self._teacher

    @teacher.setter
    def teacher(self, teacher: torch.nn.Module | None) -> None:
        if teacher is not None and unwrap(teacher) is unwrap(self.engine.network):
            raise ValueError(
                "teacher: expected another object than the trained network, got the network itself. "
                "Pass monai_weckd.networks.freeze(network)."
            )
        if self.student_hook is not None and isinstance(teacher, torch.jit.ScriptModule):
            raise ValueError(
                "teacher: expected a network with layers to look into for the attention loss, got TorchScript. "
                "Pass the network itself, or no attention loss."
            )
        if teacher is not None and shares_parameters(teacher, self.engine.network):
            logger.warning("teacher: it shares parameters with the trained network; a frozen copy is used instead")
            teacher = freeze(teacher)
        if self.teacher_hook is not None:
            self.teacher_hook.remove()
        self._release()
        self._teacher = teacher
        self._fingerprint = None
        self.teacher_hook = None
        self.cache = None
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None
        if teacher is not None:
            # frozen TorchScript has no parameters, and no module with a training mode
            training = [module for module in teacher.modules() if getattr(module, "training", False)]
            self._given = training, [parameter.requires_grad for parameter in teacher.parameters()]
            teacher.to(self.engine.state.device).eval()
            for parameter in teacher.parameters():  # TorchScript has no requires_grad_ of its own
                parameter.requires_grad_(False)
            types = [parameter.dtype for parameter in teacher.parameters() if parameter.is_floating_point()]
            self._dtype = types[0] if types else None
            self._fingerprint = fingerprint(teacher)
            if self.teacher_cache:
                self.cache = TeacherCache(self._fingerprint)
            if self.student_hook is not None:
                self.teacher_hook = FeatureHook(teacher, str(self.teacher_layer))

    def _release(self) -> None:
        """Restore the former teacher: requires_grad of its parameters, and the mode of each of its modules."""
        if self._teacher is None:
            return
        training, gradients = self._given
        for module in training:
            module.training = True
        # paging out may have replaced the parameters
        for parameter, requires_grad in zip(self._teacher.parameters(), gradients, strict=True):
            parameter.requires_grad_(requires_grad)

    def check_teacher(self) -> None:
        """Make sure that the teacher has not changed since it was set.

        Raises:
            RuntimeError: When a parameter or a buffer of the teacher has changed.

        """
        if self._teacher is not None and fingerprint(self._teacher) != self._fingerprint:
            raise RuntimeError(
                "teacher: expected unchanged parameters and buffers, got some that changed since the stage's start. "
                "Look for code that trains it or leaves its BatchNorm in train mode."
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the present settings of the loss, the mean of the alignment and the cached teacher outputs."""
        parts = {"alignment": self.alignment, "cache": self.cache}
        return {
            "temperature": self.criterion.temperature,
            "weight": self.criterion.weight,
            **{name: None if part is None else part.state_dict() for name, part in parts.items()},
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state; the teacher of that state must be set already.

        Args:
            state_dict: result of :py:meth:`state_dict`.

        """
        self.criterion.temperature, self.criterion.weight = state_dict["temperature"], state_dict["weight"]
        device = self.engine.state.device
        if self.alignment is not None:
            self.alignment.load_state_dict(state_dict["alignment"], device=device)
        if self.cache is not None:
            self.cache.load_state_dict(state_dict["cache"], device=device)

    def close(self) -> None:
        """Remove all hooks and event handlers."""
        self.teacher = None
        if self.student_hook is not None:
            self.student_hook.remove()
        for handle in self._handles:
            handle.remove()

    def remember(self, prepare_batch: Callable) -> Callable:
        """Wrap ``prepare_batch`` so that the teacher gets the same batch and the same extra arguments.

        The teacher runs before the student's forward pass, so that the student's activations need not wait in memory.
        Under automatic mixed precision, which begins later, it runs after that pass.
        """

        def prepare(batchdata: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                batch = prepare_batch(batchdata, *args, **kwargs)
            except (AttributeError, TypeError, AssertionError):
                _check_batch(batchdata)
                raise
            self._call = ((), {}) if len(batch) == 2 else (batch[2], batch[3])
            self._batch, self._answer = batchdata, None
            if not self.engine.amp:
                self.ask(batch[0])
            return batch

        return prepare

    def __call__(self, pred: Any, target: torch.Tensor) -> torch.Tensor:
        """Compute the loss of the current iteration.

        Args:
            pred: the student's logits, (B, C), or a tuple or dictionary that contains them.
            target: the labels, (B,), or class probabilities, (B, C); ``UNLABELED`` for items without a label.

        Raises:
            ValueError: When the student or the teacher returns several outputs, and none is chosen.

        """
        student = take_output(pred, self.output_index, of="network")
        logits, *features = self._teach()
        if self.alignment is not None and logits is not None:
            logits = self.alignment(
                logits, target.as_subclass(torch.Tensor).reshape(len(target), -1)[:, 0].eq(UNLABELED)
            )
        more = {} if pred is student else {"output": pred}
        parts = self.criterion.components(student, target, logits, *features, **more)
        self._clear()
        output = self.engine.state.output
        for key in (DistillationKeys.TASK_LOSS, DistillationKeys.DISTILLATION_LOSS, DistillationKeys.ATTENTION_LOSS):
            output[key] = parts[key].detach() if key in parts else self._zero
        return self.criterion.total(parts)

    def ask(self, images: torch.Tensor) -> None:
        """Run the teacher on the current batch, and keep its answer for the loss.

        Args:
            images: the images that the student sees, from ``prepare_batch``.

        """
        teacher = self._teacher
        if teacher is None:
            return
        if isinstance(teacher, StoredLogits):
            self._answer = teacher(self._places()), None
            return
        if teacher.training:
            teacher.eval()
        if isinstance(self._batch, Mapping) and DistillationKeys.TEACHER_IMAGE in self._batch:
            images = self._batch[DistillationKeys.TEACHER_IMAGE].to(images.device)
        if self.cache is None:
            self._answer = self._ask(teacher, images)
        else:
            self._answer = self._look_up(teacher, images, self.cache)

    def _teach(self) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Return the teacher's logits, the student's features and the teacher's features; None for unused ones."""
        output = self.engine.state.output
        if self._answer is None:
            self.ask(output[CommonKeys.IMAGE])
        if self.student_hook is not None:
            # checked even in a first stage, which has no teacher, so that a wrong layer fails early
            check_features(self.student_hook.features, output[CommonKeys.IMAGE], self.student_hook.path)
        if self._answer is None:
            return None, None, None
        logits, features = self._answer
        output[DistillationKeys.TEACHER_PRED] = logits
        self.engine.fire_event(DistillationEvents.TEACHER_COMPLETED)
        if self.student_hook is None:
            return logits, None, None
        return logits, self.student_hook.features, features

    def _places(self) -> torch.Tensor:
        """Return the place of each item of the batch in the dataset, (B,)."""
        if not (isinstance(self._batch, Mapping) and INDEX in self._batch):
            raise ValueError(
                f"{INDEX}: expected the place of each item in the batch for a teacher of stored logits, got none. "
                "Train by ChainDistillationTrainer or ChainHandler, or pass the network itself as the teacher."
            )
        return torch.as_tensor(self._batch[INDEX])

    def _ask(self, teacher: torch.nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run the teacher on images, and return its logits and features."""
        args, kwargs = self._call
        with torch.inference_mode():
            if self.teacher_transform is not None:
                images = self.teacher_transform(images)
            if (
                self._dtype is not None
                and images.is_floating_point()
                and not torch.is_autocast_enabled(images.device.type)
            ):
                images = images.to(self._dtype)
            output = self.engine.inferer(images, teacher, *args, **kwargs)
            logits = take_output(output, self.teacher_output_index, of="teacher")
        # autograd cannot save tensors of inference mode for a backward pass: return a copy made outside of it
        return logits.clone(), None if self.teacher_hook is None else self.teacher_hook.features

    def _look_up(
        self, teacher: torch.nn.Module, images: torch.Tensor, cache: TeacherCache
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the teacher's logits and features from the cache; run the teacher on items that are not in it."""
        if any(self._call) or not (isinstance(self._batch, Mapping) and {INDEX, VIEW} <= self._batch.keys()):
            raise ValueError(
                "teacher_cache: expected batches of images and labels alone, with the index and the view of each item, "
                "got others. Pass teacher_cache=False."
            )

        def ask(places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
            # a teacher that was paged out is on the CPU
            teacher.to(images.device)
            return self._ask(teacher, images if len(places) == len(images) else images[places.to(images.device)])

        return cache(self._batch[INDEX], self._batch[VIEW], ask)

    def _count_questions(self) -> None:
        self._asked = 0 if self.cache is None else self.cache.asked

    def _page_out(self) -> None:
        """Page the teacher out of memory after an epoch in which it did not run."""
        if self._teacher is None or self.cache is None or self._folder is not None or self.cache.asked > self._asked:
            return
        self._folder = tempfile.TemporaryDirectory(prefix="monai_weckd_")
        page_out(self._teacher, Path(self._folder.name) / "teacher.pt")

    def _clear(self) -> None:
        self._batch = self._answer = None
        for hook in (self.student_hook, self.teacher_hook):
            if hook is not None:
                hook.clear()


def _check_batch(batch: Any) -> None:
    """Say what to do about a batch that could not be prepared, because its items are lists."""
    if isinstance(batch, list) and batch and isinstance(batch[0], Mapping):
        raise ValueError(
            "train_data_loader: expected a batch, got a list of dictionaries, which PyTorch makes of items that are "
            "lists, such as crops. Use monai.data.DataLoader, or collate_fn=monai.data.list_data_collate."
        ) from None


def _check_layer(name: str, network: torch.nn.Module, path: str) -> None:
    """Refuse the path of a layer that a network does not have; a program without modules is refused elsewhere."""
    if isinstance(network, torch.jit.ScriptModule):
        return
    try:
        find_module(unwrap(network), path)
    except ValueError as error:
        raise ValueError(str(error).replace("path:", f"{name}:", 1)) from None
