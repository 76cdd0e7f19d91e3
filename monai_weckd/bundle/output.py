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

"""The output folder of a run: create it, and refuse to mix it with an earlier run."""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from pathlib import Path

from monai_weckd.utils.system import can_lock, try_lock

__all__ = ["check_output_dir", "is_complete", "prepare_output_dir"]

logger = logging.getLogger(__name__)

_TRACKED_CONFIG = re.compile(r"config_\d{8}_\d{6}\.json")
_CHAIN_OUTPUT = re.compile(
    r"((plan|datalist|chain|history)\.json|(predictions|out_of_fold)\.csv|kind\.npz|(model|checkpoint)\.pt)(\.part)?"
    r"|report\.html|stage_\d+|errors|tensorboard|mlruns.*"
)
_PATIENCE = 10.0  # seconds, as the workers of a killed run hold its lock until they notice
# the open folders of this process's runs, by device and node
_held: dict[tuple[int, int], int] = {}
_BEFORE_THE_PLAN = re.compile(r"(plan|datalist)\.json\.part|tensorboard|mlruns.*")


def check_output_dir(output_dir: str | os.PathLike, *, overwrite: bool = False, resume: bool = False) -> None:
    """Raise the errors of :py:func:`prepare_output_dir` about a folder's files, and change nothing.

    Args:
        output_dir: the folder, which need not exist.
        overwrite: whether an earlier run's files are to be removed, default False.
        resume: whether an earlier run is to be continued, default False.

    Raises:
        ValueError: When both ``overwrite`` and ``resume`` are True.
        FileExistsError: When the folder holds files that neither of them allows.

    """
    _to_remove(Path(output_dir), overwrite=overwrite, resume=resume)


def prepare_output_dir(output_dir: str | os.PathLike, *, overwrite: bool = False, resume: bool = False) -> Path:
    """Create an empty folder for a run, and refuse to mix the run with an earlier one.

    With ``resume``, a complete run and a run with a checkpoint stay as they are. If a run stopped before its first
    checkpoint, it starts over.

    Args:
        output_dir: the folder; created if absent.
        overwrite: whether to remove an earlier run's files first, default False. Only files of a chain are removed.
        resume: whether to continue an earlier run, default False.

    Raises:
        ValueError: When both ``overwrite`` and ``resume`` are True.
        FileExistsError: When the folder is in use by another run.
        FileExistsError: When the folder is not empty and ``overwrite`` is False.
        FileExistsError: When ``overwrite`` is True and the folder holds neither an earlier run nor the remains of one
            that failed before it wrote its plan.
        PermissionError: When the folder cannot be written to.

    """
    path = Path(output_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PermissionError(
            f"output_dir: expected a folder to write to, got {path} ({error}). Pass another one."
        ) from error
    if not os.access(path, os.W_OK):
        raise PermissionError(
            f"output_dir: expected a folder to write to, got {path}, which is read-only. Pass another one."
        )
    _hold(path)
    if not _to_remove(path, overwrite=overwrite, resume=resume):
        return path
    # the order matters if this is interrupted: the rest must not look like a complete run or like foreign files
    order = {"predictions.csv": -1, "plan.json": 1}
    for entry in sorted(_entries(path), key=lambda entry: order.get(entry.name, 0)):
        if _CHAIN_OUTPUT.fullmatch(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    return path


def _entries(path: Path) -> list[Path]:
    """Return what is in a folder, except the configuration that ``--tracking`` saves before the run starts."""
    return [entry for entry in path.iterdir() if not _TRACKED_CONFIG.fullmatch(entry.name)]


def _to_remove(path: Path, *, overwrite: bool, resume: bool) -> bool:
    """Return whether files of an earlier run are to be removed; refuse a folder if they must not be."""
    if overwrite and resume:
        raise ValueError("resume: expected False with overwrite, got True. Go on with the run, or remove it.")
    present = _entries(path) if path.is_dir() else []
    if not present or (resume and ((path / "checkpoint.pt").exists() or _complete(path))):
        return False
    begun = (path / "plan.json").exists() or all(_BEFORE_THE_PLAN.fullmatch(entry.name) for entry in present)
    if not overwrite and not (resume and begun):
        raise FileExistsError(
            f"output_dir: expected an empty folder, got {path} with {len(present)} entries. "
            "Pass another one, --resume true to go on with an interrupted run, or --overwrite true to remove it."
        )
    if not begun:
        raise FileExistsError(
            f"output_dir: expected an earlier run to overwrite, got {path} without plan.json. Empty it yourself."
        )
    return True


def _hold(path: Path) -> None:
    """Lock a folder until this process ends, because two runs in one folder would mix their files."""
    status = path.stat()
    if not can_lock() or (status.st_dev, status.st_ino) in _held:
        return
    # the folder itself is locked, so that no lock file lies among the results
    number, end = os.open(path, os.O_RDONLY), time.monotonic() + _PATIENCE
    while not try_lock(number):
        if time.monotonic() > end:
            os.close(number)
            raise FileExistsError(
                f"output_dir: expected one run at a time in {path}, got another that is running. "
                "Wait for it, or pass another folder."
            )
        time.sleep(0.1)
    _held[status.st_dev, status.st_ino] = number


def is_complete(output_dir: str | os.PathLike) -> bool:
    """Return whether a folder holds a complete run, and log it if so.

    A run deletes its checkpoint after it has written everything else.

    Args:
        output_dir: the folder.

    """
    path = Path(output_dir)
    complete = _complete(path)
    if complete:
        logger.info("%s holds a complete run, there is nothing to train: pass another output_dir, or overwrite", path)
    return complete


def _complete(path: Path) -> bool:
    return (path / "predictions.csv").exists() and not (path / "checkpoint.pt").exists()
