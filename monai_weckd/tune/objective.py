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

"""The objective of a study: train a chain with a trial's values and return its validation metric."""

from __future__ import annotations

from monai_weckd.tune.backend import optuna
from monai_weckd.tune.pruner import TrialPruner
from monai_weckd.tune.space import suggest_values
from monai_weckd.tune.training import TunedBundle

__all__ = ["METRIC", "ChainObjective"]

# user attribute of a trial with the name of the metric
METRIC = "metric"


class ChainObjective:
    """Train a bundle's chain with a trial's values and return the key metric of its last accepted student.

    Args:
        bundle: the bundle.

    """

    def __init__(self, bundle: TunedBundle) -> None:
        self.bundle = bundle

    def __call__(self, trial: optuna.Trial) -> float:
        """Train a chain.

        Args:
            trial: Optuna's trial.

        Raises:
            optuna.TrialPruned: When Optuna stops the trial.
            FloatingPointError: When the loss or the metric is not a finite number.

        """
        config = self.bundle.trial(suggest_values(trial, self.bundle.parameters))
        trainer = config.trainer()
        pruner = TrialPruner(trial, config.value("validate#evaluator"))
        pruner.attach(trainer)
        trainer.run()
        pruner.check()
        record = [record for record in trainer.records if record.accepted][-1]
        trial.set_user_attr(METRIC, record.metric)
        return float(record.value)
