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

"""Walk a trainer through the stages of a plan."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Events
from monai.engines import IterationEvents
from monai.utils import CommonKeys

from monai_weckd.data.stage_loader import check_loader, training_items
from monai_weckd.engines.alignment import DistributionAlignment
from monai_weckd.engines.distributed import check_same_on_all_ranks, share_weights
from monai_weckd.engines.early_end import EarlyEnd
from monai_weckd.engines.events import ChainEvents
from monai_weckd.engines.gate import StageGate
from monai_weckd.engines.options import ChainOptions
from monai_weckd.engines.schedulers import find_schedulers
from monai_weckd.engines.shard_request import ask_for_shard
from monai_weckd.engines.stage_data import StageData
from monai_weckd.engines.stage_record import StageRecord
from monai_weckd.engines.state import ChainState, Stateful
from monai_weckd.engines.utils import attach_first, check_loss
from monai_weckd.networks.features import unwrap
from monai_weckd.plan.splits import divide_epochs

if TYPE_CHECKING:
    from monai.engines import Evaluator, SupervisedTrainer

    from monai_weckd.engines.averaging import WeightAverage
    from monai_weckd.plan.chain_plan import ChainPlan
    from monai_weckd.plan.oracle import LabelOracle

__all__ = ["StageWalker"]

logger = logging.getLogger(__name__)


class StageWalker:
    """Walk a trainer through the stages of a plan, inside one run.

    All work between two stages happens at the start of an epoch, or at ``Events.COMPLETED`` for the last stage, before
    any other handler. Handlers at the end of an epoch therefore see the network as that epoch left it, and a checkpoint
    saver at the end of the run saves the last accepted student. The trainer's ``state`` holds the walker as ``chain``,
    and needs a :py:class:`~monai_weckd.engines.Distiller` as ``distiller`` when the run starts.

    With several processes, all ranks walk alike: rank 0's metric decides, and rank 0's student is every rank's teacher.

    Args:
        plan: splits and stages; planned again if the trainer's dataset holds other items than the plan.
        options: options of the chain.
        evaluator: measures each student on validation; its key metric chooses the best weights, and the gate uses it.
            Default None: every stage is accepted with the weights of its last epoch.
        fresh: objects that are reset to their first state in every stage; schedulers of the optimizer that handlers
            move are among them in any case.
        first_teacher: teacher of the stages before the first accepted student, default None: none.

    """

    def __init__(
        self,
        plan: ChainPlan,
        options: ChainOptions,
        *,
        evaluator: Evaluator | None = None,
        fresh: Sequence[Stateful] = (),
        first_teacher: torch.nn.Module | None = None,
    ) -> None:
        if first_teacher is not None and options.teaches_itself:
            raise ValueError(
                f"first_teacher: expected None with teacher={options.teacher!r}, which teaches itself, got "
                f"{type(first_teacher).__name__}. Pass teacher='last'."
            )
        self.first_teacher = first_teacher
        self.state = ChainState(plan, options)
        self.gate = StageGate(self.state, evaluator)
        self.options = options
        self.evaluator = self.gate.evaluator
        self.fresh = list(fresh)
        # handlers whose states are part of the chain's state, by name
        self.parts: dict[str, Stateful] = {}
        self._load: Callable[..., None] | None = None
        self._goes_on = False
        self.data = StageData(self.state)

    @property
    def plan(self) -> ChainPlan:
        """The plan in force."""
        return self.state.plan

    @property
    def records(self) -> tuple[StageRecord, ...]:
        """What each stage did, so far."""
        return tuple(self.state.records)

    @property
    def oracle(self) -> LabelOracle | None:
        """The oracle that revealed this run's labels, with its ledger; None before the run."""
        return self.state.oracle

    @property
    def average(self) -> WeightAverage | None:
        """The moving average of the current student's weights, with ``swapped`` while the network holds it."""
        return self.state.average

    @property
    def students(self) -> tuple[torch.nn.Module, ...]:
        """The frozen students that guide, which are the last accepted one or all of an ensemble."""
        return tuple(self.state.students)

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the walker's steps, each before all other handlers of its event."""
        # the data and the plan are checked here, before the first image is opened
        self.state.set_items(training_items(engine.data_loader))
        check_loader(engine.data_loader)
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
        self._handles = [*(attach_first(engine, event, step) for event, step in steps), *self.gate.attach(engine)]
        self._early_end = EarlyEnd(self, engine)

    def detach(self, engine: SupervisedTrainer) -> None:
        """Remove the walker's steps."""
        for handle in self._handles:
            handle.remove()
        self._early_end.close()
        del engine.state.chain
        # otherwise a schedule in a later run would use them
        for name in ("stage", "stage_epoch", "stage_epochs"):
            vars(engine.state).pop(name, None)

    def paused(self, engine: SupervisedTrainer) -> bool:
        """Return whether the run ends before the chain does, so that another run continues the chain."""
        return bool(engine.state.max_epochs < sum(self.epochs))

    def locate(self, epoch: int) -> tuple[int, int]:
        """Return the stage of an epoch of the run, and its number within that stage (all from 1)."""
        for stage, count in enumerate(self.epochs, start=1):
            if epoch <= count:
                return stage, epoch
            epoch -= count
        raise ValueError(f"epoch: expected at most {sum(self.epochs)}, got more. Build a new trainer to go on.")

    def load_state_dict(
        self,
        state_dict: Mapping[str, Any],
        *,
        read_student: Callable[[Any], Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        """When the run starts, continue from a state, after the epoch in the engine's state.

        Args:
            state_dict: from ``ChainState.state_dict``.
            read_student: see ``ChainState.load_state_dict``.

        """
        self._load = partial(self.state.load_state_dict, state_dict, read_student=read_student)

    def keep_beginnings(self, engine: SupervisedTrainer) -> None:
        """Keep the states with which stages begin, after the run's start handlers, which may load weights, are done."""
        self.state.keep_beginnings(unwrap(engine.network), self._stateful(engine))

    def _stateful(self, engine: SupervisedTrainer) -> list[Stateful]:
        return [engine.optimizer, *self.fresh]

    def _check_epochs(self, engine: SupervisedTrainer) -> None:
        if engine.state.max_epochs > sum(self.epochs):
            raise ValueError(
                f"max_epochs: expected at most {sum(self.epochs)}, which the stages share, "
                f"got {engine.state.max_epochs}. Build a new trainer to go on."
            )

    def take_schedulers(self, engine: SupervisedTrainer) -> None:
        """Reset the schedulers that handlers move in each stage, as the optimizer is."""
        engines: list[Any] = [one for one in (engine, self.evaluator) if one is not None]
        for scheduler in find_schedulers(engines, engine.optimizer, known=self.fresh):
            logger.info("fresh: %s begins anew in each stage", type(scheduler).__name__)
            self.fresh.append(scheduler)

    def _begin_run(self, engine: SupervisedTrainer) -> None:
        self._check_epochs(engine)
        self.take_schedulers(engine)
        self.gate.check(engine)
        self._check_findings(engine)
        if self._load is not None:
            self._load(network=unwrap(engine.network))
            self._load, self._goes_on = None, True
            self._set_stage(engine, *self.locate(engine.state.epoch))
            self._set_teacher(engine)
        elif self.oracle is None or engine.state.epoch == 0:
            self._begin_chain(engine)
        elif engine.state.stage:
            self.state.restart_stage()
            self._goes_on = True
        else:
            # between two stages: other code may have changed the last student's weights
            self.state.replace_student(engine.network)

    def _check_findings(self, engine: SupervisedTrainer) -> None:
        """Refuse losses and options that are for one class an image, where an image may show several findings."""
        if not self.plan.findings:
            return
        if not engine.state.distiller.criterion.multilabel:
            raise ValueError(
                "multilabel: expected True for a plan of findings, got False. Pass DistillationLoss(multilabel=True)."
            )
        if self.options.alignment:
            raise ValueError(
                "alignment: expected False for a plan of findings, got True. Their shares are not those of classes."
            )

    def _begin_chain(self, engine: SupervisedTrainer) -> None:
        check_same_on_all_ranks(self.plan)
        self.state.begin()
        engine.state.distiller.teacher = None
        engine.state.stage = 0

    def _begin_epoch(self, engine: SupervisedTrainer) -> None:
        if self.state.over:
            self._skip_rest(engine)
        stage, stage_epoch = self.locate(engine.state.epoch)
        self._check_place(engine, stage, stage_epoch)
        if stage_epoch == 1:
            if engine.state.stage:
                self._end_stage(engine)
            if stage == 1:
                self.keep_beginnings(engine)
            self._begin_stage(engine, stage)
        else:
            self._go_on_with_stage(engine, stage, stage_epoch)
        self._goes_on = False
        self._early_end.begin_epoch()
        engine.state.stage_epoch = stage_epoch
        # dropout draws from torch's global generator: make it a function of the place in the chain as well
        place = np.random.SeedSequence([self.plan.settings.seed, stage, stage_epoch, idist.get_rank()])
        torch.manual_seed(int(place.generate_state(1, np.uint64)[0]))

    def _skip_rest(self, engine: SupervisedTrainer) -> None:
        """Go to the first epoch of the next stage, after a handler has ended the current one."""
        self.state.end_early(over=False)
        last = sum(self.epochs[: engine.state.stage])
        engine.state.epoch, engine.state.iteration = last + 1, last * engine.state.epoch_length

    def _check_place(self, engine: SupervisedTrainer, stage: int, stage_epoch: int) -> None:
        """Refuse an epoch after stages that have not run, to which another handler has moved the engine."""
        present = stage if stage_epoch > 1 else stage - 1
        if len(self.records) + bool(engine.state.stage) != present or (engine.state.stage or present) != present:
            self._refuse_move(engine, engine.state.epoch - 1)

    def _refuse_move(self, engine: SupervisedTrainer, epoch: int) -> None:
        raise ValueError(
            f"epoch: expected a chain that begins, or that ChainCheckpoint resumes, got an engine moved to epoch "
            f"{epoch} of {engine.state.max_epochs} without the chain's teacher, labels and records. Leave the trainer "
            "out of CheckpointLoader's load_dict, or save and resume by ChainCheckpoint(output_dir, resume=True)."
        )

    def _begin_stage(self, engine: SupervisedTrainer, stage: int) -> None:
        network = unwrap(engine.network)
        if self.students:
            network.load_state_dict(self.students[-1].state_dict())
        if self.plan.undrawn == stage:
            self._draw_shard(engine, stage)
        self.state.begin_stage(network, self._stateful(engine))
        self._early_end.begin_stage()
        self._set_stage(engine, stage)
        if stage == 1:
            self.data.try_pool(engine)
        self._set_teacher(engine)
        engine.fire_event(ChainEvents.STAGE_STARTED)
        engine.last_event_name = Events.EPOCH_STARTED  # whose handlers go on
        # last, because it starts the loader's workers, which must see the changes that the event's handlers made
        self._set_data(engine, stage)

    def _go_on_with_stage(self, engine: SupervisedTrainer, stage: int, stage_epoch: int) -> None:
        average = self.state.average
        if average is not None and average.swapped:
            average.swap()
        if self._goes_on or self._early_end.epoch_was_cut:
            # not before the run's other handlers, because it starts the loader's workers
            self._set_data(engine, stage, start=stage_epoch - 1)

    def _set_data(self, engine: SupervisedTrainer, stage: int, *, start: int = 0) -> None:
        engine.set_data(self.data.loader(engine, stage, epochs=self.epochs[stage - 1], start=start))

    def _draw_shard(self, engine: SupervisedTrainer, stage: int) -> None:
        settings = self.plan.settings
        logger.info("stage %d of %d: choosing labels by %s", stage, settings.num_stages, settings.selection)
        ids, asked = ask_for_shard(
            engine,
            self.plan,
            self.state.items,
            stage=stage,
            guided=bool(self.students),
            head_layer=self.options.head_layer,
            stand_in=self.data.trace(engine).stand_in,
        )
        self.state.draw_shard(stage, ids, asked)

    def _set_stage(self, engine: SupervisedTrainer, stage: int, stage_epoch: int | None = None) -> None:
        engine.state.stage, engine.state.stage_epochs = stage, self.epochs[stage - 1]
        if stage_epoch is not None:
            engine.state.stage_epoch = stage_epoch

    def _set_teacher(self, engine: SupervisedTrainer) -> None:
        distiller = engine.state.distiller
        teacher = self.state.make_teacher()
        distiller.teacher = self.first_teacher if teacher is None else teacher
        labels = list(self.state.reveal(engine.state.stage).values())
        if self.options.alignment:
            distiller.alignment = DistributionAlignment([labels.count(c) for c in range(len(self.plan.classes))])

    def _average(self, engine: SupervisedTrainer) -> None:
        if self.state.mirror is not None:
            self.state.mirror.update()
        # MONAI's optimizer steps every ``accumulation_steps`` iterations of an epoch, and in its last iteration
        waits = engine.state.iteration % engine.state.epoch_length % engine.accumulation_steps
        if self.state.average is not None and not waits:
            self.state.average.update()

    def _show_average(self, engine: SupervisedTrainer) -> None:
        """Load the averaged weights into the network until the next epoch begins."""
        if self.state.average is not None:
            self.state.average.swap()

    def _check_loss(self, engine: SupervisedTrainer) -> None:
        self.data.check_target(engine.state.output[CommonKeys.LABEL])
        accepted = self.state.accepted
        check_loss(engine, self.state.items, last_good=f"stage {accepted.stage}" if accepted else "none")

    def _end_stage(self, engine: SupervisedTrainer) -> None:
        if not self.options.teaches_itself:
            engine.state.distiller.check_teacher()
        self.gate.load_best(engine)
        share_weights(unwrap(engine.network))
        record = self.gate.judge(engine)
        engine.fire_event(ChainEvents.STAGE_COMPLETED)
        self._tell_stage(record)
        if record.accepted:
            self.state.add_student(engine.network)

    def _tell_stage(self, record: StageRecord) -> None:
        classes = self.plan.kind.counts(self.state.reveal(record.stage).values())
        stages = self.plan.settings.num_stages
        logger.info("%s", record.summary(stages, classes=classes, out_of_fold=self.state.out_of_fold))

    def _end_run(self, engine: SupervisedTrainer) -> None:
        state = engine.state
        if state.stage and self.paused(engine) and state.stage_epoch < state.stage_epochs:
            return  # another run goes on with this stage
        if state.stage:
            self._end_stage(engine)
            state.stage = 0
        elif state.epoch > 0 and not self.records:
            self._refuse_move(engine, state.epoch)
        self._early_end.tell_stages_left()
        if self.students:
            unwrap(engine.network).load_state_dict(self.students[-1].state_dict())
