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

"""A ``prepare_batch`` that augments each item by its view seed, on the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.engines import PrepareBatch
from monai.utils import CommonKeys

from monai_weckd.utils.enums import VIEW, DistillationKeys

__all__ = ["PrepareViews"]


class PrepareViews(PrepareBatch):
    """Move a batch to the device and augment each item there by its view seed.

    This is a ``prepare_batch`` for the batches of a stage, which contain the ``view`` seeds. With ``teacher_augment``
    the teacher gets its own, usually weaker, view of the same decoded image. Without it, teacher and student see the
    same view.

    Args:
        augment: makes the student's view, ``(images, views) -> images``, such as a
            :py:class:`~monai_weckd.transforms.BatchAugment`.
        teacher_augment: makes the teacher's view, default None: the teacher sees the student's view.

    """

    def __init__(self, augment: Callable, *, teacher_augment: Callable | None = None) -> None:
        self.augment = augment
        self.teacher_augment = teacher_augment

    def __call__(
        self,
        batchdata: dict[str, torch.Tensor],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images, (B, C, spatial dimensions), and labels, (B,), on the device.

        Args:
            batchdata: a batch with ``image``, ``label`` and ``view``; it gets ``teacher_image`` if the teacher has its
                own view.
            device: the target device.
            non_blocking: see :py:meth:`torch.Tensor.to`.
            kwargs: further arguments of :py:meth:`torch.Tensor.to` for the images.

        Raises:
            ValueError: When the batch has no ``view``.

        """
        if VIEW not in batchdata:
            raise ValueError(
                f"view: expected a seed for each item, got a batch of {sorted(map(str, batchdata))}. "
                "Use ChainDistillationTrainer, or put StageBatchSampler and StageDataset into the loader."
            )
        images = batchdata[CommonKeys.IMAGE].to(device=device, non_blocking=non_blocking, **kwargs)
        labels = batchdata[CommonKeys.LABEL].to(device=device, non_blocking=non_blocking)
        if self.teacher_augment is not None:
            batchdata[DistillationKeys.TEACHER_IMAGE] = self.teacher_augment(images, batchdata[VIEW])
        return self.augment(images, batchdata[VIEW]), labels
