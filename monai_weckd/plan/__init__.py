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

"""Plan a chain before any image is opened: splits, stages, and the labels of each stage."""

from __future__ import annotations

from .chain_plan import ChainPlan, StagePlan
from .checks import PlanError, check_plan
from .oracle import LabelOracle
from .planner import plan_chain, plan_training, read_shards, replan
from .settings import PlanSettings
from .splits import divide_epochs, group_of, longest_stage

__all__ = [
    "ChainPlan",
    "LabelOracle",
    "PlanError",
    "PlanSettings",
    "StagePlan",
    "check_plan",
    "divide_epochs",
    "group_of",
    "longest_stage",
    "plan_chain",
    "plan_training",
    "read_shards",
    "replan",
]
