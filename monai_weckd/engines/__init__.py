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

"""Trainers for distillation and chains of students, and their building blocks."""

from __future__ import annotations

from monai_weckd.engines.distiller import Distiller
from monai_weckd.engines.events import ChainEvents, DistillationEvents
from monai_weckd.engines.options import ChainOptions
from monai_weckd.engines.stage_record import StageRecord
from monai_weckd.utils.enums import DistillationKeys

from .alignment import DistributionAlignment
from .averaging import WeightAverage
from .calibration import divide_logits, fit_temperature
from .chain import ChainDistillationTrainer
from .distillation import DistillationTrainer
from .solver import HeadSolver
from .teacher_cache import TeacherCache
from .views import PrepareViews
from .walker import StageWalker

__all__ = [
    "ChainDistillationTrainer",
    "ChainEvents",
    "ChainOptions",
    "DistillationEvents",
    "DistillationKeys",
    "DistillationTrainer",
    "Distiller",
    "DistributionAlignment",
    "HeadSolver",
    "PrepareViews",
    "StageRecord",
    "StageWalker",
    "TeacherCache",
    "WeightAverage",
    "divide_logits",
    "fit_temperature",
]
