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

"""The state of a chain: its plan, records, students and ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch.optim import Optimizer

from monai_weckd.engines.averaging import WeightAverage
from monai_weckd.engines.stage_record import StageRecord
from monai_weckd.engines.utils import check_groups
from monai_weckd.networks.ensemble import MeanLogits
from monai_weckd.networks.freezing import freeze
from monai_weckd.plan.oracle import LabelOracle, is_labeled
from monai_weckd.plan.planner import replan

if TYPE_CHECKING:
    from monai_weckd.engines.options import ChainOptions
    from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["BestWeights", "ChainState", "Stateful"]


class Stateful(Protocol):
    """An object that can be reset by loading an earlier state, such as a learning rate scheduler."""

    def state_dict(self) -> Any:
        """Return the state."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """Restore a state."""


class BestWeights(NamedTuple):
    """The best weights of a stage so far.

    Args:
        value: their key metric on validation.
        epoch: epoch of the stage, from 1, that they come from.
        weights: parameters and buffers by name.

    """

    value: float
    epoch: int
    weights: Mapping[str, torch.Tensor]


class ChainState:
    """The data of a chain, on which the walker acts and which a checkpoint keeps.

    All code may read its fields, but only its methods change them.

    Args:
        plan: splits and stages.
        options: options of the chain.

    """

    def __init__(self, plan: ChainPlan, options: ChainOptions) -> None:
        self.plan = plan
        self.options = options
        self.items: list[dict[str, Any]] = []
        self.oracle: LabelOracle | None = None
        self._clear()

    def _clear(self) -> None:
        self.records: list[StageRecord] = []
        # the record of the last accepted student; after a continuation, its value was measured anew
        self.accepted: StageRecord | None = None
        self.students: list[torch.nn.Module] = []
        self.best: BestWeights | None = None
        # whether a handler has ended the present stage before its last epoch
        self.over = False
        # metrics of a solved stage, see HeadSolver
        self.out_of_fold: dict[str, Any] | None = None
        # by item id, probabilities of each labeled item from cross-validation; None for an item that was never held out
        self.held_out: dict[str, Any] = {}
        self.average: WeightAverage | None = None
        self.mirror: WeightAverage | None = None
        # the start of every stage: states of the optimizer and the like, and the weights before the first stage
        self.beginnings: list[Any] = []
        self.initial: Any = None
        self.began = time.perf_counter()

    def set_items(self, items: Sequence[dict[str, Any]]) -> None:
        """Set the training items, and plan the stages anew if they are not the items of the plan.

        Args:
            items: the training items in the dataset's order, with ``id`` and ``group``.

        """
        if {item["id"] for item in items} != set(self.plan.train):
            self.plan = replan(self.plan, items)
        self.items = list(items)

    def begin(self) -> None:
        """Reset to the state before the first stage; shards that the plan has drawn are kept."""
        self._clear()
        self.oracle = LabelOracle(self.items, findings=self.plan.findings)
        known = [item["id"] for item in self.items if is_labeled(item)]
        for purpose in self.plan.purposes:
            # planning has read these labels, so the ledger must list them
            self.oracle.reveal(known, purpose=purpose)
        self.oracle.ask(self.plan.asked)

    def keep_beginnings(self, network: torch.nn.Module, stateful: Iterable[Stateful]) -> None:
        """Keep the states with which every stage begins.

        Args:
            network: the network without its wrappers.
            stateful: objects to reset to their present state in every stage, such as the optimizer.

        """
        self.beginnings = [_copy_of(part.state_dict(), part) for part in stateful]
        self.initial = deepcopy(network.state_dict())

    def draw_shard(self, stage: int, ids: Sequence[str], asked: Mapping[str, tuple[int, ...]]) -> None:
        """Make the items that a network has selected the shard of a stage.

        Args:
            stage: stage number, from 1.
            ids: ids of the items.
            asked: places of the findings to ask for by id; empty: the whole labels.

        """
        self.plan = self.plan.draw(stage, ids, asked)
        if self.oracle is not None:
            self.oracle.ask(self.plan.asked)

    def reveal(self, stage: int) -> dict[str, Any]:
        """Reveal the labels of a stage, and return them by item id; the ledger counts them once.

        Args:
            stage: stage number, from 1.

        Raises:
            RuntimeError: When the chain has not begun.

        """
        if self.oracle is None:
            raise RuntimeError("oracle: expected a chain that has begun, got None. Start it by trainer.run().")
        return self.oracle.reveal(self.plan.stages[stage - 1].labeled, purpose="shard", stage=stage)

    def begin_stage(self, network: torch.nn.Module, stateful: Iterable[Stateful]) -> None:
        """Reset network, optimizer and the like for the start of a stage.

        Args:
            network: the network without its wrappers, with the weights of the last student if there is one.
            stateful: objects to reset, in the order of :py:meth:`keep_beginnings`.

        """
        if not self.students or self.options.init == "initial":
            network.load_state_dict(self.initial)
        for part, beginning in zip(stateful, self.beginnings, strict=True):
            state = _copy_of(beginning, part)
            part.load_state_dict(_with_added_groups(state, part) if isinstance(part, Optimizer) else state)
        self._start_averages(network)
        self.best, self.out_of_fold, self.held_out = None, None, {}
        self.began = time.perf_counter()

    def _start_averages(self, network: torch.nn.Module) -> None:
        options = self.options
        self.average = WeightAverage(network, decay=options.averaging) if options.averaging else None
        self.mirror = WeightAverage(network, decay=0.0) if options.teacher == "student" else None

    def restart_stage(self) -> None:
        """Discard the best weights and restart the averages, because other code has set the network's weights."""
        self.best, self.out_of_fold, self.held_out = None, None, {}
        for average in (self.average, self.mirror):
            if average is not None:
                average.restart()

    def end_early(self, *, over: bool = True) -> None:
        """Note whether the present stage ends with the present epoch.

        Args:
            over: whether it does, default True.

        """
        self.over = over

    def make_teacher(self) -> torch.nn.Module | None:
        """Return the teacher of the present stage, or None for a stage without one."""
        if self.mirror is not None:
            return self.mirror.module
        if self.options.teacher == "average" and self.average is not None:
            return self.average.module
        if not self.students:
            return None
        return self.students[-1] if self.options.teacher == "last" else MeanLogits(self.students)

    def keep_best(self, value: float, epoch: int, network: torch.nn.Module) -> None:
        """Keep the network's weights as the best of the stage.

        Args:
            value: their key metric.
            epoch: epoch of the stage, from 1.
            network: the network without its wrappers.

        """
        weights = {key: tensor.detach().clone() for key, tensor in network.state_dict().items()}
        self.best = BestWeights(value, epoch, weights)

    def keep_out_of_fold(self, metrics: Mapping[str, Any], held_out: Mapping[str, Any]) -> None:
        """Keep the metrics of a solved stage on held out labels, and the probabilities themselves.

        Args:
            metrics: the metrics by name, values as for JSON.
            held_out: probabilities of each labeled item when its group was held out, None where its class then had no
                label, by item id; with None in place of those of single findings.

        """
        self.out_of_fold, self.held_out = dict(metrics), dict(held_out)

    def add_record(
        self, stage: int, *, epochs: int, metric: str | None, accepted: bool, calibration: float | None
    ) -> StageRecord:
        """Add the record of a stage, and return it.

        Args:
            stage: stage number, from 1.
            epochs: number of epochs run.
            metric: name of the metric that the gate compares.
            accepted: whether the student becomes the teacher of the following stages.
            calibration: temperature that divided its logits, None without calibration.

        """
        ids = set(self.plan.stages[stage - 1].labeled)
        teacher, best = self.accepted, self.best
        record = StageRecord(
            stage=stage,
            teacher=teacher.stage if teacher else None,
            labeled=len(ids),
            groups=len({item["group"] for item in self.items if item["id"] in ids}),
            pool=len(self.plan.pool(stage)),
            epochs=epochs,
            best_epoch=best.epoch if best else epochs,
            seconds=time.perf_counter() - self.began,
            metric=metric,
            value=best.value if best else None,
            previous=teacher.value if teacher else None,
            tolerance=self.options.tolerance,
            accepted=accepted,
            selection=self.plan.settings.selection,
            calibration=calibration,
        )
        self.records.append(record)
        if accepted:
            self.accepted = record
        return record

    def add_student(self, network: torch.nn.Module) -> None:
        """Add a frozen copy of an accepted student; unless the teacher is an ensemble, drop the earlier ones.

        Args:
            network: the student.

        """
        earlier = self.students if self.options.teacher == "ensemble" else []
        self.students = [*earlier, freeze(network)]

    def replace_student(self, network: torch.nn.Module) -> None:
        """Replace the last student with a frozen copy of a network that has been trained further.

        Args:
            network: the student.

        """
        self.students[-1] = freeze(network)

    def take_over(
        self,
        records: Sequence[StageRecord],
        students: Sequence[torch.nn.Module],
        ledger: Sequence[Mapping[str, Any]],
        *,
        value: float | None,
    ) -> None:
        """Continue the stages of an earlier run in a chain that has just begun.

        Args:
            records: records of the earlier stages.
            students: the accepted students that teach from here on, frozen.
            ledger: the ledger of the earlier run.
            value: the key metric of the last accepted student, measured on the validation items of this run.

        Raises:
            RuntimeError: When the chain has not begun.

        """
        if self.oracle is None:
            raise RuntimeError("oracle: expected a chain that has begun, got None. Take over when the run has started.")
        last = [record for record in records if record.accepted][-1]
        self.records, self.accepted, self.students = list(records), replace(last, value=value), list(students)
        own = self.oracle.state_dict()
        shards = [line for line in ledger if line["purpose"] == "shard"]
        self.oracle.load_state_dict({**own, "ledger": [*shards, *own["ledger"]]})

    def state_dict(self, *, keep_student: Callable[[torch.nn.Module, int], Any] | None = None) -> dict[str, Any]:
        """Return the state of the chain at the end of an epoch, without network, optimizer and ``fresh``.

        The loader needs no state, since batches are a function of the place in the chain.

        Args:
            keep_student: takes a student and its stage and returns what to store, default None: its ``state_dict``.

        """
        keep = keep_student or (lambda student, stage: student.state_dict())
        accepted = [record.stage for record in self.records if record.accepted]
        stages = accepted[len(accepted) - len(self.students) :]
        return {
            "plan": self.plan.to_json(),
            "records": [asdict(record) for record in self.records],
            "oracle": None if self.oracle is None else self.oracle.state_dict(),
            "students": [keep(student, stage) for student, stage in zip(self.students, stages, strict=True)],
            "best": None if self.best is None else self.best._asdict(),
            "out_of_fold": self.out_of_fold,
            "held_out": self.held_out,
            "over": self.over,
            "average": None if self.average is None else self.average.state_dict(),
            "mirror": None if self.mirror is None else self.mirror.state_dict(),
            "beginnings": self.beginnings,
            # stages that begin with their teacher's weights no longer need these
            "initial": self.initial if self.options.init == "initial" else None,
            "seconds": time.perf_counter() - self.began,
        }

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        *,
        network: torch.nn.Module,
        read_student: Callable[[Any], Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        """Restore the state of a chain with the same plan, options and items.

        Args:
            state_dict: result of :py:meth:`state_dict`.
            network: the network without its wrappers; its own weights may be loaded later.
            read_student: returns the weights of a student from what was stored, default None: what was stored.

        """
        self.plan = self.plan.from_json(state_dict["plan"])
        self.records = [StageRecord(**record) for record in state_dict["records"]]
        self.accepted = next((record for record in reversed(self.records) if record.accepted), None)
        self.students = [freeze(network) for _ in state_dict["students"]]
        for student, kept in zip(self.students, state_dict["students"], strict=True):
            student.load_state_dict(read_student(kept) if read_student else kept)
        self.oracle = LabelOracle(self.items, findings=self.plan.findings)
        self.oracle.ask(self.plan.asked)
        self.oracle.load_state_dict(state_dict["oracle"])
        self.best = None if state_dict["best"] is None else BestWeights(**state_dict["best"])
        self.out_of_fold, self.over = state_dict["out_of_fold"], state_dict["over"]
        self.held_out = state_dict["held_out"]
        self._start_averages(network)
        for name, average in (("average", self.average), ("mirror", self.mirror)):
            if average is not None:
                average.load_state_dict(state_dict[name])
        self.beginnings, self.initial = state_dict["beginnings"], state_dict["initial"]
        self.began = time.perf_counter() - state_dict["seconds"]


def _copy_of(state: Any, part: Stateful) -> Any:
    """Copy a state deeply, but not the object whose methods may be in it."""
    return deepcopy(state, {id(part): part})


def _with_added_groups(beginning: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """Return the first state of an optimizer, and behind its parameter groups those that were added on the way."""
    groups = beginning["param_groups"]
    check_groups(optimizer, groups)
    return {**beginning, "param_groups": [*groups, *optimizer.state_dict()["param_groups"][len(groups) :]]}
