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

"""The distillation loss, and its combination with the task and attention losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.utils import LossReduction
from torch.nn.modules.loss import _Loss

from monai_weckd.losses.attention import as_float, attention_transfer_loss, check_reduction
from monai_weckd.losses.checks import check_confidence, check_logits, check_target
from monai_weckd.losses.temperature import check_temperature
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.tensors import map_tensors

__all__ = ["DistillationLoss", "distillation_loss"]

# half precision rounds each of many probabilities
_PROBABILITY_TOLERANCE = 0.01


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    *,
    temperature: float = 1.0,
    multilabel: bool = False,
    threshold: float = 0.0,
    hard_labels: bool = False,
    reduction: LossReduction | str = "mean",
) -> torch.Tensor:
    """Return the divergence of the student's predictions from the teacher's, both softened by a temperature.

    The loss is ``T^2 * KL(softmax(teacher / T) || softmax(student / T))``, summed over the classes, after Hinton et
    al., "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531. The factor ``T^2`` keeps the
    gradients comparable when the temperature changes. For ``multilabel`` every class is a separate Bernoulli variable,
    ``sigmoid(logit / T)``, and the loss is the mean of their divergences, as binary cross entropy is a mean over the
    classes. If the logits have spatial dimensions, an item's loss is the mean over its positions. The teacher is a
    constant: no gradient flows into it.

    With ``hard_labels`` the loss is the cross entropy of the student, at temperature 1, with the teacher's most
    probable class. With a ``threshold`` as well, it is the loss on unlabeled images of Sohn et al., "FixMatch",
    https://arxiv.org/abs/2001.07685.

    Args:
        student_logits: logits of the student, (B, C[, spatial dimensions]), of any floating point type.
        teacher_logits: logits of the teacher, of the same shape.
        temperature: positive number T that divides both logits. Defaults to 1.0.
        multilabel: whether an item may be of several classes at once (sigmoid), or is of exactly one (softmax).
            Defaults to False.
        threshold: smallest probability, from 0.0 to below 1.0, of the teacher's most probable class at temperature 1.
            Below it an item's loss is 0, but the item still counts in the mean. Defaults to 0.0.
        hard_labels: whether the teacher gives its top class instead of probabilities. Defaults to False.
        reduction: ``"mean"`` or ``"sum"`` over the items, or ``"none"`` for one loss per item. Defaults to ``"mean"``.

    Returns:
        The loss in single precision or better, also under autocast; (B,) for ``"none"``, else a scalar.

    Raises:
        ValueError: When the shapes differ, or are not (B, C[, spatial dimensions]).
        ValueError: When there is a single class and ``multilabel`` is False: its softmax is 1 whatever the logit.
        ValueError: When ``temperature`` is not a positive finite number, or ``threshold`` is out of its range.
        ValueError: When ``threshold`` or ``hard_labels`` is given for ``multilabel`` or for spatial dimensions.
        ValueError: When ``reduction`` is unknown.

    Example::

        >>> student, teacher = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 4.0]])
        >>> distillation_loss(student, teacher, temperature=4.0)
        tensor(1.7751)
        >>> distillation_loss(teacher, teacher, temperature=4.0)
        tensor(0.)

    """
    check_temperature(temperature)
    check_logits(student_logits, teacher_logits, multilabel=multilabel)
    check_reduction(reduction)
    if threshold or hard_labels:
        check_confidence(threshold, multilabel=multilabel or student_logits.ndim > 2)
        return _confident_loss(
            as_float(student_logits),
            as_float(teacher_logits).detach(),
            temperature=temperature,
            threshold=threshold,
            hard_labels=hard_labels,
            reduction=reduction,
        )
    student = as_float(student_logits) / temperature
    teacher = as_float(teacher_logits).detach() / temperature
    # unless single items are requested, one sum over everything saves half of the operations
    how = "none" if reduction == LossReduction.NONE else "sum"
    if multilabel:
        # log(1 - sigmoid(x)) = logsigmoid(-x): both tails stay finite for logits of any size
        divergence = _divergence(F.logsigmoid(student), F.logsigmoid(teacher), how)
        divergence = divergence + _divergence(F.logsigmoid(-student), F.logsigmoid(-teacher), how)
    else:
        divergence = _divergence(F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1), how)
    # a mean over the classes, as in binary cross entropy, where each is a question of its own
    positions = math.prod(student.shape[1 if multilabel else 2 :])
    if how == "none":
        divergence = divergence.flatten(1).sum(dim=1)
    elif reduction == LossReduction.MEAN:
        positions *= max(1, len(student))
    return divergence * (temperature**2 / positions)


class DistillationLoss(_Loss):
    """Combine the task loss on the labels with distillation from the teacher.

    The loss is ``(1 - weight) * task + weight * distillation + attention_weight * attention``. Without a teacher it is
    the task loss alone, without the factor. The task loss covers the labeled items only, and the other two cover all
    items. An item is unlabeled if its target, or for ``multilabel`` its whole row of targets, is -1. A single class
    of a row may be unknown, too, as -1 or NaN: the task loss of ``multilabel`` is a mean over all known classes of
    all items, and the distillation loss a mean over the classes, so ``weight`` means the same for any number of them.

    ``weight``, ``attention_weight`` and ``temperature`` are plain attributes, which a handler may set between epochs.

    Args:
        task_loss: callable ``(logits, target) -> loss`` for the labeled items; it gets their targets as the data loader
            gives them. Defaults to cross entropy, or for ``multilabel`` to binary cross entropy with logits. Where
            some classes of an item are unknown, it must return a loss for each class, (B, C); it gets 0 for them.
        weight: share of the distillation loss, 0.0 to 1.0. Defaults to 0.5.
        temperature: positive number that divides the logits, see :py:func:`distillation_loss`. Defaults to 4.0.
        attention_weight: factor of the attention loss, 0.0 or more, see :py:func:`attention_transfer_loss`.
            Defaults to 0.0.
        class_weights: C positive factors for the default task loss: with cross entropy PyTorch's weighted mean over
            the items, for ``multilabel`` the factor of the term of items that are of the class (PyTorch's
            ``pos_weight``), such as items without it divided by items with it. Defaults to None, all classes alike.
        multilabel: whether an item may be of several classes at once. Defaults to False.
        threshold: see :py:func:`distillation_loss`. Defaults to 0.0.
        hard_labels: see :py:func:`distillation_loss`. Defaults to False.

    Raises:
        ValueError: When a number is out of its range.
        ValueError: When both ``task_loss`` and ``class_weights`` are given.

    Example::

        >>> loss_function = DistillationLoss(weight=0.5, temperature=1.0)
        >>> student, teacher = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 4.0], [4.0, 0.0]])
        >>> target = torch.tensor([1, -1])  # the second item has no label
        >>> loss_function.components(student, target, teacher)
        {'task_loss': tensor(0.6931), 'distillation_loss': tensor(0.6031)}
        >>> loss_function(student, target, teacher)
        tensor(0.6481)
        >>> loss_function(student, target)
        tensor(0.6931)

    """

    class_weights: torch.Tensor | None

    def __init__(
        self,
        *,
        task_loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        weight: float = 0.5,
        temperature: float = 4.0,
        attention_weight: float = 0.0,
        class_weights: Sequence[float] | None = None,
        multilabel: bool = False,
        threshold: float = 0.0,
        hard_labels: bool = False,
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"weight: expected a number from 0 to 1, got {weight}. 1 ignores the labels.")
        check_temperature(temperature)
        if not 0 <= attention_weight < math.inf:
            raise ValueError(
                f"attention_weight: expected a finite number from 0 up, got {attention_weight}. 0 switches it off."
            )
        check_confidence(threshold, multilabel=multilabel and (threshold > 0 or hard_labels))
        if task_loss is not None and class_weights is not None:
            raise ValueError(
                "class_weights: expected None beside a task_loss, got both. Give the weights to the task_loss itself."
            )
        if class_weights is not None and not all(0 < value < math.inf for value in class_weights):
            raise ValueError(
                f"class_weights: expected a positive finite number per class, got {list(class_weights)}. "
                "A class of weight 0 could not be learned."
            )
        self.task_loss = task_loss
        self.weight = weight
        self.temperature = temperature
        self.attention_weight = attention_weight
        self.multilabel = multilabel
        self.threshold = threshold
        self.hard_labels = hard_labels
        # configuration, not state, so checkpoints do not contain it
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(
        self,
        student_logits: torch.Tensor,
        target: torch.Tensor,
        teacher_logits: torch.Tensor | None = None,
        student_features: torch.Tensor | None = None,
        teacher_features: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the total of :py:meth:`components`, with the same arguments.

        Args:
            student_logits: logits of the student, (B, C).
            target: labels, -1 for items without a label.
            teacher_logits: logits of the teacher, (B, C).
            student_features: features of the student for the attention loss.
            teacher_features: features of the teacher for the attention loss.

        """
        return self.total(self.components(student_logits, target, teacher_logits, student_features, teacher_features))

    def components(
        self,
        student_logits: torch.Tensor,
        target: torch.Tensor,
        teacher_logits: torch.Tensor | None = None,
        student_features: torch.Tensor | None = None,
        teacher_features: torch.Tensor | None = None,
        *,
        output: Any = None,
    ) -> dict[str, torch.Tensor]:
        """Return the losses by name, each as an unweighted scalar.

        Args:
            student_logits: logits of the student, (B, C).
            target: class numbers, (B,) or (B, 1), of any type, or class probabilities, (B, C); for ``multilabel`` 0 or
                1 per class, (B, C), and -1 or NaN where it is unknown. -1 marks items without a label.
            teacher_logits: logits of the teacher, (B, C). Defaults to None, no teacher.
            student_features: features of the student, (B, C, spatial dimensions). Defaults to None, no attention loss.
            teacher_features: features of the teacher, given when ``student_features`` are.
            output: what the student returned, for a ``task_loss`` that needs more than its logits. Defaults to None,
                the logits.

        Returns:
            ``"task_loss"``, ``"distillation_loss"`` if there are teacher logits, and ``"attention_loss"`` if there are
            features.

        Raises:
            ValueError: When a shape is not as above, or only one of the two features is given.
            ValueError: When a row of class probabilities does not sum to 1, or a task loss for ``multilabel`` gives no
                loss for each class where some are unknown.

        """
        if (student_features is None) != (teacher_features is None):
            missing = "student_features" if student_features is None else "teacher_features"
            raise ValueError(f"{missing}: expected the features of both networks or of none, got None. Pass both.")
        losses = {"task_loss": self._task(as_float(student_logits), target, output)}
        if teacher_logits is not None:
            losses["distillation_loss"] = distillation_loss(
                student_logits,
                teacher_logits,
                temperature=self.temperature,
                multilabel=self.multilabel,
                threshold=self.threshold,
                hard_labels=self.hard_labels,
            )
        if student_features is not None and teacher_features is not None:
            losses["attention_loss"] = attention_transfer_loss(student_features, teacher_features)
        return losses

    def total(self, components: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the weighted sum of the losses.

        Args:
            components: result of :py:meth:`components`.

        """
        total = components["task_loss"]
        if "distillation_loss" in components:
            # (1 - weight) * task + weight * distillation, in one operation
            total = torch.lerp(total, components["distillation_loss"].to(total), self.weight)
        if "attention_loss" in components:
            total = total + self.attention_weight * components["attention_loss"]
        return total

    def _task(self, logits: torch.Tensor, target: torch.Tensor, output: Any) -> torch.Tensor:
        """Return the task loss over the labeled items, or 0 if there are none."""
        if type(target) is not torch.Tensor:
            target = target.as_subclass(torch.Tensor)
        check_target(logits, target, multilabel=self.multilabel)
        if self.multilabel:
            return self._task_of_classes(logits, target, output)
        if not len(target) or target.max().item() == UNLABELED:
            # the mean of nothing would be NaN; the sum of nothing is 0 and still has a (zero) gradient
            return logits[:0].sum()
        soft = tuple(target.shape) == tuple(logits.shape)
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        if self.task_loss is None and not soft:
            return F.cross_entropy(logits, target.flatten().long(), weight=weights, ignore_index=UNLABELED)
        labeled = target.ne(UNLABELED).flatten(1).any(dim=1) if target.ndim > 1 else target.ne(UNLABELED)
        logits, target, output = _rows(labeled, logits, target, output)
        if soft:
            self._check_probabilities(target)
        if self.task_loss is not None:
            return self.task_loss(output, target).mean()
        return F.cross_entropy(logits, target.to(logits.dtype), weight=weights)

    def _task_of_classes(self, logits: torch.Tensor, target: torch.Tensor, output: Any) -> torch.Tensor:
        """Return the task loss over the known classes of all items, or 0 if there are none."""
        known = target.ge(0)  # neither -1 nor NaN
        if not known.any():
            return logits[:0].sum()
        labeled = known.any(dim=1)
        logits, target, output = _rows(labeled, logits, target, output)
        known = known[labeled]
        # a NaN would stay in the gradient even with a factor of 0
        target = target if known.all() else target.where(known, torch.zeros_like(target))
        if self.task_loss is None:
            weights = None if self.class_weights is None else self.class_weights.to(logits)
            values = target.to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, values, pos_weight=weights, reduction="none")
        else:
            losses = self.task_loss(output, target)
        if known.all():
            return losses.mean()
        if losses.shape != known.shape:
            raise ValueError(
                f"task_loss: expected a loss for each class, {tuple(known.shape)}, where some are unknown, got the "
                f"shape {tuple(losses.shape)}. Pass reduction='none' to it."
            )
        return losses[known].mean()

    def _check_probabilities(self, target: torch.Tensor) -> None:
        """Raise a ValueError when labeled rows are not probability distributions over exclusive classes."""
        if isinstance(self.task_loss, torch.nn.BCEWithLogitsLoss):
            raise ValueError(
                "multilabel: expected True for BCEWithLogitsLoss and a column per class, got False. Pass "
                "multilabel=True, or CrossEntropyLoss if an image has exactly one class."
            )
        sums = target.float().sum(dim=1)
        off = (sums - 1).abs()
        if target.lt(0).any() or off.max() > _PROBABILITY_TOLERANCE:
            raise ValueError(
                f"target: expected class probabilities that sum to 1 in each row, got a row that sums to "
                f"{sums[off.argmax()].item():.3g} or has a negative value. Normalize them; if an image may be of "
                "several classes at once, see the multilabel option."
            )


def _rows(
    labeled: torch.Tensor, logits: torch.Tensor, target: torch.Tensor, output: Any
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Return the labeled rows of logits, target and output; where the output is a tensor, the logits stand for it."""
    if output is None or isinstance(output, torch.Tensor):
        output = logits
    if labeled.all():
        return logits, target, output
    items = len(target)
    output = map_tensors(lambda part: part[labeled] if part.shape[:1] == (items,) else part, output)
    return logits[labeled], target[labeled], output


def _divergence(log_student: torch.Tensor, log_teacher: torch.Tensor, how: str) -> torch.Tensor:
    """Return the terms of KL(teacher || student) from log-probabilities, or their sum."""
    return F.kl_div(log_student, log_teacher, reduction=how, log_target=True)


def _confident_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    temperature: float,
    threshold: float,
    hard_labels: bool,
    reduction: LossReduction | str,
) -> torch.Tensor:
    """Return the distillation loss on the items for which the teacher is confident."""
    sure, classes = torch.softmax(teacher, dim=1).max(dim=1)
    if hard_labels:
        losses = F.cross_entropy(student, classes, reduction="none")
    else:
        losses = distillation_loss(student, teacher, temperature=temperature, reduction="none")
    losses = losses * sure.ge(threshold)
    if reduction == LossReduction.NONE:
        return losses
    return losses.sum() / (max(1, len(losses)) if reduction == LossReduction.MEAN else 1)
