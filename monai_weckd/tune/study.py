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

"""Create or resume an Optuna study in a database."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from monai_weckd.tune.backend import optuna, sqlalchemy
from monai_weckd.tune.counts import OWN_VALUES, outcome
from monai_weckd.tune.sampler import PlacedSampler
from monai_weckd.tune.space import TunedParameter

__all__ = ["open_study"]

_SETTINGS = "settings"
_FILE = "sqlite:///"


def open_study(
    storage: str,
    name: str,
    *,
    lower_is_better: bool = False,
    parameters: Sequence[TunedParameter],
    settings: Mapping[str, Any],
    own_values: Mapping[str, Any] | None = None,
    warmup_epochs: int = 0,
    seed: int = 0,
    heartbeat: int = 10,
    grace: int = 60,
) -> optuna.Study:
    """Create a study, or resume it.

    The first trial of a new study tries the configuration's own values as a baseline. A trial whose worker has sent no
    heartbeat for ``grace`` seconds is given up and tried once more.

    Args:
        storage: URL of a database.
        name: the study's name.
        lower_is_better: whether a smaller value is better, default False.
        parameters: the tuned parameters.
        settings: all other settings that affect a trial's result.
        own_values: the configuration's own values, default None: they are not tried.
        warmup_epochs: epochs in which no trial is pruned, default 0.
        seed: seed of the sampler, default 0.
        heartbeat: seconds between a worker's heartbeats, default 10.
        grace: seconds without a heartbeat after which a trial is given up, default 60.

    Raises:
        ValueError: When the storage cannot be opened, or the study was created with other parameters or settings.

    """
    written = {"seed": seed, **settings, **{f"range of {item.name}": _range(item) for item in parameters}}
    sampler = PlacedSampler(seed)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=warmup_epochs)
    with _alone(storage):
        database = _open_storage(storage, heartbeat, grace)
        try:
            study = optuna.create_study(
                storage=database,
                study_name=name,
                sampler=sampler,
                pruner=pruner,
                direction="minimize" if lower_is_better else "maximize",
            )
            study.set_user_attr(_SETTINGS, written)
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(storage=database, study_name=name, sampler=sampler, pruner=pruner)
            _refuse_changes(name, study.user_attrs.get(_SETTINGS), written)
        if own_values is not None and not _has_own_values(study):
            study.enqueue_trial(dict(own_values), user_attrs={OWN_VALUES: True})
    return study


def _has_own_values(study: optuna.Study) -> bool:
    trials = study.get_trials(deepcopy=False)
    return any(OWN_VALUES in trial.user_attrs and outcome(trial) != "abandoned" for trial in trials)


def _alone(storage: str) -> AbstractContextManager:
    """Return a lock that keeps workers of this machine from creating the tables of the same file at the same time."""
    if not storage.startswith(_FILE):
        return nullcontext()
    file = Path(storage.removeprefix(_FILE).partition("?")[0])
    # checked first, because the lock would create the folder
    if not file.parent.is_dir():
        raise _storage_error(storage, "no such folder")
    return FileLock(f"{file}.lock")


def _open_storage(storage: str, heartbeat: int, grace: int) -> optuna.storages.RDBStorage:
    # wait while another worker writes to the file
    options = {"connect_args": {"timeout": 60}} if storage.startswith(_FILE) else {}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.storages.RDBStorage(
                storage,
                engine_kwargs=options,
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=1),
            )
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise _storage_error(storage, str(error).partition("\n")[0]) from error


def _storage_error(storage: str, reason: str) -> ValueError:
    return ValueError(
        f"storage: expected the URL of a database, got {storage!r} ({reason}). Pass one such as sqlite:///study.db."
    )


def _range(parameter: TunedParameter) -> str:
    return ", ".join(f"{key} {value}" for key, value in asdict(parameter).items() if key != "name" and value)


def _refuse_changes(name: str, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> None:
    remedy = "Pass another --study, or the settings that it began with."
    if before is None:
        raise ValueError(f"study: expected one that this command created, got {name!r} of another origin. {remedy}")
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ValueError(
                f"study: expected {name!r} to go on with {key} = {before.get(key)}, got {now.get(key)}. {remedy}"
            )
