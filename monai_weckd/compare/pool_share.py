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

"""Count the images of the pool from which a training with a confidence threshold learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from monai_weckd.utils.enums import UNLABELED

if TYPE_CHECKING:
    from monai_weckd.losses import DistillationLoss

__all__ = ["PoolShare", "read_pool_share"]

_FILE = "pool_share.json"


class PoolShare:
    """Count how often an image without a label passes the threshold of a loss.

    Args:
        loss_function: the loss of a trainer; its ``components`` are wrapped if it has a threshold.

    """

    def __init__(self, loss_function: DistillationLoss) -> None:
        self.loss_function = loss_function
        self.seen = self.passed = 0
        self._components = loss_function.components
        if loss_function.threshold > 0:
            # wrapped here, and not at an event, to count what the loss gets, after any alignment
            loss_function.components = self._count  # type: ignore[method-assign]

    def _count(self, student_logits: torch.Tensor, target: torch.Tensor, *args: Any, **options: Any) -> Any:
        teacher_logits = args[0] if args else options.get("teacher_logits")
        if teacher_logits is not None:
            pool = target.as_subclass(torch.Tensor).reshape(len(target), -1)[:, 0].eq(UNLABELED)
            sure = torch.softmax(teacher_logits.detach()[pool], dim=1).amax(dim=1)
            self.seen += len(sure)
            self.passed += int(sure.ge(self.loss_function.threshold).sum())
        return self._components(student_logits, target, *args, **options)

    def write(self, folder: Path) -> None:
        """Write the share that passed, None if no image without a label was seen under a threshold.

        Args:
            folder: folder of the run.

        """
        share = self.passed / self.seen if self.seen else None
        (folder / _FILE).write_text(json.dumps(share), encoding="utf-8")


def read_pool_share(folder: Path) -> float | None:
    """Return what :py:meth:`PoolShare.write` wrote, None if it wrote nothing.

    Args:
        folder: folder of the run.

    """
    path = folder / _FILE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
