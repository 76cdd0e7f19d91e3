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

"""A progress bar over a whole chain."""

from __future__ import annotations

from ignite.engine import Events
from monai.engines import Workflow

from monai_weckd.handlers.losses import losses_from_output
from monai_weckd.utils.progress import Progress

__all__ = ["ChainProgressBar"]


class ChainProgressBar:
    """Show the progress of the whole chain: stage, epoch, loss and the last key metric.

    It is a bar if standard error is a terminal and ``tqdm`` is installed, and else a line in the log every ten seconds.
    Ranks other than 0 are silent.

    Args:
        evaluator: validation engine whose key metric is shown, default None.

    """

    def __init__(self, evaluator: Workflow | None = None) -> None:
        self.evaluator = evaluator
        self.progress: Progress | None = None

    def attach(self, engine: Workflow) -> None:
        """Register the handler.

        Args:
            engine: Ignite Engine, it should be a trainer.

        """
        if engine.state.rank > 0:
            return
        engine.add_event_handler(Events.STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        engine.add_event_handler(Events.COMPLETED, self._close)

    def _open(self, engine: Workflow) -> None:
        state = engine.state
        total = state.max_epochs * state.epoch_length
        self.progress = Progress("training", total, unit="steps", done=state.iteration)

    def _step(self, engine: Workflow) -> None:
        assert self.progress is not None
        self.progress.move(engine.state.iteration, lambda: self._note(engine))

    def _note(self, engine: Workflow) -> str:
        state = engine.state
        shown = f"stage {state.stage} epoch {state.stage_epoch}/{state.stage_epochs}"
        shown += f", loss={losses_from_output(state.output)['loss']:.3f}"
        if self.evaluator is not None and self.evaluator.state.metrics:
            name = self.evaluator.state.key_metric_name
            shown += f", {name}={self.evaluator.state.metrics[name]:.3f}"
        return shown

    def _close(self, engine: Workflow) -> None:
        assert self.progress is not None
        self.progress.close()
