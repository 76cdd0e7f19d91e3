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

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from monai_weckd.fl.chain_party import ChainParty
from monai_weckd.fl.chain_rounds import Student
from monai_weckd.fl.exact import ExactHead, Sums
from monai_weckd.fl.exact_party import ExactParty
from monai_weckd.fl.exact_rounds import ROUNDS
from monai_weckd.fl.faults import fault_of
from monai_weckd.fl.messages import AVERAGE, HEAD, JOINT, STAGE, WRITE, to_arrays, to_tensors, unpack

__all__ = ["main"]

logger = logging.getLogger(__name__)

Answer = tuple[dict[str, np.ndarray], dict[str, Any]]
Respond = Callable[[dict[str, Sums], Mapping[str, Any]], Answer]


def main(argv: Sequence[str] | None = None) -> None:
    """Answer the server until the job ends.

    Args:
        argv: one argument, the settings as :py:func:`~monai_weckd.fl.messages.pack` writes them, default None: that of
            the process.

    """
    import nvflare.client as flare

    (packed,) = sys.argv[1:] if argv is None else argv
    flare.init()
    settings = unpack(packed, flare.get_site_name())
    mode = settings.pop("mode")
    exact = _exact(settings, trained=mode != "exact")
    train = {"chain": _chain, "average": _average}[mode](settings) if mode != "exact" else exact
    while flare.is_running():
        message = flare.receive()
        if message is None:
            break
        respond = exact if message.meta["round"] in (*ROUNDS, HEAD) else train
        arrays, meta = respond(to_tensors(message.params), message.meta)
        flare.send(flare.FLModel(params=arrays, meta=meta))


def _exact(settings: Mapping[str, Any], *, trained: bool) -> Respond:
    party: ExactParty | None = None

    def respond(tensors: dict[str, Sums], meta: Mapping[str, Any]) -> Answer:
        nonlocal party
        weights = tensors.pop(JOINT, None)  # in the first round, if the sites have trained a network
        if trained and party is None and weights is None:
            return to_arrays({}), {"identity": "", "fault": "no joint network, since its process has started anew"}
        joint = party = party or ExactParty(settings, weights)
        if meta["round"] == HEAD:
            head: dict[str, Any] = tensors[HEAD]
            stages = {name: meta[name] for name in ("stages", "again") if name in meta}
            return _written(lambda: joint.write(ExactHead(**head, **meta["figures"]), meta["sites"], **stages))
        answer = joint.answer(meta["round"], tensors)
        return to_arrays({meta["round"]: answer.sums}), {"identity": answer.identity, "fault": answer.fault}

    return respond


def _chain(settings: Mapping[str, Any]) -> Respond:
    party = ChainParty(settings)

    def respond(tensors: dict[str, Sums], meta: Mapping[str, Any]) -> Answer:
        if meta["round"] == WRITE:
            return _written(lambda: party.write(tensors[WRITE], meta["stages"], again=meta["again"]))
        students = [Student(tensors[str(place)], labels) for place, labels in enumerate(meta["labels"])]
        answer = party.answer(students, visit=meta["visit"], again=meta["again"])
        return to_arrays({STAGE: answer.weights}), {"record": answer.record, "fault": answer.fault}

    return respond


def _average(settings: Mapping[str, Any]) -> Respond:
    from monai_weckd.fl.average_party import AverageParty  # here, since MONAI's client is needed for nothing else

    party = AverageParty(settings)

    def respond(tensors: dict[str, Sums], meta: Mapping[str, Any]) -> Answer:
        if meta["round"] == WRITE:
            return _written(lambda: party.write(tensors[WRITE], meta["sites"]))
        answer = party.answer(tensors.get(AVERAGE, {}))
        about = {"fault": answer.fault, "classes": list(answer.classes), "NUM_STEPS_CURRENT_ROUND": answer.steps}
        return to_arrays({AVERAGE: answer.weights}), about

    return respond


def _written(write: Callable[[], None]) -> Answer:
    """Write a model. An error stays in the site's log, because it may name a folder."""
    try:
        write()
    except Exception as error:  # any: the server must learn that this site has no model
        logger.exception("no model was written")
        return to_arrays({}), {"fault": fault_of(error)}
    return to_arrays({}), {"fault": ""}


if __name__ == "__main__":
    main()
