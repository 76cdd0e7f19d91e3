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

"""Map over the tensors in a network's output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

__all__ = ["map_tensors"]


def map_tensors(function: Callable[..., torch.Tensor], output: Any, *others: Any) -> Any:
    """Return a network's output with each tensor replaced by a function's value; the structure stays.

    Args:
        function: takes a tensor, and those in the same place of the other outputs.
        output: a tensor, or tuples, lists, dictionaries and dataclasses of them; anything else in them stays as it is.
        others: outputs of the same structure.

    """
    if isinstance(output, torch.Tensor):
        return function(output, *others)
    if isinstance(output, Mapping):
        values = {key: map_tensors(function, output[key], *(other[key] for other in others)) for key in output}
        return values if type(output) is dict else _with_items(output, values)
    if isinstance(output, (tuple, list)):
        parts = [map_tensors(function, *same) for same in zip(output, *others, strict=True)]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if is_dataclass(output) and not isinstance(output, type):
        names = [field.name for field in fields(output) if field.init]
        same = {name: [getattr(one, name) for one in (output, *others)] for name in names}
        return replace(output, **{name: map_tensors(function, *values) for name, values in same.items()})
    return output


def _with_items(output: Any, values: Mapping[Any, Any]) -> Any:
    """Return a copy of a dictionary of its own class, such as a model's output, with other values."""
    other = copy(output)
    for key, value in values.items():
        other[key] = value
    return other
