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

"""Predict the costs of a chain at its start, and report them at its end."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ignite.engine import Events
from monai.utils import CommonKeys

from monai_weckd.costs.estimate import estimate_cost
from monai_weckd.costs.probe import peak_bytes, probe_costs
from monai_weckd.data.embedding import EmbeddingDataset

if TYPE_CHECKING:
    from monai.engines import SupervisedTrainer

__all__ = ["CostReporter"]

logger = logging.getLogger(__name__)


class CostReporter:
    """Predict the costs of a chain at its start, and report the actual costs at its end.

    The prediction comes from a probe of a few seconds on copies, which does not change the training in any bit, see
    :py:func:`monai_weckd.costs.probe_costs`. Prediction and report go to the log, and as a dictionary to
    ``engine.state.cost``, where :py:class:`monai_weckd.handlers.ChainRecorder` reads them: list this handler before it.
    The prediction excludes decoding, because all images are decoded before a chain begins. The handler acts on rank 0
    only. It does nothing if heads train on embeddings, because that takes seconds, mostly spent in the engine, which
    the probe does not measure. It also does nothing if a chain takes several runs, because there are waits between
    them.

    Args:
        seconds: time for the probe, default 2.0.

    """

    def __init__(self, seconds: float = 2.0) -> None:
        self.seconds = seconds
        self._loaded: Mapping[str, Any] | None = None

    def attach(self, engine: SupervisedTrainer) -> None:
        """Register the handler.

        Args:
            engine: the chain's trainer.

        """
        loader: Any = engine.data_loader
        if (
            engine.state.rank == 0
            and not engine.state.chain.paused(engine)
            and not isinstance(loader.dataset, EmbeddingDataset)
        ):
            engine.state.chain.parts["cost"] = self
            engine.add_event_handler(Events.STARTED, self._begin)
            engine.add_event_handler(Events.COMPLETED, self._report)

    def state_dict(self) -> dict[str, Any]:
        """Return the prediction and the time that the chain has taken so far."""
        return {"predicted": self.predicted, "seconds": time.perf_counter() - self.began}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore the prediction that was made when the chain began.

        Args:
            state_dict: result of :py:meth:`state_dict`.

        """
        self._loaded = state_dict

    def _begin(self, engine: SupervisedTrainer) -> None:
        passed = 0.0
        if self._loaded is None:
            self.predicted = self._predict(engine)
        else:
            self.predicted, passed, self._loaded = self._loaded["predicted"], self._loaded["seconds"], None
        engine.state.cost = {"predicted": self.predicted}
        self.began = time.perf_counter() - passed

    def _predict(self, engine: SupervisedTrainer) -> dict[str, Any]:
        loader: Any = engine.data_loader
        options = engine.state.chain.options
        costs = probe_costs(
            engine.network,
            engine.optimizer,
            loss_function=engine.state.distiller.criterion,
            image_shape=tuple(loader.dataset[0][CommonKeys.IMAGE].shape),
            num_classes=len(engine.state.chain.plan.classes),
            findings=engine.state.chain.plan.findings,
            prepare_batch=engine.prepare_batch,
            inferer=engine.inferer,
            batch_size=loader.batch_size,
            pool_ratio=options.pool_ratio,
            seconds=self.seconds,
        )
        estimate = estimate_cost(
            engine.state.chain.plan,
            costs,
            max_epochs=int(engine.state.max_epochs or 0),
            epoch_length=int(engine.state.epoch_length or 0),
            views=options.views if engine.state.distiller.teacher_cache else 0,
            stage_epochs=options.stage_epochs,
            batch_size=loader.batch_size,
            pool_ratio=options.pool_ratio,
        )
        logger.info("predicted: %.0f s, %.0f MiB", estimate.total_seconds, estimate.peak_bytes / 2**20)
        return estimate.to_dict()

    def _report(self, engine: SupervisedTrainer) -> None:
        actual: dict[str, Any] = {
            "seconds": [record.seconds for record in engine.state.chain.records],
            "total_seconds": time.perf_counter() - self.began,
            "peak_bytes": peak_bytes(),
        }
        predicted = engine.state.cost["predicted"]
        ratio = actual["total_seconds"] / predicted["total_seconds"]
        engine.state.cost |= {"actual": actual, "ratio": ratio}
        memory = "unknown" if actual["peak_bytes"] is None else f"{actual['peak_bytes'] / 2**20:.0f} MiB"
        logger.info("took: %.0f s (%.2f of the prediction), %s", actual["total_seconds"], ratio, memory)
