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

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from ignite.engine import Events
from monai.engines import IterationEvents
from monai.inferers import SimpleInferer

from monai_weckd.data.stage_loader import stage_loader, training_items
from monai_weckd.engines.alignment import DistributionAlignment
from monai_weckd.engines.averaging import WeightAverage
from monai_weckd.engines.calibration import divide_logits, fit_temperature
from monai_weckd.engines.distributed import check_same_on_all_ranks, of_rank_0, share_weights
from monai_weckd.engines.events import ChainEvents
from monai_weckd.engines.options import ChainOptions
from monai_weckd.engines.resuming import restore_walk, walk_state
from monai_weckd.engines.shard_request import ask_for_shard
from monai_weckd.engines.state import StageRecord, Stateful
from monai_weckd.engines.utils import attach_first, check_loss, check_metric
from monai_weckd.networks.ensemble import MeanLogits
from monai_weckd.networks.features import unwrap
from monai_weckd.networks.freezing import freeze, predict_logits
from monai_weckd.plan.oracle import LabelOracle, is_labeled
from monai_weckd.plan.planner import replan
from monai_weckd.plan.splits import divide_epochs

if TYPE_CHECKING:
    from monai.engines import Evaluator, SupervisedTrainer

    from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["StageWalker"]

logger = logging.getLogger(__name__)


class StageWalker:
    """Walk a trainer through the stages of a plan, inside one run.

    All work between two stages happens at the start of an epoch, or of ``Events.COMPLETED`` for the last stage,
    before any other handler: whoever listens to an epoch's end still sees the network as that epoch left it, and a
    checkpoint saver at the run's end saves the last accepted student. The trainer's ``state`` holds the walker as
    ``chain`` and needs a :py:class:`~monai_weckd.engines.Distiller` as ``distiller`` when the run starts.

    With several processes all ranks take the same walk: rank 0's metric decides, and its student is everyone's teacher.

    Args:
        plan: who sees what when; re-derived if the trainer's dataset holds other items than the plan's.
        options: how to go from stage to stage.
        evaluator: measures each student on validation; its key metric chooses the best weights and feeds the gate.
        fresh: objects that begin each stage as they began the first, such as the learning rate scheduler.

    """

    def __init__(
        self,
        plan: ChainPlan,
        options: ChainOptions,
        *,
        evaluator: Evaluator | None = None,
        fresh: Sequence[Stateful] = (),
    ) -> None:
        if evaluator is None and (options.accept == "improves" or options.calibrate):
            what, instead = (
                ("accept='improves'", "accept='always'")
                if options.accept == "improves"
                else ("calibrate=True", "calibrate=False")
            )
            raise ValueError(
                f"evaluator: expected one for {what}, got None. Pass the validation evaluator, or {instead}."
            )
        self.plan = plan
        self.options = options
        self.evaluator = evaluator
        self.fresh = list(fresh)
        self.records: list[StageRecord] = []
        self.oracle: LabelOracle | None = None
        self.items: list[dict[str, Any]] = []
        self.accepted: StageRecord | None = None
        self.students: list[torch.nn.Module] = []
        self.labels: Mapping[str, int] = {}
        self.best: tuple[float, int, Mapping[str, torch.Tensor]] | None = None
        self.average: WeightAverage | None = None
        self.mirror: WeightAverage | None = None
        # of handlers whose states belong to the chain's, by name
        self.parts: dict[str, Stateful] = {}
        self._loaded: Mapping[str, Any] | None = None
        self._goes_on = False

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the walk's steps, each before whatever else is registered for its event."""
        # the data and the plan are checked here, before the first image is opened
        items = training_items(engine.data_loader)
        if {item["id"] for item in items} != set(self.plan.train):
            self.plan = replan(self.plan, items)
        self.items = items
        total = engine.state.max_epochs if self.options.chain_epochs is None else self.options.chain_epochs
        self.epochs = divide_epochs(total, self.plan.settings.num_stages, self.options.stage_epochs)
        self._check_epochs(engine)
        engine.state.chain = self
        steps: list[tuple[Any, Callable]] = [
            (Events.STARTED, self._begin_run),
            (Events.EPOCH_STARTED, self._begin_epoch),
            (IterationEvents.LOSS_COMPLETED, self._check_loss),
            (Events.COMPLETED, self._end_run),
        ]
        if self.options.averaging or self.options.teaches_itself:
            steps.append((Events.ITERATION_COMPLETED, self._average))
        if self.options.averaging:
            steps.append((Events.EPOCH_COMPLETED, self._show_average))
        self._handles = [attach_first(engine, event, step) for event, step in steps]
        if self.evaluator is not None:
            self._handles.append(self.evaluator.add_event_handler(Events.COMPLETED, self._measure, engine))

    def detach(self, engine: SupervisedTrainer) -> None:
        """Take the walk's steps away again."""
        for handle in self._handles:
            handle.remove()
        del engine.state.chain
        # a schedule in a later run would take them for its own
        for name in ("stage", "stage_epoch", "stage_epochs"):
            vars(engine.state).pop(name, None)

    def paused(self, engine: SupervisedTrainer) -> bool:
        """Return whether the run ends before the chain does, which another run goes on with."""
        return bool(engine.state.max_epochs < sum(self.epochs))

    def _check_epochs(self, engine: SupervisedTrainer) -> None:
        if engine.state.max_epochs > sum(self.epochs):
            raise ValueError(
                f"max_epochs: expected at most {sum(self.epochs)}, which the stages share, "
                f"got {engine.state.max_epochs}. Build a new trainer to go on."
            )

    def _begin_run(self, engine: SupervisedTrainer) -> None:
        self._check_epochs(engine)
        if self._loaded is not None:
            restore_walk(self, engine, self._loaded)
            self._loaded, self._goes_on = None, True
        elif self.oracle is None or engine.state.epoch == 0:
            self._begin_chain(engine)
        else:
            self._resume(engine)

    def _resume(self, engine: SupervisedTrainer) -> None:
        """Go on where the run before stopped, with the weights that the network has now."""
        stage = engine.state.stage
        if not stage:
            # between two stages: these weights are what the last student has become meanwhile
            self.students[-1] = freeze(engine.network)
            return
        self.best = None
        for average in (self.average, self.mirror):
            if average is not None:
                average.restart()
        self._goes_on = True

    def state_dict(self) -> dict[str, Any]:
        """Return where the chain is at an epoch's end."""
        return walk_state(self)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on from a state when the run starts, after the epoch that the engine has by then.

        Args:
            state_dict: from :py:meth:`state_dict`.

        """
        self._loaded = state_dict

    def _begin_chain(self, engine: SupervisedTrainer) -> None:
        check_same_on_all_ranks(self.plan)
        self.oracle = LabelOracle(self.items)
        if self.plan.settings.stratify:
            # the plan was drawn class by class, which has read these labels: the ledger says so
            known = [item["id"] for item in self.items if is_labeled(item)]
            self.oracle.reveal(known, purpose="stratification")
        self.records, self.accepted, self.students = [], None, []
        self.average = self.mirror = None
        engine.state.distiller.teacher = None
        engine.state.stage = 0

    def _begin_epoch(self, engine: SupervisedTrainer) -> None:
        stage, stage_epoch = self.locate(engine.state.epoch)
        if stage_epoch == 1:
            if engine.state.stage:
                self._end_stage(engine)
            if stage == 1:
                self.keep_beginnings(engine)
            self._begin_stage(engine, stage)
        else:
            if self.average is not None and self.average.swapped:
                self.average.swap()
            if self._goes_on:
                # not before the run's other handlers, since it starts a loader's workers
                engine.set_data(self._loader(engine, stage, self.labels, start=stage_epoch - 1))
        self._goes_on = False
        engine.state.stage_epoch = stage_epoch
        rank = dist.get_rank() if dist.is_initialized() else 0
        # dropout draws from torch's own generator: make it, too, a function of the place in the chain
        place = np.random.SeedSequence([self.plan.settings.seed, stage, stage_epoch, rank])
        torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))

    def keep_beginnings(self, engine: SupervisedTrainer) -> None:
        """Keep what stages begin with, once the handlers of the run's start, such as a loader of weights, are done."""
        self.stateful: list[Stateful] = [engine.optimizer, *self.fresh]
        self.beginnings = [deepcopy(part.state_dict()) for part in self.stateful]
        self.initial = deepcopy(unwrap(engine.network).state_dict())

    def locate(self, epoch: int) -> tuple[int, int]:
        """Return the stage, and the epoch within it, of an epoch of the run (all from 1)."""
        for stage, count in enumerate(self.epochs, start=1):
            if epoch <= count:
                return stage, epoch
            epoch -= count
        raise ValueError(f"epoch: expected at most {sum(self.epochs)}, got more. Build a new trainer to go on.")

    def _begin_stage(self, engine: SupervisedTrainer, stage: int) -> None:
        state, network = engine.state, unwrap(engine.network)
        if self.oracle is None:
            raise RuntimeError("oracle: expected a chain that has begun, got None. Start it by trainer.run().")
        if self.students:
            network.load_state_dict(self.students[-1].state_dict())
        if self.plan.undrawn == stage:
            asked = ask_for_shard(
                engine,
                self.plan,
                self.items,
                stage=stage,
                guided=bool(self.students),
                head_layer=self.options.head_layer,
            )
            self.plan = self.plan.draw(stage, asked)
        self.labels = self.oracle.reveal(self.plan.stages[stage - 1].labeled, purpose="shard", stage=stage)
        if not self.students or self.options.init == "initial":
            network.load_state_dict(self.initial)
        for part, beginning in zip(self.stateful, self.beginnings, strict=True):
            part.load_state_dict(deepcopy(beginning))
        self.set_teacher(engine, self.labels)
        state.stage, state.stage_epochs = stage, self.epochs[stage - 1]
        self.best = None
        self.began = time.perf_counter()
        engine.fire_event(ChainEvents.STAGE_STARTED)
        # last, since it starts a loader's workers: with the datasets as the handlers of the event have left them
        engine.set_data(self._loader(engine, stage, self.labels))

    def _loader(self, engine: SupervisedTrainer, stage: int, labels: Mapping[str, int], *, start: int = 0) -> Any:
        """Return the loader of a stage, from the epoch on before which ``start`` have passed."""
        place = {item["id"]: index for index, item in enumerate(self.items)}
        return stage_loader(
            engine.data_loader,
            labels={place[key]: label for key, label in labels.items()},
            pool=[place[key] for key in self.plan.pool(stage)],
            # there is nobody to guide on the pool in a stage without a teacher
            pool_ratio=self.options.pool_ratio if engine.state.distiller.teacher is not None else 0,
            num_batches=self.epochs[stage - 1] * engine.state.epoch_length,
            seed=self.plan.settings.seed,
            stage=stage,
            views=self.options.views,
            start=start * engine.state.epoch_length,
        )

    def set_teacher(self, engine: SupervisedTrainer, labels: Mapping[str, int]) -> None:
        """Set who guides through a stage, as its students, options and labels have it."""
        options = self.options
        self.average = WeightAverage(engine.network, decay=options.averaging) if options.averaging else None
        self.mirror = WeightAverage(engine.network, decay=0.0) if options.teacher == "student" else None
        teacher: torch.nn.Module | None = None
        if self.mirror is not None:
            teacher = self.mirror.module
        elif options.teacher == "average" and self.average is not None:
            teacher = self.average.module
        elif self.students:
            teacher = self.students[-1] if options.teacher == "last" else MeanLogits(self.students)
        engine.state.distiller.teacher = teacher
        if options.alignment:
            counts = [list(labels.values()).count(label) for label in range(len(self.plan.classes))]
            engine.state.distiller.alignment = DistributionAlignment(counts)

    def _average(self, engine: SupervisedTrainer) -> None:
        if self.mirror is not None:
            self.mirror.update()
        # MONAI's optimizer steps once in so many iterations of an epoch, and in its last
        waits = engine.state.iteration % engine.state.epoch_length % engine.accumulation_steps
        if self.average is not None and not waits:
            self.average.update()

    def _show_average(self, engine: SupervisedTrainer) -> None:
        """Put the averaged weights into the network, until the next epoch begins."""
        if self.average is not None:
            self.average.swap()

    def _check_loss(self, engine: SupervisedTrainer) -> None:
        check_loss(engine, self.items, last_good=f"stage {self.accepted.stage}" if self.accepted else "none")

    def _measure(self, evaluator: Evaluator, engine: SupervisedTrainer) -> None:
        """Keep the weights if they are the best of this stage; of equals the latest, which has trained longest."""
        if not engine.state.stage:
            return
        value = of_rank_0(float(evaluator.state.metrics[evaluator.state.key_metric_name]))
        check_metric(evaluator.state.key_metric_name, value)
        if self.best is None or not evaluator.metric_cmp_fn(self.best[0], value):
            weights = {key: tensor.detach().clone() for key, tensor in unwrap(engine.network).state_dict().items()}
            self.best = (value, engine.state.stage_epoch, weights)

    def _end_stage(self, engine: SupervisedTrainer) -> None:
        if not self.options.teaches_itself:
            engine.state.distiller.check_teacher()
        if self.best is None and self.evaluator is not None:
            self.evaluator.run()
        value, best_epoch = None, engine.state.stage_epoch
        if self.best is not None:
            value, best_epoch, weights = self.best
            unwrap(engine.network).load_state_dict(weights)
        share_weights(unwrap(engine.network))
        record = self._record(engine, value, best_epoch)
        self.records.append(record)
        if record.accepted:
            self.accepted = record
        engine.fire_event(ChainEvents.STAGE_COMPLETED)
        logger.info("stage %d %s: %s", record.stage, "accepted" if record.accepted else "rejected", record)
        if record.accepted:
            earlier = self.students if self.options.teacher == "ensemble" else []
            self.students = [*earlier, freeze(engine.network)]

    def _calibrate(self, engine: SupervisedTrainer) -> float | None:
        if not self.options.calibrate or self.evaluator is None:
            return None
        found = predict_logits(
            engine.network,
            self.evaluator.data_loader,
            engine.state.device,
            # MONAI's base class has none
            inferer=getattr(self.evaluator, "inferer", SimpleInferer()),
        )
        temperature = of_rank_0(fit_temperature(*found))
        divide_logits(engine.network, temperature, head_layer=self.options.head_layer)
        return temperature

    def _accepts(self, value: float | None, previous: float | None) -> bool:
        if self.options.accept == "always" or self.evaluator is None or value is None or previous is None:
            return True
        better = self.evaluator.metric_cmp_fn
        tolerance = self.options.tolerance if better(1.0, 0.0) else -self.options.tolerance  # less may be better
        return not better(previous - tolerance, value)

    def _record(self, engine: SupervisedTrainer, value: float | None, best_epoch: int) -> StageRecord:
        stage, last = engine.state.stage, self.accepted
        previous = last.value if last else None
        accepted = self._accepts(value, previous)
        calibration = self._calibrate(engine) if accepted else None
        ids = set(self.plan.stages[stage - 1].labeled)
        return StageRecord(
            stage=stage,
            teacher=last.stage if last else None,
            labeled=len(ids),
            groups=len({item["group"] for item in self.items if item["id"] in ids}),
            pool=len(self.plan.pool(stage)),
            epochs=engine.state.stage_epoch,
            best_epoch=best_epoch,
            seconds=time.perf_counter() - self.began,
            metric=self.evaluator.state.key_metric_name if self.evaluator is not None else None,
            value=value,
            previous=previous,
            tolerance=self.options.tolerance,
            accepted=accepted,
            selection=self.plan.settings.selection,
            calibration=calibration,
        )

    def _end_run(self, engine: SupervisedTrainer) -> None:
        state = engine.state
        if state.stage and self.paused(engine) and state.stage_epoch < state.stage_epochs:
            return  # another run goes on with this stage
        if state.stage:
            self._end_stage(engine)
            state.stage = 0
        if self.students:
            unwrap(engine.network).load_state_dict(self.students[-1].state_dict())
