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

"""Plan the runs of a comparison, and share them among processes that use the same folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from monai_weckd.compare.arms import Arm
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.running import ArmRun, execute
from monai_weckd.compare.store import RunStore

if TYPE_CHECKING:
    from monai_weckd.compare.training import ComparedBundle

__all__ = ["plan_runs", "run_schedule"]

# seconds between two looks at the runs of other processes
_PAUSE = 1.0


def plan_runs(
    bundle: ComparedBundle, arms: Sequence[Arm], splits: Sequence[FoldSplit], seeds: Sequence[int]
) -> list[ArmRun]:
    """Return all runs of a comparison, split by split, so that arms can be compared before all runs are finished.

    Args:
        bundle: the bundle.
        arms: the arms, each after the arm that it needs.
        splits: the splits.
        seeds: numbers of the seeds.

    """
    found: list[ArmRun] = []
    for seed in seeds:
        for split in splits:
            run_seed = bundle.run_seed(split, seed)
            runs: dict[str, ArmRun] = {}
            for arm in arms:
                needs = None if arm.needs is None else runs[arm.needs]
                digest = bundle.digest(arm, split, seed=run_seed, needs=None if needs is None else needs.digest)
                runs[arm.name] = ArmRun(arm, split, seed, run_seed, digest, needs)
            found += runs.values()
    return found


def run_schedule(
    runs: Iterable[ArmRun],
    bundle: ComparedBundle,
    store: RunStore,
    *,
    cache_dir: Path,
    tell: Callable[[ArmRun, dict[str, Any]], None],
    run: Callable[..., dict[str, Any]] = execute,
) -> None:
    """Execute all unfinished runs; return when this and other processes on the same folder have finished them all.

    Each call tries a failed run once more.

    Args:
        runs: the runs.
        bundle: the bundle.
        store: store of the results.
        cache_dir: folder for decoded images.
        tell: called with each run of this process and its result.
        run: executes one run, default :py:func:`monai_weckd.compare.running.execute`.

    """
    began, tried = time.time(), list[ArmRun]()
    pending = list(runs)
    while pending:
        waiting = []
        for item in pending:
            if _is_done(item, store, began, tried):
                continue
            if item.needs is not None and not _is_done(item.needs, store, began, tried):
                waiting.append(item)
                continue
            try:
                with FileLock(_lock_path(store, item)).acquire(timeout=0):
                    # another process may have finished it in the meantime
                    if not _is_done(item, store, began, tried):
                        tell(item, run(item, bundle, store, cache_dir=cache_dir))
                        tried.append(item)
            except Timeout:
                waiting.append(item)
        if len(waiting) == len(pending):
            time.sleep(_PAUSE)
        pending = waiting


def _is_done(run: ArmRun, store: RunStore, began: float, tried: Sequence[ArmRun]) -> bool:
    result = store.read(run.arm.name, run.cell, digest=run.digest)
    if result is None:
        return False
    # the clock of a file server may be slow, so failures of this process are not judged by file times
    return "error" not in result or run in tried or store.path(run.arm.name, run.cell).stat().st_mtime >= began


def _lock_path(store: RunStore, run: ArmRun) -> Path:
    path = store.path(run.arm.name, run.cell, ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
