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

"""The area under the ROC curve as a key metric of validation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.handlers import ROCAUC
from monai.metrics import ROCAUCMetric, compute_roc_auc
from monai.utils import Average

__all__ = ["MacroAUC"]


class MacroAUC(ROCAUC):
    """Macro-averaged area under the ROC curve, over the classes or findings for which it is defined.

    It differs from :py:class:`monai.handlers.ROCAUC` in two ways. Labels are class indices. The mean leaves out a class
    without items and a class of all items, for which MONAI's value would be NaN. A validation set that grows with the
    labels may lack a class for a while.

    Args:
        output_transform: turns the engine's output into a pair: probabilities, (B, C), and class indices, (B,), or
            values of findings, (B, C), of which -1 and NaN are left out; or lists of these by item.

    """

    def __init__(self, output_transform: Callable = lambda x: x) -> None:
        super().__init__(Average.MACRO, output_transform)
        self.metric_fn = _PresentClasses(Average.MACRO)


class _PresentClasses(ROCAUCMetric):
    """Compute the area for each class that has some of the items, but not all."""

    def _compute_tensor(self, y_pred: torch.Tensor, y: Any = None, **kwargs: Any) -> Any:
        if y.shape == y_pred.shape:
            return y_pred, torch.where(y >= 0, y, -1)  # findings; a single class cannot be ranked
        classes = torch.arange(y_pred.shape[1], device=y.device)
        return super()._compute_tensor(y_pred, (y.reshape(-1, 1) == classes).long())

    def aggregate(self, average: Average | str | None = None) -> Any:
        y_pred, y = self.get_buffer()
        if (y < 0).any():
            found = [_area(y_pred[known, place], y[known, place]) for place, known in enumerate((y >= 0).T)]
            areas = [area for area in found if area is not None]
            return sum(areas) / len(areas) if areas else float("nan")
        present = y.any(dim=0) & ~y.all(dim=0)
        return compute_roc_auc(y_pred[:, present], y[:, present], average or self.average)


def _area(y_pred: torch.Tensor, y: torch.Tensor) -> Any:
    """Return the area for a finding, None unless it is both present and absent."""
    return compute_roc_auc(y_pred, y) if y.any() and not y.all() else None
