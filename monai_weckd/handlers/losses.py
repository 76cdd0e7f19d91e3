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

"""Extract the losses from a trainer's output, for handlers that log them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.utils import CommonKeys

from monai_weckd.utils.enums import DistillationKeys

__all__ = ["LOSS_KEYS", "losses_from_output"]

LOSS_KEYS = (
    str(CommonKeys.LOSS),
    DistillationKeys.TASK_LOSS,
    DistillationKeys.DISTILLATION_LOSS,
    DistillationKeys.ATTENTION_LOSS,
)


def losses_from_output(output: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the total loss and its parts by name, for any handler that takes an ``output_transform``.

    Args:
        output: ``engine.state.output`` of a :py:class:`monai_weckd.engines.DistillationTrainer`, decollated or not.

    Example::

        >>> losses_from_output({"loss": 1.5, "task_loss": 2.0, "distillation_loss": 1.0, "attention_loss": 0.0})
        {'loss': 1.5, 'task_loss': 2.0, 'distillation_loss': 1.0, 'attention_loss': 0.0}

    """
    first = output if isinstance(output, Mapping) else output[0]
    values = {key: first[key] for key in LOSS_KEYS}
    return {key: float(v.detach() if isinstance(v, torch.Tensor) else v) for key, v in values.items()}
