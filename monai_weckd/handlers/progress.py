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

from typing import Any

from ignite.engine import Events
from monai.engines import Workflow
from monai.utils import optional_import

from monai_weckd.handlers.losses import losses_from_output

tqdm, _ = optional_import("tqdm", name="tqdm")

__all__ = ["ChainProgressBar"]


class ChainProgressBar:
    """Show one progress bar over the whole chain: stage, epoch, loss and the last key metric.

    The bar is silent if standard error is not a terminal, and on all ranks but 0. It needs ``tqdm``.

    Args:
        evaluator: validation engine whose key metric is shown, default None.

    """

    def __init__(self, evaluator: Workflow | None = None) -> None:
        self.evaluator = evaluator
        self.bar: Any = None

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
        # disable=None makes tqdm silent without a terminal
        self.bar = tqdm(total=state.max_epochs * state.epoch_length, initial=state.iteration, disable=None, unit="step")

    def _step(self, engine: Workflow) -> None:
        state = engine.state
        self.bar.set_description(f"stage {state.stage} epoch {state.stage_epoch}/{state.stage_epochs}", refresh=False)
        shown = {"loss": f"{losses_from_output(state.output)['loss']:.3f}"}
        if self.evaluator is not None and self.evaluator.state.metrics:
            name = self.evaluator.state.key_metric_name
            shown[name] = f"{self.evaluator.state.metrics[name]:.3f}"
        self.bar.set_postfix(shown, refresh=False)
        self.bar.update()

    def _close(self, engine: Workflow) -> None:
        self.bar.close()
