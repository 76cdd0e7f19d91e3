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

import optuna
import pytest
from tuned_bundles import VALUES

from monai_weckd.bundle import BundleConfig
from monai_weckd.tune.objective import METRIC, ChainObjective


def test_the_value_is_that_of_the_last_accepted_student(make, monkeypatch):
    trainers = []
    # calibration, which follows, moves probabilities and with them the metric
    bundle = make(changes={"chain#calibrate": False})
    genuine = BundleConfig.trainer

    def keep(config):
        trainers.append(genuine(config))
        return trainers[-1]

    monkeypatch.setattr(BundleConfig, "trainer", keep)
    trial = optuna.trial.FixedTrial(VALUES)
    value = ChainObjective(bundle)(trial)
    [trainer] = trainers
    evaluator = trainer.walker.evaluator
    evaluator.run()
    assert evaluator.state.metrics["val_macro_auc"] == pytest.approx(value, abs=1e-6)
    assert trial.user_attrs[METRIC] == "val_macro_auc"


def test_trials_report_every_epoch_and_can_be_pruned(make, caplog):
    class Third(optuna.pruners.BasePruner):
        def prune(self, study, trial):
            return trial.last_step == 3

    study = optuna.create_study(pruner=Third(), direction="maximize")
    study.enqueue_trial(VALUES)
    with caplog.at_level(logging.ERROR):
        study.optimize(ChainObjective(make()), n_trials=1)
    [trial] = study.trials
    assert trial.state == optuna.trial.TrialState.PRUNED
    assert list(trial.intermediate_values) == [1, 2, 3]
    assert not [record for record in caplog.records if record.name.startswith("ignite")]


def test_a_metric_that_is_no_number_fails_the_trial(make):
    changes = {
        "validate#key_metric": {
            "val_nan": {"_target_": "ignite.metrics.Average", "output_transform": "$lambda x: float('nan')"}
        }
    }
    with pytest.raises(FloatingPointError, match=r"val_nan: expected a finite number on validation, got nan"):
        ChainObjective(make(changes=changes))(optuna.trial.FixedTrial(VALUES))
