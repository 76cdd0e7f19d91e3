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

"""Labels of which an image has several in part, since its readers differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from monai_weckd.utils.enums import SHARES

__all__ = ["in_parts", "shared_target"]


def shared_target(target: torch.Tensor, items: Sequence[Mapping[str, Any]], num_classes: int) -> torch.Tensor:
    """Return the share of each class in each item, (N, C); the classes as they are, (N,), if no item has shares.

    Args:
        target: class of each item, (N,).
        items: the items; ``shares``, the share of each class, is of those whose readers differ.
        num_classes: number of classes, C.

    Example::

        >>> shared_target(torch.tensor([0, 1]), [{"shares": [0.5, 0.5]}, {}], 2).tolist()
        [[0.5, 0.5], [0.0, 1.0]]

    """
    places = [place for place, item in enumerate(items) if SHARES in item]
    if not places:
        return target
    found = torch.nn.functional.one_hot(target.long(), num_classes).double()
    found[places] = torch.tensor([list(items[place][SHARES]) for place in places], dtype=torch.float64)
    return found


def in_parts(target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a row for each class of each item: the item's place, the class and its share, (M,) each.

    Args:
        target: class of each item, (N,), or shares, (N, C).

    Example::

        >>> [part.tolist() for part in in_parts(torch.tensor([[0.5, 0.5], [0.0, 1.0]]))]
        [[0, 0, 1], [0, 1, 1], [0.5, 0.5, 1.0]]

    """
    if target.ndim == 1:
        return torch.arange(len(target)), target, torch.ones(len(target), dtype=torch.float64)
    places, classes = target.nonzero(as_tuple=True)
    return places, classes, target[places, classes].double()
