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

"""What runs at a site of NVIDIA FLARE, a script of its Client API: rounds of the exact head or of averaging, stages."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import torch

from monai_weckd.fl.chain_rounds import ChainParty, Student
from monai_weckd.fl.exact import ExactHead, Sums
from monai_weckd.fl.exact_rounds import ROUNDS, ExactParty

__all__ = ["AVERAGE", "JOINT", "STAGE", "WRITE", "main", "pack", "to_arrays", "to_tensors", "unpack"]

AVERAGE, JOINT, STAGE, WRITE = "average", "joint", "stage", "write"
Respond = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[dict[str, np.ndarray], dict[str, Any]]]
_EMPTY = "none"  # NVIDIA FLARE refuses a message without an array


def main(argv: Sequence[str] | None = None) -> None:
    """Answer the server until the job ends.

    Args:
        argv: one argument, the settings as :py:func:`pack` writes them; default None: those of the process.

    """
    import nvflare.client as flare

    (packed,) = sys.argv[1:] if argv is None else argv
    flare.init()
    settings = unpack(packed, flare.get_site_name())
    respond = {"exact": _exact, "chain": _chain, "average": _average}[settings.pop("mode")](settings)
    while flare.is_running():
        message = flare.receive()
        if message is None:
            break
        arrays, meta = respond(message.params, message.meta)
        flare.send(flare.FLModel(params=arrays, meta=meta))


def _exact(settings: Mapping[str, Any]) -> Respond:
    party: ExactParty | None = None

    def respond(arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        nonlocal party
        tensors = to_tensors(arrays)
        weights = tensors.pop(JOINT, None)
        party = party or ExactParty(settings, weights)
        if meta["round"] == WRITE:
            head: dict[str, Any] = tensors[WRITE]
            stages = {"stages": meta["stages"], "again": meta["again"]} if weights else {}
            party.write(ExactHead(**head, **meta["figures"]), meta["sites"], **stages)
            return to_arrays({}), {}
        answer = party.answer(meta["round"], tensors)
        return to_arrays({meta["round"]: answer.sums}), {"identity": answer.identity, "fault": answer.fault}

    return respond


def _chain(settings: Mapping[str, Any]) -> Respond:
    exact = _exact(settings)
    party = ChainParty(settings)

    def respond(arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors = to_tensors(arrays)
        if JOINT in tensors:
            return exact(arrays, meta)
        if meta["round"] == WRITE:
            party.write(tensors[WRITE], meta["stages"], again=meta["again"])
            return to_arrays({}), {}
        students = [Student(tensors[str(place)], labels) for place, labels in enumerate(meta["labels"])]
        answer = party.answer(students, visit=meta["visit"], again=meta["again"])
        return to_arrays({STAGE: answer.weights}), {"record": answer.record, "fault": answer.fault}

    return respond


def _average(settings: Mapping[str, Any]) -> Respond:
    exact = _exact(settings)
    from monai_weckd.fl.average_rounds import AverageParty  # here, since MONAI's client is needed for nothing else

    party = AverageParty(settings)

    def respond(arrays: Mapping[str, Any], meta: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        tensors = to_tensors(arrays)
        if JOINT in tensors:
            return exact(arrays, meta)
        if meta["round"] == WRITE:
            party.write(tensors[WRITE], meta["sites"])
            return to_arrays({}), {}
        answer = party.answer(tensors.get(AVERAGE, {}))
        return to_arrays({AVERAGE: answer.weights}), {"fault": answer.fault, "NUM_STEPS_CURRENT_ROUND": answer.steps}

    return respond


def pack(settings: Mapping[str, Any]) -> str:
    """Return settings as one word, because NVIDIA FLARE splits the arguments of a script at spaces.

    Args:
        settings: ``mode``, "exact", "chain" or "average", and the settings of
            :py:class:`~monai_weckd.fl.exact_rounds.ExactParty`, :py:class:`~monai_weckd.fl.chain_rounds.ChainParty` or
            :py:class:`~monai_weckd.fl.average_rounds.AverageParty`; in a text, ``{site}`` stands for the site's name.

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


if __name__ == "__main__":
    main()
