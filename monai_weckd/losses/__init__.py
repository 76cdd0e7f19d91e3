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

"""Distillation and attention losses, and the temperature schedule."""

from __future__ import annotations

from .attention import attention_map, attention_transfer_loss
from .balanced import BalancedCrossEntropy
from .distillation import DistillationLoss, distillation_loss
from .temperature import TemperatureSchedule

__all__ = [
    "BalancedCrossEntropy",
    "DistillationLoss",
    "TemperatureSchedule",
    "attention_map",
    "attention_transfer_loss",
    "distillation_loss",
]
