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

"""Results of a study: the best trial, the configuration overlay, the table of trials and the training command."""

from __future__ import annotations

import ast
import json
import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from monai_weckd.tune.backend import optuna
from monai_weckd.tune.counts import DIVERGED, OWN_VALUES, outcome
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import table_text

__all__ = ["best_trial", "own_trial", "run_command", "write_overlay", "write_trials"]


def best_trial(
    trials: Iterable[optuna.trial.FrozenTrial], *, lower_is_better: bool = False
) -> optuna.trial.FrozenTrial:
    """Return the completed trial with the best value; of equal trials, the first one.

    Args:
        trials: the trials of a study.
        lower_is_better: whether a smaller value is better, default False.

    Raises:
        ValueError: When no trial was completed.

    """
    sign = -1 if lower_is_better else 1
    values = [(sign * trial.value, -trial.number, trial) for trial in trials if trial.value is not None]
    completed = [entry for entry in values if outcome(entry[2]) == "completed"]
    if not completed:
        raise ValueError("trials: expected at least one completed trial, got none. Look into trials.csv.")
    return max(completed, key=lambda entry: entry[:2])[2]


def own_trial(trials: Iterable[optuna.trial.FrozenTrial]) -> optuna.trial.FrozenTrial | None:
    """Return the completed trial of the configuration's own values, None if there is none.

    Args:
        trials: the trials of a study.

    """
    return next((trial for trial in trials if OWN_VALUES in trial.user_attrs and outcome(trial) == "completed"), None)


def write_overlay(path: Path, values: Mapping[str, Any]) -> None:
    """Write a configuration overlay.

    Args:
        path: the file.
        values: values to set, by key.

    """
    _write(path, json.dumps(dict(values), indent=4) + "\n")


def write_trials(path: Path, trials: Iterable[optuna.trial.FrozenTrial], *, names: Sequence[str]) -> None:
    """Write a table of all trials.

    Args:
        path: the file.
        trials: the trials of a study.
        names: names of the parameters.

    """
    rows = (
        {
            "trial": trial.number,
            "state": outcome(trial),
            "value": trial.value,
            **{name: trial.params.get(name) for name in names},
            "epochs": trial.last_step,
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            "note": trial.user_attrs.get(DIVERGED, "own values" if OWN_VALUES in trial.user_attrs else None),
        }
        for trial in trials
    )
    _write(path, table_text(["trial", "state", "value", *names, "epochs", "seconds", "note"], rows))


def _write(path: Path, text: str) -> None:
    # the workers of a study finish at nearly the same time, and write the same files
    with FileLock(f"{path}.lock"):
        write_atomically(path, text)


def run_command(files: Sequence[str | os.PathLike[str]], options: Mapping[str, Any]) -> str:
    """Return the shell command that trains a bundle with configuration files.

    Args:
        files: configuration files, first the bundle's; later files override earlier ones.
        options: values to set, by key.

    Example::

        >>> print(run_command(["train.json", "tuned.json"], {"output_dir": "run 1"}))
        python -m monai.bundle run --config_file "['train.json', 'tuned.json']" --output_dir 'run 1'

    """
    words = list(_words({"config_file": [str(file) for file in files], **options}))
    return " ".join(["python -m monai.bundle run", *words])


def _words(options: Mapping[str, Any]) -> Iterator[str]:
    for key, value in options.items():
        text = _literal(value)
        # double quotes read better around a list of files, but a shell expands some characters in them
        plain = key == "config_file" and not set(text) & set('"$`\\!')
        yield f"{shlex.quote(f'--{key}')} " + (f'"{text}"' if plain else shlex.quote(text))


def _literal(value: Any) -> str:
    """Return a value as text that ``monai.bundle`` parses back: other types than text as Python literals."""
    if not isinstance(value, (str, os.PathLike)):
        return repr(value)
    text = os.fspath(value)
    try:
        ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text if text[:1] not in ("[", "{", "(") else repr(text)
    return repr(text)
