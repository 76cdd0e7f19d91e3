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

"""The record of a stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monai_weckd.utils.messages import printable

__all__ = ["StageRecord"]


@dataclass(frozen=True)
class StageRecord:
    """The record of one stage.

    Args:
        stage: stage number, from 1.
        teacher: stage number of the teacher, None for a stage without one.
        labeled: number of labels trained on.
        groups: number of groups that these labels come from.
        pool: number of training items whose labels the stage did not see.
        epochs: number of epochs run.
        best_epoch: epoch of the stage, from 1, whose weights were kept.
        seconds: wall time of the stage, validation included.
        metric: name of the metric that the gate compares.
        value: the metric of the kept weights, None without an evaluator.
        previous: the metric of the last accepted student before it, None if there was none.
        tolerance: how much worse than ``previous`` the metric was allowed to be.
        accepted: whether the student became the teacher of the following stages.
        selection: strategy that chose its shard, see :py:class:`monai_weckd.ChainPlan`.
        calibration: temperature that divided its logits at the end, None without calibration.

    """

    stage: int
    teacher: int | None
    labeled: int
    groups: int
    pool: int
    epochs: int
    best_epoch: int
    seconds: float
    metric: str | None
    value: float | None
    previous: float | None
    tolerance: float
    accepted: bool
    selection: str
    calibration: float | None

    def summary(
        self, stages: int, *, classes: Mapping[str, int] | None = None, out_of_fold: Mapping[str, Any] | None = None
    ) -> str:
        """Return one line on the stage for people.

        Args:
            stages: number of stages of the chain.
            classes: number of labels of each class, default None: not shown. More than ten classes are only counted.
            out_of_fold: metrics by cross-validation, with ``labels`` and ``balanced_accuracy``, or ``findings`` and
                ``macro_auc``, default None: none.

        """
        decision = "accepted" if self.accepted else "rejected"
        measured = ""
        if self.value is not None:
            before = "" if self.previous is None else f"{self.previous:.3f} -> "
            measured = f"{self.metric} {before}{self.value:.3f}, "
        if out_of_fold and out_of_fold.get("balanced_accuracy") is not None:
            part = "" if out_of_fold["labels"] == self.labeled else f" of {out_of_fold['labels']} labels"
            measured += f"balanced accuracy {out_of_fold['balanced_accuracy']:.3f} by cross-validation{part}, "
        elif out_of_fold and out_of_fold.get("findings") and out_of_fold.get("macro_auc") is not None:
            measured += f"macro AUC {out_of_fold['macro_auc']:.3f} by cross-validation, "
        of = ""
        if classes is not None:
            present = {name: count for name, count in classes.items() if count}
            of = f" of {len(present)} classes" if len(present) > 10 else f" ({_listed(present)})"
        return f"stage {self.stage} of {stages} {decision}: {measured}{self.labeled} labels{of}, {self.seconds:.0f} s"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {printable(name)}" for name, count in counts.items())
