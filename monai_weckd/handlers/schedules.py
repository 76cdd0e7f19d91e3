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

"""Schedules over the epochs of a stage: temperature and distillation weight."""

from __future__ import annotations

from ignite.engine import Events
from monai.engines import Workflow

from monai_weckd.losses import DistillationLoss, TemperatureSchedule

__all__ = ["TeacherWeightHandler", "TemperatureHandler", "stage_progress"]


class TemperatureHandler:
    """Anneal the temperature of a distillation loss over the epochs of a stage, or of a run without stages.

    The handler sets ``loss_function.temperature`` at the start of each epoch and stores it in
    ``engine.state.temperature`` for handlers that log state attributes.

    Args:
        loss_function: the loss whose temperature is set.
        schedule: temperature by progress; 0 is the stage's first epoch, 1 its last. Default None: it stays constant.

    """

    def __init__(self, loss_function: DistillationLoss, schedule: TemperatureSchedule | None = None) -> None:
        self.loss_function = loss_function
        self.schedule = schedule

    def attach(self, engine: Workflow) -> None:
        """Register the handler.

        Args:
            engine: Ignite Engine, it should be a trainer.

        """
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Set the temperature for the epoch that begins.

        Args:
            engine: Ignite Engine, it should be a trainer.

        """
        if self.schedule is not None:
            self.loss_function.temperature = self.schedule(stage_progress(engine))
        engine.state.temperature = self.loss_function.temperature


def stage_progress(engine: Workflow) -> float:
    """Return the progress of the current stage, or of a run without stages: 0 in its first epoch, 1 in its last.

    Args:
        engine: a trainer in an epoch.

    """
    epoch = getattr(engine.state, "stage_epoch", engine.state.epoch)
    epochs = getattr(engine.state, "stage_epochs", engine.state.max_epochs)
    return (epoch - 1) / (epochs - 1) if epochs > 1 else 0.0


class TeacherWeightHandler:
    """Change the distillation weight linearly over a stage.

    A teacher that has seen fewer labels than its student helps at first and holds the student back later. With
    ``end=0`` a stage ends with training on labels alone, so the teacher's mistakes no longer matter (teacher annealing,
    Clark et al., https://arxiv.org/abs/1907.04829). The handler sets ``loss_function.weight`` at the start of each
    epoch and stores it in ``engine.state.distillation_weight`` for handlers that log state attributes.

    Args:
        loss_function: the loss whose weight is set.
        start: share of the distillation loss in a stage's first epoch, 0.0 to 1.0.
        end: share in its last epoch, default None: ``start``.

    Raises:
        ValueError: When a share is out of its range.

    """

    def __init__(self, loss_function: DistillationLoss, start: float, end: float | None = None) -> None:
        self.loss_function = loss_function
        self.start = start
        self.end = start if end is None else end
        for name, value in (("start", self.start), ("end", self.end)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name}: expected a share from 0 to 1, got {value}. 0 leaves the teacher out.")

    def attach(self, engine: Workflow) -> None:
        """Register the handler.

        Args:
            engine: Ignite Engine, it should be a trainer.

        """
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        """Set the weight for the epoch that begins.

        Args:
            engine: Ignite Engine, it should be a trainer.

        """
        progress = stage_progress(engine)
        weight = (1 - progress) * self.start + progress * self.end
        self.loss_function.weight = engine.state.distillation_weight = weight
