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

"""Label-scarce medical image classification by chain distillation, as a plugin for MONAI."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["ChainPlan", "LabelOracle", "PlanSettings", "StagePlan", "__version__", "plan_chain", "plan_training"]

__version__ = "0.1.0"

_PLANNING = ("ChainPlan", "LabelOracle", "PlanSettings", "StagePlan", "plan_chain", "plan_training")
_SUBPACKAGES = (
    "annotation",
    "bundle",
    "compare",
    "costs",
    "data",
    "engines",
    "fl",
    "handlers",
    "inferers",
    "losses",
    "metrics",
    "networks",
    "pacs",
    "plan",
    "predict",
    "selection",
    "transforms",
    "tune",
    "utils",
    "visualize",
)


def __getattr__(name: str) -> Any:
    """Import a subpackage on first use (PEP 562), because planning needs neither torch nor MONAI."""
    if name in _PLANNING:
        return getattr(importlib.import_module(f"{__name__}.plan"), name)
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """List the lazily imported names as well."""
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
