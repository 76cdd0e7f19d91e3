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

"""Hyperparameter search with Optuna: search space, study, trials and results."""

from __future__ import annotations

# imports nothing that needs Optuna or torch, because every command of `python -m monai_weckd` imports this package
from .space import SPACE, TunedParameter, parse_parameters

__all__ = ["SPACE", "TunedParameter", "parse_parameters"]
