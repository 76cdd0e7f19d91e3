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

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

__all__ = ["StageRecord", "Stateful"]


class Stateful(Protocol):
    """Anything that begins afresh by loading an earlier state, as a learning rate scheduler does."""

    def state_dict(self) -> Any:
        """Return the state to come back to."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Come back to a state."""


@dataclass(frozen=True)
class StageRecord:
    """What one stage did.

    Args:
        stage: stage number, from 1.
        teacher: stage number of the teacher, None for a stage without one.
        labeled: number of labels trained on.
        groups: number of groups that these labels come from.
        pool: number of training items seen, if at all, without their labels.
        epochs: number of epochs run.
        best_epoch: epoch of the stage, from 1, whose weights were kept.
        seconds: wall time of the stage, validation included.
        metric: name of the metric that the gate compares.
        value: the metric of the kept weights, None without an evaluator.
        previous: the metric of the teacher that stood before, None where there was none.
        tolerance: how much worse than ``previous`` it was allowed to be.
        accepted: whether the student became the teacher of the stages after it.
        selection: how its shard was chosen, see :py:class:`monai_weckd.ChainPlan`.
        calibration: the temperature by which its logits were divided at its end, None without calibration.

    """

    stage: int
    teacher: int | None
    labeled: int
    groups: int
    pool: int
    epochs: int
    best_epoch: int
    seconds: float
    metric: str | None
    value: float | None
    previous: float | None
    tolerance: float
    accepted: bool
    selection: str
    calibration: float | None
