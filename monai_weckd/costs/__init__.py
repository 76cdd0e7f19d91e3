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

"""Estimate the cost of a chain before training, from its plan and a probe of this machine."""

from __future__ import annotations

from .estimate import CostEstimate, StepCosts, estimate_cost
from .probe import probe_costs

__all__ = ["CostEstimate", "StepCosts", "estimate_cost", "probe_costs"]
