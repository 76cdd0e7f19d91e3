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

"""Measure a training on its labeled items alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events
from ignite.metrics import Metric
from monai.utils import CommonKeys

from monai_weckd.utils.enums import UNLABELED

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

__all__ = ["labeled_output", "measure_labeled"]


class _Labeled:
    """An output transform of a metric that first leaves out items without a label."""

    def __init__(self, transform: Callable) -> None:
        self.transform = transform

    def __call__(self, output: Any) -> Any:
        return self.transform(labeled_output(output))


def measure_labeled(engine: SupervisedTrainer) -> None:
    """Let the metrics of a trainer leave out items without a label; a metric would count the label -1 as an error.

    Args:
        engine: the trainer.

    """
    for handler, _, _ in engine._event_handlers[Events.ITERATION_COMPLETED]:  # Ignite has no public access to this
        metric = getattr(handler, "__self__", None)
        if isinstance(metric, Metric) and not isinstance(metric._output_transform, _Labeled):
            metric._output_transform = _Labeled(metric._output_transform)


def labeled_output(output: Any) -> Any:
    """Return the part of a trainer's output that comes from labeled items, whole or decollated.

    Args:
        output: ``engine.state.output``.

    """
    if isinstance(output, list):
        return [item for item in output if not _is_unlabeled(item)]
    if not isinstance(output, Mapping) or not isinstance(label := output.get(CommonKeys.LABEL), torch.Tensor):
        return output
    known = label.as_subclass(torch.Tensor).reshape(len(label), -1).ne(UNLABELED).any(dim=1) if label.ndim else None
    if known is None or bool(known.all()):
        return output
    return {key: value[known] if _is_batch(value, len(label)) else value for key, value in output.items()}


def _is_unlabeled(item: Any) -> bool:
    label = item.get(CommonKeys.LABEL) if isinstance(item, Mapping) else None
    return label is not None and bool(torch.as_tensor(label).eq(UNLABELED).all())


def _is_batch(value: Any, size: int) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim > 0 and len(value) == size
