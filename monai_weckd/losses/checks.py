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

"""Refuse logits, targets and thresholds for which the distillation loss is not defined."""

from __future__ import annotations

import torch

__all__ = ["check_confidence", "check_logits", "check_target"]


def check_confidence(threshold: float, *, multilabel: bool) -> None:
    """Refuse a confidence threshold that is out of range or cannot apply.

    Args:
        threshold: smallest top probability at which the teacher's prediction counts.
        multilabel: whether there is no top probability, as with multilabel or spatial logits.

    Raises:
        ValueError: When it is one.

    """
    if not 0 <= threshold < 1:
        raise ValueError(f"threshold: expected a probability from 0 to below 1, got {threshold}. 0 switches it off.")
    if multilabel:
        raise ValueError(
            "threshold: expected 0, and hard_labels=False, for multilabel or spatial logits, got others. "
            "Leave them out."
        )


def check_logits(student_logits: torch.Tensor, teacher_logits: torch.Tensor, *, multilabel: bool) -> None:
    """Refuse logits for which no distillation loss is defined.

    Args:
        student_logits: logits of the student.
        teacher_logits: logits of the teacher.
        multilabel: whether each class has a sigmoid of its own.

    Raises:
        ValueError: When they are such.

    """
    shape = tuple(student_logits.shape)
    if len(shape) < 2:
        raise ValueError(
            f"student_logits: expected the shape (B, C[, spatial]), got {shape}. Keep the batch dimension."
        )
    if tuple(teacher_logits.shape) != shape:
        raise ValueError(
            f"teacher_logits: expected the student's shape {shape}, got {tuple(teacher_logits.shape)}. "
            "Use networks with the same classes on the same batch."
        )
    if shape[1] < 2 and not multilabel:
        raise ValueError(
            "student_logits: expected 2 classes or more, got 1. Pass multilabel=True for a sigmoid output."
        )


def check_target(logits: torch.Tensor, target: torch.Tensor, *, multilabel: bool) -> None:
    """Refuse logits and a target that are not those of a classifier.

    Args:
        logits: logits of the student.
        target: the labels.
        multilabel: whether each class has a sigmoid of its own.

    Raises:
        ValueError: When they are not.

    """
    if logits.ndim != 2:
        raise ValueError(f"student_logits: expected the shape (B, C), got {tuple(logits.shape)}. Use a classifier.")
    items, classes = logits.shape
    expected = [(items, classes)] if multilabel else [(items,), (items, 1), (items, classes)]
    if tuple(target.shape) not in expected:
        raise ValueError(
            f"target: expected the shape {' or '.join(map(str, expected))} with multilabel={multilabel}, "
            f"got {tuple(target.shape)}. Pass class numbers, or a column per class."
        )
