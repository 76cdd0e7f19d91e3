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

"""A TPE sampler whose draws are reproducible across workers and interruptions."""

from __future__ import annotations

import zlib
from typing import Any

from monai_weckd.tune.backend import optuna
from monai_weckd.utils.draws import derive

__all__ = ["PlacedSampler"]


class PlacedSampler(optuna.samplers.BaseSampler):
    """Sample by TPE; a trial's values depend only on the seed, the trial's number and the trials before it.

    Optuna's own sampler restarts its generator in every process: two workers with the same seed, or a resumed study,
    would repeat the values of the first trials. This sampler seeds the generator with the trial's number, so a resumed
    study tries the same values as an uninterrupted one.

    Args:
        seed: seed of the study.
        n_startup_trials: number of random trials before TPE is used, default 10.

    """

    def __init__(self, seed: int, *, n_startup_trials: int = 10) -> None:
        self.seed = seed
        self.n_startup_trials = n_startup_trials

    def infer_relative_search_space(
        self, study: optuna.Study, trial: optuna.trial.FrozenTrial
    ) -> dict[str, optuna.distributions.BaseDistribution]:
        """Return the parameters that are sampled together, see :py:class:`optuna.samplers.BaseSampler`."""
        return self._sampler(trial, "").infer_relative_search_space(study, trial)

    def sample_relative(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        search_space: dict[str, optuna.distributions.BaseDistribution],
    ) -> dict[str, Any]:
        """Return the values of parameters that are sampled together."""
        return self._sampler(trial, "").sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: optuna.trial.FrozenTrial,
        param_name: str,
        param_distribution: optuna.distributions.BaseDistribution,
    ) -> Any:
        """Return the value of a parameter that is sampled independently."""
        return self._sampler(trial, param_name).sample_independent(study, trial, param_name, param_distribution)

    def _sampler(self, trial: optuna.trial.FrozenTrial, name: str) -> optuna.samplers.TPESampler:
        seed = derive(self.seed, trial.number, zlib.crc32(name.encode())).item()
        return optuna.samplers.TPESampler(n_startup_trials=self.n_startup_trials, seed=seed)
