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

"""Add one more stage to a chain that an earlier run has finished."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ignite.engine import Events

from monai_weckd.engines.stage_record import StageRecord
from monai_weckd.networks.features import unwrap
from monai_weckd.networks.freezing import freeze
from monai_weckd.utils.files import link_or_copy, load_tensors
from monai_weckd.utils.records import OUT_OF_FOLD, read_sealed

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

__all__ = ["ChainContinuation"]


class ChainContinuation:
    """Add the last stage of a plan to a finished chain of all earlier stages, as soon as its labels exist.

    The last accepted student of the earlier run is the teacher. It is measured again on the current validation items,
    so that the gate compares both students on the same items. Epoch numbers, records and curves continue, and
    :py:class:`~monai_weckd.handlers.ChainRecorder` writes the history of all stages. On the same data, the stage is
    bit-identical to that of one run over all stages. List this handler after the recorder.

    Args:
        previous: output folder of the earlier run, with ``chain.json``, ``history.json`` and its students.

    Raises:
        ValueError: When the folder holds no chain, a damaged one, or one that the plan does not continue.
        ValueError: When its classes, their order or its preprocessing differ, or a student does not match
            ``chain.json``.

    """

    def __init__(self, previous: str | os.PathLike[str]) -> None:
        self.previous = Path(previous)
        if not (self.previous / "chain.json").is_file():
            raise ValueError(
                f"previous: expected the output folder of a chain, got no {self.previous / 'chain.json'}. "
                "Train its stages first."
            )
        self.chain = read_sealed(self.previous / "chain.json", ("classes", "preprocessing", "stages", "ledger"))
        self.epochs = read_sealed(self.previous / "history.json", ("epochs",))["epochs"]

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the handler.

        Args:
            engine: the chain's trainer; its ``max_epochs`` includes the epochs of the earlier stages.

        """
        stages, walker = self.chain["stages"], engine.state.chain
        if len(stages) != walker.plan.settings.num_stages - 1:
            raise ValueError(
                f"previous: expected a chain of {walker.plan.settings.num_stages - 1} stages, one less than the plan, "
                f"got {len(stages)} in {self.previous}. Plan one stage more than it has."
            )
        before, now = [stage["epochs"] for stage in stages], list(walker.epochs[:-1])
        if before != now:
            raise ValueError(
                f"stage_epochs: expected {[stage['epochs'] for stage in stages]} for the stages in {self.previous}, "
                f"got {now}. Pass what these took, and the epochs of the new one."
            )
        self._check_kind("classes", list(walker.plan.classes))
        if "recorder" in walker.parts:
            self._check_kind("preprocessing", walker.parts["recorder"].preprocessing)
        engine.add_event_handler(Events.STARTED, self._begin)

    def _check_kind(self, name: str, found: Any) -> None:
        """Refuse a teacher whose training setup differs from that of the new stage."""
        if self.chain[name] != found:
            raise ValueError(
                f"{name}: expected {self.chain[name]}, as the chain in {self.previous} was trained, got {found}. "
                "Train the stage as those before it."
            )

    def _begin(self, engine: SupervisedTrainer) -> None:
        walker, network = engine.state.chain, unwrap(engine.network)
        walker.keep_beginnings(engine)
        records = [_record(stage) for stage in self.chain["stages"]]
        accepted = [record.stage for record in records if record.accepted]
        students = []
        for stage in accepted if walker.options.teacher == "ensemble" else accepted[-1:]:
            network.load_state_dict(load_tensors(self._student(stage), self.previous / _student_file(stage)))
            students.append(freeze(network))
        walker.state.take_over(records, students, self.chain["ledger"], value=_measure(walker.evaluator))
        if "recorder" in walker.parts:
            recorder = walker.parts["recorder"]
            recorder.load_state_dict({"stages": self.chain["stages"], "epochs": self.epochs})
            self._bring_students(Path(recorder.output_dir))
        place = {name: getattr(engine.state, name) for name in ("epoch_length", "max_epochs")}
        engine.load_state_dict({**place, "iteration": sum(walker.epochs[:-1]) * engine.state.epoch_length})

    def _bring_students(self, output_dir: Path) -> None:
        """Link or copy the earlier students, so that the new folder is self-contained."""
        for stage in range(1, len(self.chain["stages"]) + 1):
            path = output_dir / _student_file(stage)
            path.parent.mkdir(exist_ok=True)
            if not (self.previous / _student_file(stage)).is_file():
                self._student(stage)  # raises
            link_or_copy(self.previous / _student_file(stage), path)
            held_out = self.previous / path.parent.name / OUT_OF_FOLD
            if held_out.is_file():
                link_or_copy(held_out, path.with_name(OUT_OF_FOLD))

    def _student(self, stage: int) -> bytes:
        path = self.previous / _student_file(stage)
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != self.chain["stages"][stage - 1]["sha256"]:
            raise ValueError(
                f"{path}: expected the student that chain.json names, got {'another' if content else 'no'} file. "
                "Restore it from a copy."
            )
        return content


def _student_file(stage: int) -> Path:
    """Return the path at which ChainRecorder stores a student; paths from files are not trusted."""
    return Path(f"stage_{stage}") / "model.pt"


def _record(stage: Mapping[str, Any]) -> StageRecord:
    names = ("stage", "teacher", "labeled", "groups", "pool", "epochs", "best_epoch", "seconds")
    others = ("accepted", "selection", "calibration")
    return StageRecord(**{name: stage[name] for name in (*names, *others)}, **stage["gate"])


def _measure(evaluator: Any) -> float | None:
    if evaluator is None:
        return None
    evaluator.run()
    return float(evaluator.state.metrics[evaluator.state.key_metric_name])
