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

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from monai_weckd.engines.state import StageRecord
from monai_weckd.networks.freezing import freeze
from monai_weckd.plan.oracle import LabelOracle

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

    from monai_weckd.engines.walker import StageWalker

__all__ = ["restore_walk", "walk_state"]


def walk_state(walker: StageWalker) -> dict[str, Any]:
    """Return where a chain is at an epoch's end, without what is the network's, the optimizer's or ``fresh``'s.

    Its loader needs no state, since batches are a function of the place in the chain.

    Args:
        walker: the walker of a chain that has begun.

    """
    average, mirror, best = walker.average, walker.mirror, walker.best
    return {
        "plan": walker.plan.to_json(),
        "records": [asdict(record) for record in walker.records],
        "oracle": None if walker.oracle is None else walker.oracle.state_dict(),
        "students": [student.state_dict() for student in walker.students],
        "best": None if best is None else {"value": best[0], "epoch": best[1], "weights": best[2]},
        "average": None if average is None else average.state_dict(),
        "mirror": None if mirror is None else mirror.state_dict(),
        "beginnings": walker.beginnings,
        # stages that begin with their teacher's weights need these no more
        "initial": walker.initial if walker.options.init == "initial" else None,
        "seconds": time.perf_counter() - walker.began,
    }


def restore_walk(walker: StageWalker, engine: SupervisedTrainer, loaded: Mapping[str, Any]) -> None:
    """Put a walker, and what it keeps in ``engine.state``, back to the end of the epoch that the engine has.

    Args:
        walker: the walker of a chain with the same plan, options and data.
        engine: its trainer; the network's own weights are loaded later.
        loaded: from :py:func:`walk_state`.

    """
    state = engine.state
    walker.plan = walker.plan.from_json(loaded["plan"])
    walker.records = [StageRecord(**record) for record in loaded["records"]]
    walker.accepted = next((record for record in reversed(walker.records) if record.accepted), None)
    walker.students = [freeze(engine.network) for _ in loaded["students"]]
    for student, weights in zip(walker.students, loaded["students"], strict=True):
        student.load_state_dict(weights)
    walker.stateful = [engine.optimizer, *walker.fresh]
    walker.beginnings, walker.initial = loaded["beginnings"], loaded["initial"]
    state.stage, state.stage_epoch = walker.locate(state.epoch)
    state.stage_epochs = walker.epochs[state.stage - 1]
    walker.oracle = LabelOracle(walker.items)
    walker.oracle.load_state_dict(loaded["oracle"])
    labeled = walker.plan.stages[state.stage - 1].labeled
    walker.labels = walker.oracle.reveal(labeled, purpose="shard", stage=state.stage)
    walker.set_teacher(engine, walker.labels)
    for name, average in (("average", walker.average), ("mirror", walker.mirror)):
        if average is not None:
            average.load_state_dict(loaded[name])
    best = loaded["best"]
    walker.best = None if best is None else (best["value"], best["epoch"], best["weights"])
    walker.began = time.perf_counter() - loaded["seconds"]
