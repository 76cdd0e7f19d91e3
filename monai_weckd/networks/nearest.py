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

"""Measure how far images are from others, by the features of a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

__all__ = ["neighbor_distances"]

_NEIGHBORS = 5
_ROWS = 512


def neighbor_distances(
    features: torch.Tensor, reference: torch.Tensor | None = None, *, groups: Sequence[str] | None = None
) -> np.ndarray:
    """Return the mean cosine distance of each item to its five nearest items of a reference, (N,), float64.

    Args:
        features: features of the items, (N, D).
        reference: features of the others, (M, D), default None: the items themselves.
        groups: group of each item, N names. Without a reference, neighbors are then from other groups, and the distance
            is 0 if there is only one group. Default None: no groups.

    """
    unit = F.normalize(features.float(), dim=1)
    others = unit if reference is None else F.normalize(reference.float(), dim=1)
    numbers = None if groups is None else torch.from_numpy(np.unique(np.asarray(groups), return_inverse=True)[1])
    means = []
    for first in range(0, len(unit), _ROWS):
        part = (1 - unit[first : first + _ROWS] @ others.T).clamp(min=0)
        if numbers is not None:
            part[numbers[first : first + _ROWS, None] == numbers] = torch.nan
        means.append(part.sort(dim=1).values[:, :_NEIGHBORS].nanmean(dim=1))
    found: np.ndarray = torch.cat(means).nan_to_num(0).numpy().astype(np.float64)
    return found
