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

"""Handlers that add chains, distillation, checkpoints and records to a MONAI trainer."""

from __future__ import annotations

from .backbone import FrozenBackbone
from .chain import ChainHandler
from .checkpoint import ChainCheckpoint
from .continuation import ChainContinuation
from .cost import CostReporter
from .distillation import DistillationHandler
from .losses import losses_from_output
from .macro_auc import MacroAUC
from .progress import ChainProgressBar
from .recorder import ChainRecorder, predict_probabilities
from .schedules import TeacherWeightHandler, TemperatureHandler

__all__ = [
    "ChainCheckpoint",
    "ChainContinuation",
    "ChainHandler",
    "ChainProgressBar",
    "ChainRecorder",
    "CostReporter",
    "DistillationHandler",
    "FrozenBackbone",
    "MacroAUC",
    "TeacherWeightHandler",
    "TemperatureHandler",
    "losses_from_output",
    "predict_probabilities",
]
