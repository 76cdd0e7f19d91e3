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

"""What a labeling session tells of its training, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["NoStageError", "StageRunningError", "StageStoppedError", "TrainingStatus", "UnknownImageError"]


class NoStageError(RuntimeError):
    """A prediction was requested before the first student exists."""


class StageRunningError(RuntimeError):
    """A stage of the same chain is already in training."""


class StageStoppedError(RuntimeError):
    """The user stopped a stage before its end."""


class UnknownImageError(ValueError):
    """The requested image does not exist."""


@dataclass
class TrainingStatus:
    """Progress of the training of a stage.

    Args:
        running: whether a stage is in training.
        stage: its number, 0 before the first one.
        epoch: finished epochs of the stage.
        epochs: all epochs of the stage.
        error: why the last stage ended early, in one line; None if it did not.

    """

    running: bool = False
    stage: int = 0
    epoch: int = 0
    epochs: int = 0
    error: str | None = None
