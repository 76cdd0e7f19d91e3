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

"""End a stage, and not the chain, where a handler terminates the training."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping, TimeLimit
from monai.handlers import EarlyStopHandler

from monai_weckd.engines.events import ChainEvents

if TYPE_CHECKING:
    from monai.engines import Evaluator, SupervisedTrainer

    from monai_weckd.engines.stage_record import StageRecord
    from monai_weckd.engines.state import ChainState

__all__ = ["EarlyEnd", "handlers_of"]

logger = logging.getLogger(__name__)

# between two stages there is none to end
_BETWEEN = frozenset({Events.STARTED, Events.COMPLETED, Events.TERMINATE, *ChainEvents})


class Stages(Protocol):
    """What :py:class:`EarlyEnd` needs to know about the stages."""

    state: ChainState
    evaluator: Evaluator | None

    @property
    def epochs(self) -> Sequence[int]:
        """Epochs of each stage."""

    @property
    def records(self) -> tuple[StageRecord, ...]:
        """Records of the stages so far."""

    def paused(self, engine: SupervisedTrainer) -> bool:
        """Return whether the run ends before the chain does, so that another run continues the chain."""


class EarlyEnd:
    """Give ``terminate()`` of a chain's trainer the meaning that it has in a training of one stage.

    A handler such as MONAI's ``EarlyStopHandler`` then ends the current stage; the chain goes on with the next one, in
    which the handler starts counting again. These still end the run: the last stage,
    ``terminate(skip_completed=True)``, an output that is not finite, and a ``TimeLimit`` that has passed. An epoch that
    ends early does not shift the batches of later ones.

    Args:
        walker: walks through the stages.
        engine: the chain's trainer; its ``terminate`` is replaced until :py:meth:`close`.

    """

    def __init__(self, walker: Stages, engine: SupervisedTrainer) -> None:
        self.walker = walker
        self.engine = engine
        self.epoch_was_cut = False
        vars(engine)["terminate"] = self.terminate
        self._handle = engine.add_event_handler(Events.TERMINATE_SINGLE_EPOCH, self._cut_epoch)

    def close(self) -> None:
        """Restore the trainer's own ``terminate``."""
        self._handle.remove()
        vars(self.engine).pop("terminate", None)

    def terminate(self, skip_completed: bool = False) -> None:
        """End the current stage, or the whole run.

        Args:
            skip_completed: see :py:meth:`ignite.engine.Engine.terminate`; True always ends the run.

        """
        engine, state = self.engine, self.engine.state
        if skip_completed or not state.stage or self._ends_run():
            Engine.terminate(engine, skip_completed)
            return
        if not self.walker.state.over:
            logger.info(
                "stage %d of %d ends early, in its epoch %d of %d: a handler has terminated it; the next stage follows",
                state.stage,
                len(self.walker.epochs),
                state.stage_epoch,
                state.stage_epochs,
            )
        self.walker.state.end_early()
        if engine.last_event_name == Events.EPOCH_STARTED:
            # Ignite cuts no epoch short before it has begun
            self._later = engine.add_event_handler(Events.GET_BATCH_STARTED, self._cut_late)
        elif engine.last_event_name != Events.EPOCH_COMPLETED:
            engine.terminate_epoch()

    def _cut_late(self, engine: SupervisedTrainer) -> None:
        self._later.remove()
        engine.terminate_epoch()

    def _ends_run(self) -> bool:
        engine, state = self.engine, self.engine.state
        if not _is_finite(state.output):
            logger.error("stage %d: a handler ends the chain, because an output is not finite", state.stage)
            return True
        last = state.stage == len(self.walker.epochs) or self.walker.paused(engine)
        return last or engine.last_event_name in _BETWEEN or any(map(_has_passed, self._handlers()))

    def begin_stage(self) -> None:
        """Let handlers that stop early start counting again."""
        for found in self._handlers():
            stopping = found._handler if isinstance(found, EarlyStopHandler) else found
            if isinstance(stopping, EarlyStopping):
                stopping.counter, stopping.best_score = 0, None

    def begin_epoch(self) -> None:
        """Forget that the previous epoch was cut short."""
        self.epoch_was_cut = False

    def tell_stages_left(self) -> None:
        """Log which stages have not run, when a run ends before its chain does."""
        count, done = len(self.walker.epochs), len(self.walker.records)
        if done < count and not self.walker.paused(self.engine):
            logger.warning("the run ended after stage %d of %d; the stages after it did not run", done, count)

    def _cut_epoch(self, engine: SupervisedTrainer, iter_counter: int = 0) -> None:
        self.epoch_was_cut = True
        state = engine.state
        state.iteration = state.epoch * state.epoch_length

    def _handlers(self) -> Iterator[Any]:
        yield from handlers_of(self.engine)
        if self.walker.evaluator is not None:
            yield from handlers_of(self.walker.evaluator)


def _has_passed(handler: Any) -> bool:
    if not isinstance(handler, TimeLimit) or handler.limit_sec is None:
        return False
    return time.time() - handler.start_time > handler.limit_sec


def handlers_of(engine: Engine) -> Iterator[Any]:
    """Yield the objects that handle events of an engine, themselves or by a method.

    Args:
        engine: Ignite Engine.

    """
    for added in engine._event_handlers.values():  # Ignite has no public access to this
        for handler, _, _ in added:
            # Ignite wraps a handler of a filtered event
            parent = getattr(handler, "_parent", None)
            handler = handler if parent is None else parent()
            yield getattr(handler, "__self__", handler)


def _is_finite(output: Any) -> bool:
    if isinstance(output, torch.Tensor):
        return not output.is_floating_point() or bool(output.detach().isfinite().all())
    parts: Iterable[Any] = output.values() if isinstance(output, Mapping) else output
    return not isinstance(output, Mapping | list | tuple) or all(_is_finite(part) for part in parts)
