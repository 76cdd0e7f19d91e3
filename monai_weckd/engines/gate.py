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

"""The gate at the end of a stage: keep the best weights, then accept or reject the student."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ignite.engine import Events, RemovableEventHandle
from monai.inferers import SimpleInferer

from monai_weckd.engines.calibration import divide_logits, fit_temperature
from monai_weckd.engines.distributed import from_rank_zero
from monai_weckd.engines.utils import check_metric
from monai_weckd.networks.features import unwrap
from monai_weckd.networks.freezing import predict_logits

if TYPE_CHECKING:
    from monai.engines import Evaluator, SupervisedTrainer

    from monai_weckd.engines.state import ChainState, StageRecord

__all__ = ["StageGate"]

logger = logging.getLogger(__name__)


class StageGate:
    """Measure students on validation: keep the best weights of each stage, and decide whether they become a teacher.

    Args:
        state: state of the chain.
        evaluator: the validation engine with the key metric; None, or one whose loader has no items, accepts every
            stage with the weights of its last epoch, without calibration.

    """

    def __init__(self, state: ChainState, evaluator: Evaluator | None) -> None:
        # MONAI skips the run of an evaluator without items
        if evaluator is None or evaluator.state.epoch_length == 0:
            logger.info("no validation: every stage is accepted with the weights of its last epoch")
            evaluator = None
        self.state = state
        self.options = state.options
        self.evaluator = evaluator

    def attach(self, engine: SupervisedTrainer) -> list[RemovableEventHandle]:
        """Measure the student after each run of the evaluator; return the handles that end this when removed."""
        if self.evaluator is None:
            return []
        return [self.evaluator.add_event_handler(Events.COMPLETED, self._measure, engine)]

    def _measure(self, evaluator: Evaluator, engine: SupervisedTrainer) -> None:
        """Keep the weights if they are the best of this stage; among equals the latest, which trained longest."""
        if not engine.state.stage:
            return
        value = from_rank_zero(float(evaluator.state.metrics[evaluator.state.key_metric_name]))
        check_metric(evaluator.state.key_metric_name, value)
        best = self.state.best
        if best is None or not evaluator.metric_cmp_fn(best.value, value):
            self.state.keep_best(value, engine.state.stage_epoch, unwrap(engine.network))

    def load_best(self, engine: SupervisedTrainer) -> None:
        """Load the best weights of the stage into the network; run the evaluator first if it has not run yet."""
        if self.state.best is None and self.evaluator is not None:
            self.evaluator.run()
        if self.state.best is not None:
            unwrap(engine.network).load_state_dict(self.state.best.weights)

    def judge(self, engine: SupervisedTrainer) -> StageRecord:
        """Accept or reject the student of a stage, calibrate an accepted one, and record the stage."""
        accepted = self._accepts()
        return self.state.add_record(
            engine.state.stage,
            epochs=engine.state.stage_epoch,
            metric=self.evaluator.state.key_metric_name if self.evaluator is not None else None,
            accepted=accepted,
            calibration=self._calibrate(engine) if accepted else None,
        )

    def _accepts(self) -> bool:
        value = self.state.best.value if self.state.best else None
        previous = self.state.accepted.value if self.state.accepted else None
        if self.options.accept == "always" or self.evaluator is None or value is None or previous is None:
            return True
        better = self.evaluator.metric_cmp_fn
        tolerance = self.options.tolerance if better(1.0, 0.0) else -self.options.tolerance  # less may be better
        return not better(previous - tolerance, value)

    def _calibrate(self, engine: SupervisedTrainer) -> float | None:
        if not self.options.calibrate or self.evaluator is None:
            return None
        logits, labels = predict_logits(
            engine.network,
            self.evaluator.data_loader,
            engine.state.device,
            # MONAI's base class has no inferer
            inferer=getattr(self.evaluator, "inferer", SimpleInferer()),
        )
        temperature = from_rank_zero(fit_temperature(logits, labels))
        divide_logits(engine.network, temperature, head_layer=self.options.head_layer)
        return temperature
