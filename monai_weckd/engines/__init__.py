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

from .alignment import DistributionAlignment
from .averaging import WeightAverage
from .calibration import divide_logits, fit_temperature
from .chain import ChainDistillationTrainer
from .distillation import DistillationTrainer
from .distiller import DistillationEvents, DistillationKeys, Distiller
from .options import ChainEvents, ChainOptions, StageRecord
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
    "PrepareViews",
    "StageRecord",
    "StageWalker",
    "TeacherCache",
    "WeightAverage",
    "divide_logits",
    "fit_temperature",
]
