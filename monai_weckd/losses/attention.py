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

"""Attention maps and the attention transfer loss."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.utils import LossReduction

__all__ = ["attention_map", "attention_transfer_loss"]


def attention_map(features: torch.Tensor) -> torch.Tensor:
    """Return the attention map of a layer: the sum over the channels of the squared features.

    Zagoruyko and Komodakis, "Paying More Attention to Attention", ICLR 2017, https://arxiv.org/abs/1612.03928:
    the activation-based map ``sum_c |F_c|^2``.

    Args:
        features: output of a convolutional layer, (B, C, H, W) or (B, C, H, W, D).

    Returns:
        The map, (B, H, W) or (B, H, W, D), in single precision or better.

    Raises:
        ValueError: When ``features`` has neither shape.

    Example::

        >>> attention_map(torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]]))
        tensor([[[10.,  4.]]])

    """
    if features.ndim not in (4, 5):
        raise ValueError(
            "features: expected the shape (B, C, H, W) or (B, C, H, W, D), "
            f"got {tuple(features.shape)}. Name a convolutional layer."
        )
    # convert first, because squares of half-precision features overflow from 256 on
    return as_float(features).square().sum(dim=1)


def attention_transfer_loss(
    student_features: torch.Tensor, teacher_features: torch.Tensor, *, reduction: LossReduction | str = "mean"
) -> torch.Tensor:
    """Return the distance between the student's and the teacher's attention.

    The distance is ``|| Q_s / ||Q_s||_2 - Q_t / ||Q_t||_2 ||_2`` per item, with ``Q`` the flattened
    :py:func:`attention_map`, after Zagoruyko and Komodakis, https://arxiv.org/abs/1612.03928. It ranges from 0 for
    equal attention to the square root of 2. If the spatial sizes differ, the teacher's map is resized linearly to the
    student's. The channels may differ as well. The teacher is a constant: no gradient flows into it.

    A map with a norm below 1e-12, such as that of a dead layer, is divided by 1e-12 instead of its norm. The distance
    has no derivative if both maps are equal; the gradient is then the subgradient 0, as PyTorch defines it for
    :py:func:`torch.linalg.vector_norm`.

    Args:
        student_features: features of the student, (B, C, H, W) or (B, C, H, W, D), of any floating point type.
        teacher_features: features of the teacher, with the same B and number of spatial dimensions.
        reduction: ``"mean"`` or ``"sum"`` over the items, or ``"none"`` for one loss per item. Defaults to ``"mean"``.

    Returns:
        The loss in single precision or better, (B,) for ``"none"``, else a scalar.

    Raises:
        ValueError: When the features are not of a convolutional layer, or differ in B or in spatial dimensions.
        ValueError: When ``reduction`` is unknown.

    Example::

        >>> student, teacher = torch.zeros(1, 2, 1, 2), torch.zeros(1, 3, 1, 2)
        >>> student[..., 0], teacher[..., 1] = 5.0, 1.0
        >>> attention_transfer_loss(student, teacher)
        tensor(1.4142)

    """
    student = attention_map(student_features)
    teacher = attention_map(teacher_features).detach()
    if student.ndim != teacher.ndim or student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"teacher_features: expected the batch size and spatial dimensions of {tuple(student_features.shape)}, "
            f"got {tuple(teacher_features.shape)}. Run both networks on the same batch."
        )
    size = student.shape[1:]
    if teacher.shape[1:] != size:
        mode = "bilinear" if len(size) == 2 else "trilinear"
        teacher = F.interpolate(teacher.unsqueeze(1), size=size, mode=mode).squeeze(1)
    difference = F.normalize(student.flatten(1), dim=1) - F.normalize(teacher.flatten(1), dim=1)
    return reduce_items(torch.linalg.vector_norm(difference, dim=1), reduction)


def as_float(data: torch.Tensor) -> torch.Tensor:
    """Return a tensor without metadata, in single precision or better.

    Args:
        data: a tensor or MetaTensor; half precision becomes float32, double stays double.

    """
    tensor = data if type(data) is torch.Tensor else data.as_subclass(torch.Tensor)
    if tensor.dtype in (torch.float32, torch.float64):
        return tensor
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def reduce_items(losses: torch.Tensor, reduction: LossReduction | str) -> torch.Tensor:
    """Reduce one loss per item to what a loss function returns.

    Args:
        losses: one loss per item, (B,).
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    Raises:
        ValueError: When ``reduction`` is unknown.

    """
    check_reduction(reduction)
    if reduction == LossReduction.NONE:
        return losses
    return losses.mean() if reduction == LossReduction.MEAN else losses.sum()


def check_reduction(reduction: LossReduction | str) -> None:
    """Raise a ValueError when a reduction is unknown.

    Args:
        reduction: ``"mean"``, ``"sum"`` or ``"none"``.

    """
    if reduction not in (LossReduction.MEAN, LossReduction.SUM, LossReduction.NONE):
        raise ValueError(f'reduction: expected "mean", "sum" or "none", got {reduction!r}. Pass one of the three.')
