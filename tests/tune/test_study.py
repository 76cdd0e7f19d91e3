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

from pathlib import Path

import optuna
import pytest

from monai_weckd.tune.counts import OWN_VALUES
from monai_weckd.tune.space import parse_parameters
from monai_weckd.tune.study import open_study

PARAMETERS = parse_parameters("learning_rate,distillation_weight")
SETTINGS = {"max_epochs": 36, "data and plan": "abc"}
OWN = {"learning_rate": 1e-3, "distillation_weight": 0.5}


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def begin(storage, **changes):
    options = {"parameters": PARAMETERS, "settings": SETTINGS, "own_values": OWN, **changes}
    return open_study(storage, options.pop("name", "tune"), **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {**SETTINGS, "max_epochs": 12}}, "to go on with max_epochs = 36, got 12. Pass another --study"),
        ({"settings": {"max_epochs": 36}}, "to go on with data and plan = abc, got None."),
        ({"settings": {**SETTINGS, "new": 1}}, "to go on with new = None, got 1."),
        ({"seed": 3}, "to go on with seed = 0, got 3."),
        ({"parameters": PARAMETERS[:1]}, "to go on with range of distillation_weight = low 0.1, high 0.9, got None."),
        (
            {"parameters": parse_parameters("learning_rate,distillation_weight,pool_ratio")},
            "range of pool_ratio = None",
        ),
    ],
)
def test_a_study_that_began_otherwise_is_refused(storage, changes, message):
    begin(storage)
    with pytest.raises(ValueError, match=f"study: expected 'tune' {'.*' if 'range' in message else ''}{message}"):
        begin(storage, **changes)
    begin(storage)
    begin(storage, name="another", **changes)


def test_a_study_of_another_origin_is_refused(storage):
    optuna.create_study(storage=storage, study_name="tune")
    with pytest.raises(ValueError, match="study: expected one that this command created, got 'tune' of another"):
        begin(storage)


@pytest.mark.parametrize("wrong", ["study.db", "nothing://x", "sqlite:///{}/none/study.db", "sqlite:///{}"])
def test_a_wrong_storage_is_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=r"storage: expected the URL of a database, got .*Pass one such as sqlite:///"):
        begin(wrong.format(tmp_path))
    assert not (tmp_path / "none").exists()


def test_the_own_values_come_first_and_once(storage):
    for _ in range(3):
        study = begin(storage)
    assert len(study.trials) == 1
    study.optimize(lambda trial: sum(item.suggest(trial) for item in PARAMETERS), n_trials=2)
    assert study.trials[0].params == OWN
    assert [OWN_VALUES in trial.user_attrs for trial in study.trials] == [True, False]
    assert len(begin(storage).trials) == 2


def test_own_values_whose_trial_was_abandoned_are_tried_again(storage):
    study = begin(storage)
    study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study = begin(storage)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "WAITING"]


def test_without_own_values_none_are_tried(storage):
    assert begin(storage, own_values=None).trials == []


def test_direction_pruner_and_heartbeat(storage):
    study = begin(storage, warmup_epochs=13)
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert isinstance(study.pruner, optuna.pruners.MedianPruner)
    assert study.pruner._n_warmup_steps == 13
    assert study._storage.get_heartbeat_interval() == 10
    assert begin(storage, name="loss", lower_is_better=True).direction == optuna.study.StudyDirection.MINIMIZE
    assert Path(storage.removeprefix("sqlite:///")).is_file()
