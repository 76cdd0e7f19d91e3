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

"""Classify the trials of a study by outcome, and count them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from monai_weckd.tune.backend import optuna

__all__ = ["DIVERGED", "OWN_VALUES", "TrialCounts", "count_trials", "outcome"]

# user attributes of a trial: why it diverged, and whether it tries the configuration's own values
DIVERGED, OWN_VALUES = "diverged", "own_values"


class TrialCounts(NamedTuple):
    """The number of trials of a study by outcome.

    Args:
        completed: trials that were trained to their end.
        pruned: trials that were stopped because they were worse than the median.
        failed: trials whose loss or metric was not finite.
        running: trials in progress, here or in another worker.
        abandoned: trials whose worker was stopped, or that exceeded the wanted number; they do not count.

    """

    completed: int
    pruned: int
    failed: int
    running: int
    abandoned: int

    @property
    def finished(self) -> int:
        """Number of trials that have an outcome."""
        return self.completed + self.pruned + self.failed


def outcome(trial: optuna.trial.FrozenTrial) -> str:
    """Return the outcome of a trial: a field of :py:class:`TrialCounts`, or "waiting".

    Args:
        trial: a trial of a study.

    Example::

        >>> outcome(optuna.trial.create_trial(value=0.5))
        'completed'

    """
    state = optuna.trial.TrialState
    if trial.state == state.FAIL:
        return "failed" if DIVERGED in trial.user_attrs else "abandoned"
    return {state.COMPLETE: "completed", state.PRUNED: "pruned", state.RUNNING: "running"}.get(trial.state, "waiting")


def count_trials(trials: Iterable[optuna.trial.FrozenTrial]) -> TrialCounts:
    """Return the number of trials by outcome.

    Args:
        trials: the trials of a study.

    """
    counts = Counter(map(outcome, trials))
    return TrialCounts(*(counts[field] for field in TrialCounts._fields))
