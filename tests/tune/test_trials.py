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

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from worker import OWN, begin, objective

from monai_weckd.tune.counts import count_trials, outcome
from monai_weckd.tune.trials import run_trials

WORKER = Path(__file__).with_name("worker.py")


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


def start(storage, number, *, workers=1, at=-1):
    command = [sys.executable, "-W", "ignore", str(WORKER), storage, str(number), str(workers), str(at)]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})


def values(study):
    return [trial.params for trial in study.trials if outcome(trial) != "abandoned"]


def test_a_study_goes_on_until_it_has_its_trials(storage):
    lines = []
    assert run_trials(begin(storage), objective, trials=3, tell=lines.append).finished == 3
    assert run_trials(begin(storage), objective, trials=5, tell=lines.append).finished == 5
    assert run_trials(begin(storage), objective, trials=5, tell=lines.append).finished == 5
    assert len(begin(storage).trials) == len(lines) == 5
    assert lines[0] == "trial 0: 0.4990  learning_rate 0.001, distillation_weight 0.5"


def test_a_loss_that_is_no_number_is_an_outcome(storage):
    def diverge(trial):
        if trial.number == 1:
            raise FloatingPointError("loss: expected a finite number, got nan")
        return objective(trial)

    lines = []
    study = begin(storage)
    counts = run_trials(study, diverge, trials=3, tell=lines.append)
    assert counts == (2, 0, 1, 0, 0)
    assert lines[1].startswith("trial 1: failed")
    assert study.trials[1].user_attrs["diverged"] == "loss: expected a finite number, got nan"


def test_a_pruned_trial_is_an_outcome(storage):
    def prune(trial):
        value = objective(trial)
        trial.report(value, 7)
        if trial.number:
            raise optuna.TrialPruned
        return value

    lines = []
    assert run_trials(begin(storage), prune, trials=2, tell=lines.append) == (1, 1, 0, 0, 0)
    assert lines[1].startswith("trial 1: pruned after epoch 7  learning_rate ")


def test_any_other_error_ends_the_run_and_does_not_count(storage):
    def fail(trial):
        if trial.number == 1:
            raise ValueError("label_fraction: expected")
        return objective(trial)

    study = begin(storage)
    with pytest.raises(ValueError, match="label_fraction: expected"):
        run_trials(study, fail, trials=3)
    assert count_trials(study.trials) == (1, 0, 0, 0, 1)
    assert run_trials(study, fail, trials=3) == (3, 0, 0, 0, 1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on where somebody sleeps, and there at once; returns it in a list."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.append(now.pop() + seconds))
    return now


def test_no_trial_begins_after_the_timeout(storage, clock):
    def last(trial):
        time.sleep(0.3)
        return objective(trial)

    assert run_trials(begin(storage), last, trials=100, timeout=0.5).finished == 2
    assert clock == [0.6]


def test_two_workers_share_the_trials(storage):
    workers = [start(storage, 12, workers=2) for _ in range(2)]
    assert [worker.wait(timeout=100) for worker in workers] == [0, 0]
    study = begin(storage)
    counts = count_trials(study.trials)
    assert (counts.finished, counts.running) == (12, 0)
    done = [trial for trial in study.trials if outcome(trial) == "completed"]
    assert {trial.user_attrs["worker"] for trial in done} == {worker.pid for worker in workers}
    assert len({trial.params["learning_rate"] for trial in done}) == 12
    assert sum(trial.params == OWN for trial in done) == 1


@pytest.mark.usefixtures("clock")
def test_the_later_of_two_that_take_the_last_trial_steps_back(storage, monkeypatch):
    study, other = begin(storage), begin(storage)
    truth, looks = count_trials, []

    def outdated(trials):
        """Count, at the first look, as before the trial that is running."""
        trials = list(trials)
        looks.append(len(trials))
        return truth(trials[:-1] if len(looks) == 1 else trials)

    def overtake(trial):
        if trial.number == 1:
            monkeypatch.setattr("monai_weckd.tune.trials.count_trials", outdated)
            assert run_trials(other, objective, trials=2, timeout=0.05) == (1, 0, 0, 1, 1)
        return objective(trial)

    assert run_trials(study, overtake, trials=2) == (2, 0, 0, 0, 1)
    assert [outcome(trial) for trial in study.trials] == ["completed", "completed", "abandoned"]
    assert study.trials[2].params == {}


def test_a_killed_worker_does_not_block_the_study(storage):
    worker = start(storage, 6, at=2)
    assert worker.wait(timeout=100) == -signal.SIGKILL
    study = begin(storage)
    assert count_trials(study.trials) == (2, 0, 0, 1, 0)
    killed = study.trials[2].params
    lines = []
    counts = run_trials(study, objective, trials=6, tell=lines.append, pause=0.1)
    assert (counts.finished, counts.running, counts.abandoned) == (6, 0, 1)
    # the trial that was lost is tried once more
    assert killed in values(study)


@pytest.mark.slow
def test_the_last_trial_of_a_killed_worker_is_waited_for(storage, monkeypatch):
    worker = start(storage, 3, at=2)
    assert worker.wait(timeout=100) == -signal.SIGKILL
    lines, pauses, sleep = [], [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (pauses.append(seconds), sleep(seconds)))
    counts = run_trials(begin(storage), objective, trials=3, tell=lines.append, pause=0.1)
    assert (counts.finished, counts.running, counts.abandoned) == (3, 0, 1)
    assert lines[0] == "waiting for 1 running elsewhere"
    # for the two seconds in which it might still have given a sign of life, and a third one by which clocks are coarse
    assert 0 < sum(pauses) < 4


def test_a_trial_that_was_given_up_meanwhile_is_told(storage):
    study, other = begin(storage), begin(storage)

    def asleep(trial):
        if trial.number == 1:
            # what another worker does that finds no sign of life
            other._storage.set_trial_state_values(trial._trial_id, state=optuna.trial.TrialState.FAIL)
        return objective(trial)

    lines = []
    assert run_trials(study, asleep, trials=2, tell=lines.append).finished == 2
    assert lines[1] == "a trial was given up, because this worker did not report for too long"
