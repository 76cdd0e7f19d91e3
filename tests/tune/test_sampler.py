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

import math

import optuna
import pytest

from monai_weckd.tune.sampler import PlacedSampler
from monai_weckd.tune.space import parse_parameters, suggest_values

PARAMETERS = parse_parameters("learning_rate,distillation_weight,pool_ratio")


def objective(trial):
    values = suggest_values(trial, PARAMETERS)
    return -((math.log10(values["learning_rate"]) + 3) ** 2) - (values["distillation_weight"] - 0.3) ** 2


def run(runs, *, seed=0, n_startup_trials=4):
    """Run a study in several goes, with a new sampler in each; return the values of its trials."""
    storage = optuna.storages.InMemoryStorage()
    for trials in runs:
        study = optuna.create_study(
            storage=storage,
            study_name="s",
            load_if_exists=True,
            direction="maximize",
            sampler=PlacedSampler(seed, n_startup_trials=n_startup_trials),
        )
        study.optimize(objective, n_trials=trials)
    return [trial.params for trial in study.trials]


def test_an_interrupted_study_tries_what_an_uninterrupted_one_does():
    assert run([12]) == run([1, 2, 5, 4])


def test_no_values_come_twice():
    values = run([1] * 12)
    assert len({value["learning_rate"] for value in values}) == 12


def test_the_seed_decides():
    assert run([3]) != run([3], seed=1)


def test_parameters_are_drawn_independently_of_each_other():
    # equal seeds for two parameters would give equal places in their ranges
    values = run([20], n_startup_trials=20)
    places = [(math.log10(v["learning_rate"]) + 5) / 3 - (v["distillation_weight"] - 0.1) / 0.8 for v in values]
    assert max(map(abs, places)) > 0.1


def test_it_searches():
    # with the same number of trials TPE ends nearer to the optimum than chance, over several seeds
    tpe, chance = (
        sum(abs(math.log10(run([40], seed=seed, n_startup_trials=start)[-1]["learning_rate"]) + 3) for seed in range(5))
        for start in (8, 40)
    )
    assert tpe < chance


@pytest.mark.parametrize("names", ["averaging", "learning_rate,averaging,pool_ratio"])
def test_categories_are_sampled(names):
    study = optuna.create_study(sampler=PlacedSampler(0, n_startup_trials=3))
    study.optimize(lambda trial: sum(suggest_values(trial, parse_parameters(names)).values()), n_trials=8)
    assert {trial.params["averaging"] for trial in study.trials} <= {0.0, 0.9, 0.95, 0.99}
