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
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from monai_weckd.tune.space import DEFAULTS, SPACE, parse_parameters, suggest_values

# written down once more, by Optuna's own classes
EXPECTED = {
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "distillation_weight": FloatDistribution(0.1, 0.9),
    "temperature": FloatDistribution(1, 10),
    "attention_weight": FloatDistribution(0.01, 10, log=True),
    "pool_ratio": IntDistribution(0, 4),
    "averaging": CategoricalDistribution((0.0, 0.9, 0.95, 0.99)),
    "threshold": FloatDistribution(0, 0.95),
}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("learning_rat", r"parameters: expected some of .*, got 'learning_rat'. Did you mean 'learning_rate'\?"),
        ("temperature_start", r"got 'temperature_start'. Did you mean 'temperature'\?"),
        ("chain#pool_ratio", r"got 'chain#pool_ratio'. Did you mean 'pool_ratio'\?"),
        ("learning_rate,learning_rate", "parameters: expected every name once, got 'learning_rate' twice. Remove one."),
        ([], "parameters: expected some of .*, got none. Name one at least."),
        ("", "got ''"),
    ],
)
def test_wrong_names_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        parse_parameters(names)


def test_the_paper_tunes_three():
    assert DEFAULTS == ("learning_rate", "distillation_weight", "temperature")
    assert [parameter.name for parameter in parse_parameters(" learning_rate , pool_ratio")] == [
        "learning_rate",
        "pool_ratio",
    ]


def test_every_parameter_is_suggested_from_its_distribution():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    values = suggest_values(trial, parse_parameters(SPACE))
    assert trial.distributions == EXPECTED
    assert values == trial.params


@pytest.mark.parametrize("name", SPACE)
def test_holds_agrees_with_the_distribution(name):
    distribution = EXPECTED[name]
    for value in (0.0, 1e-6, 1e-5, 0.005, 0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 1, 1.5, 4, 5, 10, 11):
        try:
            contained = distribution._contains(distribution.to_internal_repr(value))
        except ValueError:
            contained = False
        if isinstance(distribution, IntDistribution):
            contained = contained and value == int(value)
        assert SPACE[name].holds(value) == contained, value


@pytest.mark.parametrize("value", [None, "0.5", True, [0.5]])
def test_holds_refuses_what_is_no_number(value):
    assert not SPACE["distillation_weight"].holds(value)


def test_a_key_is_the_parameter_s_place_in_the_configuration():
    keys = {name: parameter.key for name, parameter in SPACE.items()}
    assert keys == {
        "learning_rate": "learning_rate",
        "distillation_weight": "distillation_weight",
        "temperature": "loss_function#temperature",
        "attention_weight": "loss_function#attention_weight",
        "pool_ratio": "chain#pool_ratio",
        "averaging": "chain#averaging",
        "threshold": "loss_function#threshold",
    }
