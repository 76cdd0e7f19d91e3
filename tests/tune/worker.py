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

"""A worker of a study whose trials cost nothing: what the tests start, stop and kill."""

from __future__ import annotations

import os
import sys
import time

from monai_weckd.tune.space import parse_parameters, suggest_values
from monai_weckd.tune.study import open_study
from monai_weckd.tune.trials import run_trials

PARAMETERS = parse_parameters("learning_rate,distillation_weight")
OWN = {"learning_rate": 1e-3, "distillation_weight": 0.5}


def begin(storage, *, grace=2):
    """Open the study; a worker that gives no sign of life for some seconds is dead."""
    return open_study(storage, "tune", parameters=PARAMETERS, settings={}, own_values=OWN, heartbeat=1, grace=grace)


def objective(trial, *, at=None, stop=lambda: None, workers=1):
    """Return a number that depends on the values alone; call ``stop`` in trial number ``at``.

    No trial ends before so many workers have begun one.
    """
    values = suggest_values(trial, PARAMETERS)
    trial.set_user_attr("worker", os.getpid())
    if trial.number == at:
        stop()
    while len({one.user_attrs.get("worker", os.getpid()) for one in trial.study.trials}) < workers:
        time.sleep(0.01)
    return values["distillation_weight"] - values["learning_rate"]


if __name__ == "__main__":
    url, (number, workers, at) = sys.argv[1], map(int, sys.argv[2:])
    run_trials(
        # nobody is killed beside another worker, who on a busy machine would take one for dead that is not
        begin(url, grace=2 if workers == 1 else 600),
        lambda trial: objective(trial, workers=workers, at=at, stop=lambda: os.kill(os.getpid(), 9)),
        trials=number,
        pause=0.1,
    )
