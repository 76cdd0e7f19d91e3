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
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from ignite.engine import Events, RemovableEventHandle
from monai.inferers import SimpleInferer

from monai_weckd.engines.calibration import head_parameters
from monai_weckd.engines.distributed import from_rank_zero
from monai_weckd.engines.label_task import Calibration, label_task
from monai_weckd.engines.utils import attach_first, check_metric
from monai_weckd.networks.features import unwrap
from monai_weckd.networks.freezing import predict_logits
from monai_weckd.networks.outputs import taking

if TYPE_CHECKING:
    from monai.engines import Evaluator, SupervisedTrainer

    from monai_weckd.engines.stage_record import StageRecord
    from monai_weckd.engines.state import ChainState

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
        # whether the network holds the average only for the current run of the evaluator
        self._shown = False

    def attach(self, engine: SupervisedTrainer) -> list[RemovableEventHandle]:
        """Measure the student after each run of the evaluator; return the handles that end this when removed.

        Raises:
            ValueError: When the evaluator has no key metric.

        """
        if self.evaluator is None:
            return []
        if self.evaluator.state.key_metric_name is None:
            raise ValueError(
                "evaluator: expected a key_val_metric, by which stages are judged, got none. "
                "Pass it to the evaluator, or no evaluator and accept='always'."
            )
        return [
            attach_first(self.evaluator, Events.STARTED, partial(self._show_average, engine=engine)),
            self.evaluator.add_event_handler(Events.COMPLETED, self._measure, engine),
            self.evaluator.add_event_handler(Events.COMPLETED, self._hide_average),
        ]

    def check(self, engine: SupervisedTrainer) -> None:
        """Refuse an evaluator and a head that cannot measure or calibrate the trained network, before a run.

        Raises:
            ValueError: When the evaluator has another network, or there is no head to calibrate.

        """
        if self.evaluator is None:
            return
        _check_network(self.evaluator, engine.network)
        if self.options.calibrate:
            head_parameters(engine.network, self.options.head_layer)

    def _show_average(self, evaluator: Evaluator, *, engine: SupervisedTrainer) -> None:
        """Validate the average within an epoch as well as at its end."""
        average = self.state.average
        self._shown = average is not None and not average.swapped and bool(engine.state.stage)
        if average is not None and self._shown:
            average.swap()

    def _hide_average(self, evaluator: Evaluator) -> None:
        if self.state.average is not None and self._shown:
            self.state.average.swap()
        self._shown = False

    def _measure(self, evaluator: Evaluator, engine: SupervisedTrainer) -> None:
        """Keep the weights if they are the best of this stage; of equal ones the latest, which trained longest."""
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
        # MONAI's base class has no inferer
        inferer = taking(getattr(self.evaluator, "inferer", SimpleInferer()), engine.state.distiller.output_index)
        loader: Any = self.evaluator.data_loader
        logits, labels = predict_logits(engine.network, loader, engine.state.device, inferer=inferer)
        calibration: Calibration = from_rank_zero(label_task(self.state.plan).calibration(logits, labels))
        tensors = head_parameters(engine.network, self.options.head_layer)
        before = [tensor.detach().clone() for tensor in tensors]
        calibration.of_head(engine.network, self.options.head_layer)
        # checked, because the layer may not be the last operation, or may not use its own weight
        first = next(iter(loader))
        changed, _ = predict_logits(engine.network, [first], engine.state.device, inferer=inferer)
        if _are_close(changed, calibration.of_logits(logits[: len(changed)])):
            return calibration.temperature
        with torch.no_grad():
            for tensor, old in zip(tensors, before, strict=True):
                tensor.copy_(old)
        logger.warning(
            "calibrate: expected logits that are divided with the head, got others in stage %d, which stays "
            "uncalibrated. Name the last linear layer as head_layer, without parametrization or layers behind it.",
            engine.state.stage,
        )
        return 1.0


def _are_close(changed: torch.Tensor, expected: torch.Tensor) -> bool:
    return torch.allclose(changed, expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


def _check_network(evaluator: Evaluator, trained: torch.nn.Module) -> None:
    networks = getattr(evaluator, "networks", None) or [getattr(evaluator, "network", None)]
    found = [unwrap(network) for network in networks if isinstance(network, torch.nn.Module)]
    own, other = _tensors([unwrap(trained)]), _tensors(found)
    # a wrapper around the trained network is accepted, and so is a part of it, but no network with further weights
    if found and not (own <= other or (other and other <= own)):
        raise ValueError(
            "evaluator: expected the trained network, got another, which would be measured instead. "
            "Pass both engines the same object."
        )


def _tensors(networks: Iterable[torch.nn.Module]) -> set[int]:
    return {id(tensor) for network in networks for tensor in (*network.parameters(), *network.buffers())}
