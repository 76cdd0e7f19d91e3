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

"""Report validation metrics to an Optuna trial, and stop training when the trial is pruned."""

from __future__ import annotations

import logging
import sys

from ignite.engine import Engine, Events
from monai.engines import Evaluator

from monai_weckd.tune.backend import optuna

__all__ = ["TrialPruner"]


class TrialPruner:
    """Report a training's key metric to an Optuna trial, and stop the training when Optuna prunes the trial.

    After each epoch with a validation, the key metric is reported with the number of the epoch; in a chain, this number
    continues over the stages. A pruned training ends with :py:class:`optuna.TrialPruned`. Ignite would log this as an
    error, so that log line is suppressed. A handler of ``Events.EXCEPTION_RAISED`` may swallow the exception:
    :py:meth:`check` raises it again.

    Attach it after the handler that runs the validation.

    Args:
        trial: Optuna's trial.
        evaluator: the training's validation engine.

    """

    def __init__(self, trial: optuna.trial.BaseTrial, evaluator: Evaluator) -> None:
        self.trial = trial
        self.evaluator = evaluator
        self.pruned_epoch: int | None = None

    def attach(self, engine: Engine) -> None:
        """Register the handler.

        Args:
            engine: Ignite Engine, it should be a trainer.

        """
        engine.logger.addFilter(_is_no_pruning)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Report the metric of the finished epoch.

        Args:
            engine: Ignite Engine, it should be a trainer.

        Raises:
            optuna.TrialPruned: When Optuna prunes the trial.

        """
        state, epoch = self.evaluator.state, engine.state.epoch
        if state.epoch != epoch or not state.metrics:
            return
        self.trial.report(float(state.metrics[state.key_metric_name]), epoch)
        if self.trial.should_prune():
            self.pruned_epoch = epoch
            self.check()

    def check(self) -> None:
        """Raise the pruning exception again if the trial was pruned.

        Raises:
            optuna.TrialPruned: When the trial was pruned.

        """
        if self.pruned_epoch is not None:
            raise optuna.TrialPruned(f"after epoch {self.pruned_epoch}")


def _is_no_pruning(record: logging.LogRecord) -> bool:
    """Return False for the message that Ignite logs when a trial is pruned."""
    return not isinstance(sys.exc_info()[1], optuna.TrialPruned)
