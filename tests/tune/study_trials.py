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

import optuna

from monai_weckd.tune.counts import DIVERGED, OWN_VALUES

STATE = optuna.trial.TrialState


RATE = {"learning_rate": optuna.distributions.FloatDistribution(1e-5, 1e-2, log=True)}


def make_trials(*rows):
    """Return trials from (state, value, user attributes)."""
    study = optuna.create_study(direction="maximize")
    for number, (state, value, attributes) in enumerate(rows, 1):
        study.add_trial(
            optuna.create_trial(
                state=state,
                value=value,
                params={"learning_rate": number * 1e-4},
                distributions=RATE,
                user_attrs=attributes,
                intermediate_values={3: 0.5} if state in (STATE.COMPLETE, STATE.PRUNED) else {},
            )
        )
    return study.trials


TRIALS = make_trials(
    (STATE.COMPLETE, 0.7, {OWN_VALUES: True}),
    (STATE.COMPLETE, 0.8, {}),
    (STATE.PRUNED, 0.9, {}),
    (STATE.FAIL, None, {DIVERGED: "loss: nan"}),
    (STATE.FAIL, None, {}),
    (STATE.COMPLETE, 0.8, {}),
    (STATE.WAITING, None, {}),
)
