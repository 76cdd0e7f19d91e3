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

"""Faults of sites for the simulator, which runs each site in a process of its own: the imports of a bundle call it."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any

from monai_weckd.fl import average_party, chain_party, exact_party


@functools.cache  # a configuration is evaluated several times
def strike(site: str) -> None:
    """Let a site be late, die, or send numbers that are none, if its name says so."""
    if site == "late":
        time.sleep(600)
    if site == "dies":
        os._exit(9)
    if site == "nan":
        exact_party.SiteAnswer = _spoilt(exact_party.SiteAnswer)
        chain_party.StageAnswer = _spoilt(chain_party.StageAnswer)
        average_party.AverageAnswer = _spoilt(average_party.AverageAnswer)


def _spoilt(kind: type) -> Callable[..., Any]:
    first = dataclasses.fields(kind)[0].name

    def make(tensors: dict[str, Any], *args: Any, **options: Any) -> Any:
        found = kind(tensors, *args, **options)
        return dataclasses.replace(found, **{first: {name: value * math.nan for name, value in tensors.items()}})

    return make
