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

"""What travels to and from sites of NVIDIA FLARE: the settings as a word, and arrays by round and name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import torch

from monai_weckd.fl.exact import Sums
from monai_weckd.fl.exact_rounds import ROUNDS

__all__ = ["AVERAGE", "HEAD", "JOINT", "STAGE", "WRITE", "pack", "to_arrays", "to_tensors", "unpack"]

AVERAGE, HEAD, JOINT, STAGE, WRITE = "average", "head", "joint", "stage", "write"
_EMPTY = "none"  # NVIDIA FLARE refuses a message without an array


def pack(settings: Mapping[str, Any]) -> str:
    """Return settings as one word, because NVIDIA FLARE splits the arguments of a script at spaces.

    Args:
        settings: ``mode``, "exact", "chain" or "average", and the settings of
            :py:class:`~monai_weckd.fl.exact_party.ExactParty`, :py:class:`~monai_weckd.fl.chain_party.ChainParty` or
            :py:class:`~monai_weckd.fl.average_party.AverageParty`; in a text, ``{site}`` stands for the site's name.

    """
    return quote(json.dumps(settings), safe="/{}:,")


def unpack(packed: str, site: str) -> dict[str, Any]:
    """Return the settings at a site.

    Args:
        packed: result of :py:func:`pack`.
        site: name of the site.

    Example::

        >>> unpack(pack({"dataset_dir": "my data/{site}"}), "north")
        {'dataset_dir': 'my data/north'}

    """
    settings: dict[str, Any] = json.loads(unquote(packed).replace("{site}", site))
    return settings


def to_arrays(totals: Mapping[str, Sums]) -> dict[str, np.ndarray]:
    """Return what travels as arrays, each named ``round/name``.

    Args:
        totals: sums, or weights, by round.

    """
    found = {f"{task}/{name}": value.numpy() for task, sums in totals.items() for name, value in sums.items()}
    return found or {_EMPTY: np.zeros(1)}


def to_tensors(arrays: Mapping[str, Any]) -> dict[str, Sums]:
    """Return what travelled by round, those of the exact head in their order.

    Args:
        arrays: result of :py:func:`to_arrays`.

    """
    found: dict[str, Sums] = {}
    for key, value in arrays.items():
        task, _, name = key.partition("/")
        if key != _EMPTY:
            found.setdefault(task, {})[name] = torch.as_tensor(value)
    return {task: found[task] for task in (*ROUNDS, *found) if task in found}
