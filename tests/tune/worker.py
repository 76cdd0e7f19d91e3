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


def begin(storage):
    """Open the study; a worker that gives no sign of life for two seconds is dead."""
    return open_study(storage, "tune", parameters=PARAMETERS, settings={}, own_values=OWN, heartbeat=1, grace=2)


def objective(trial, *, seconds=0.0, at=None, stop=lambda: None):
    """Return a number that depends on the values alone; call ``stop`` in trial number ``at``."""
    values = suggest_values(trial, PARAMETERS)
    trial.set_user_attr("worker", os.getpid())
    if trial.number == at:
        stop()
    time.sleep(seconds)
    return values["distillation_weight"] - values["learning_rate"]


if __name__ == "__main__":
    url, number, seconds, at = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    run_trials(
        begin(url),
        lambda trial: objective(trial, seconds=seconds, at=at, stop=lambda: os.kill(os.getpid(), 9)),
        trials=number,
        pause=0.1,
    )
