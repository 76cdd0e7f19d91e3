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

"""Run the trials of a study together with other workers."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable

from monai_weckd.tune.backend import optuna
from monai_weckd.tune.counts import DIVERGED, TrialCounts, count_trials, outcome

__all__ = ["run_trials"]


class _SurplusTrialError(Exception):
    """A trial started although other workers had already taken the last ones."""


class _Attempt:
    """The objective of one trial; it records whether an error came from the objective or from Optuna."""

    def __init__(self, study: optuna.Study, objective: Callable[[optuna.Trial], float], trials: int) -> None:
        self.study = study
        self.objective = objective
        self.trials = trials
        self.begun = False
        self.error: Exception | None = None

    def __call__(self, trial: optuna.Trial) -> float:
        self.begun = True
        try:
            return self._run(trial)
        except FloatingPointError as error:
            trial.set_user_attr(DIVERGED, str(error))
            raise
        except Exception as error:
            self.error = error
            raise

    def _run(self, trial: optuna.Trial) -> float:
        # two workers may both have seen that one trial is left: the later one gives up
        earlier = [other for other in self.study.get_trials(deepcopy=False) if other.number < trial.number]
        counts = count_trials(earlier)
        if counts.finished + counts.running >= self.trials:
            raise _SurplusTrialError(f"trial {trial.number}")
        return self.objective(trial)

    def lost(self, error: Exception) -> bool:
        """Return whether an error came from Optuna after the trial began, and not from the objective."""
        return self.begun and error is not self.error


def run_trials(
    study: optuna.Study,
    objective: Callable[[optuna.Trial], float],
    *,
    trials: int,
    timeout: float | None = None,
    tell: Callable[[str], None] = lambda line: None,
    pause: float = 1.0,
) -> TrialCounts:
    """Run trials until all workers together have finished the wanted number, and return the counts.

    A FloatingPointError fails a trial and counts as its outcome. Any other error ends this worker's run, and its trial
    does not count. If the last trials run in other workers, this function waits for them, and takes over a trial whose
    worker has died.

    Args:
        study: result of :py:func:`~monai_weckd.tune.study.open_study`.
        objective: trains with a trial's values and returns the metric.
        trials: wanted number of trials, including those that the study already has.
        timeout: seconds after which this worker starts no further trial, default None.
        tell: called with a line of text about each trial.
        pause: seconds between two checks of the other workers, default 1.

    """
    began, waiting = time.monotonic(), False
    while True:
        counts = count_trials(study.get_trials(deepcopy=False))
        if counts.finished >= trials or (timeout is not None and time.monotonic() - began >= timeout):
            return counts
        if counts.finished + counts.running < trials:
            _run_one(study, _Attempt(study, objective, trials), tell)
            continue
        if not waiting:
            tell(f"waiting for {counts.running} running elsewhere")
            waiting = True
        time.sleep(pause)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)


def _run_one(study: optuna.Study, attempt: _Attempt, tell: Callable[[str], None]) -> None:
    def report(_: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if outcome(trial) != "abandoned":
            tell(_line(trial))

    try:
        study.optimize(
            attempt, n_trials=1, catch=(FloatingPointError, _SurplusTrialError), callbacks=[report], gc_after_trial=True
        )
    except ValueError as error:
        # Optuna raises this for the result of a trial that another worker has given up
        if not attempt.lost(error):
            raise
        tell("a trial was given up, because this worker did not report for too long")


def _line(trial: optuna.trial.FrozenTrial) -> str:
    values = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
    result = f"{trial.value:.4f}" if outcome(trial) == "completed" else outcome(trial)
    stopped = f" after epoch {trial.last_step}" if outcome(trial) == "pruned" else ""
    return f"trial {trial.number}: {result}{stopped}  {values}"
