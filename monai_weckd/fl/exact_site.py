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

"""What runs at a site when NVIDIA FLARE solves the exact head: a script of its Client API."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import torch

from monai_weckd.fl.exact import ExactHead, Sums
from monai_weckd.fl.exact_rounds import ROUNDS, ExactParty

__all__ = ["WRITE", "main", "pack", "to_arrays", "to_tensors", "unpack"]

WRITE = "write"
_EMPTY = "none"  # NVIDIA FLARE refuses a message without an array


def main(argv: Sequence[str] | None = None) -> None:
    """Answer the server until the job ends.

    Args:
        argv: one argument, the settings as :py:func:`pack` writes them; default None: those of the process.

    """
    import nvflare.client as flare

    (packed,) = sys.argv[1:] if argv is None else argv
    flare.init()
    party = ExactParty(unpack(packed, flare.get_site_name()))
    while flare.is_running():
        message = flare.receive()
        if message is None:
            break
        task, sums, meta = message.meta["round"], {}, {}
        if task == WRITE:
            tensors: dict[str, Any] = {name: torch.as_tensor(value) for name, value in message.params.items()}
            party.write(ExactHead(**tensors, **message.meta["figures"]), message.meta["sites"])
        else:
            answer = party.answer(task, to_tensors(message.params))
            sums, meta = {task: answer.sums}, {"identity": answer.identity, "fault": answer.fault}
        flare.send(flare.FLModel(params=to_arrays(sums), meta=meta))


def pack(settings: Mapping[str, Any]) -> str:
    """Return settings as one word, because NVIDIA FLARE splits the arguments of a script at spaces.

    Args:
        settings: those of :py:class:`~monai_weckd.fl.exact_rounds.ExactParty`; in a text, ``{site}`` stands for the
            name of the site.

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
    """Return sums of rounds as arrays, each named ``round/sum``.

    Args:
        totals: sums by round.

    """
    found = {f"{task}/{name}": value.numpy() for task, sums in totals.items() for name, value in sums.items()}
    return found or {_EMPTY: np.zeros(1)}


def to_tensors(arrays: Mapping[str, Any]) -> dict[str, Sums]:
    """Return the sums by round in the order of the rounds.

    Args:
        arrays: result of :py:func:`to_arrays`.

    """
    found: dict[str, Sums] = {}
    for key, value in arrays.items():
        task, _, name = key.partition("/")
        if key != _EMPTY:
            found.setdefault(task, {})[name] = torch.as_tensor(value)
    return {task: found[task] for task in ROUNDS if task in found}


if __name__ == "__main__":
    main()
