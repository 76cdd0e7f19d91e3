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

"""Plan the runs of a comparison, and do them in this process or spread over others."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from filelock import FileLock, Timeout

from monai_weckd.compare.arms import Arm
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.running import ArmRun, execute
from monai_weckd.compare.store import RunStore
from monai_weckd.utils.spread import Spread, map_jobs

if TYPE_CHECKING:
    from monai_weckd.compare.training import BundleSource, ComparedBundle

__all__ = ["plan_runs", "run_schedule"]


class _Job(NamedTuple):
    """A run with all that another machine needs for it, besides the bundle and the images."""

    run: Callable[..., dict[str, Any]]
    item: ArmRun
    source: BundleSource
    needed: Sequence[Mapping[str, str]]
    cache_dir: Path


def plan_runs(
    bundle: ComparedBundle, arms: Sequence[Arm], splits: Sequence[FoldSplit], seeds: Sequence[int]
) -> list[ArmRun]:
    """Return all runs of a comparison, split by split, so that arms can be compared before all runs are finished.

    Args:
        bundle: the bundle.
        arms: the arms, each after those that it needs.
        splits: the splits.
        seeds: numbers of the seeds.

    """
    found: list[ArmRun] = []
    for seed in seeds:
        for split in splits:
            run_seed = bundle.run_seed(split, seed)
            runs: dict[str, ArmRun] = {}
            for arm in arms:
                needs = tuple(runs[name] for name in arm.needs)
                digest = bundle.digest(arm, split, seed=run_seed, needs=[run.digest for run in needs])
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
    spread: Spread = Spread(),  # noqa: B008
    run: Callable[..., dict[str, Any]] = execute,
) -> None:
    """Do all unfinished runs: first those that need no other run, split by split, then those that do.

    Each call tries a failed run once more. This process stores the result of each run as soon as it arrives.

    Args:
        runs: the runs.
        bundle: the bundle.
        store: store of the results.
        cache_dir: folder for decoded images.
        tell: called with each run and its result.
        spread: where the runs are done, default: in this process.
        run: executes one run, default :py:func:`monai_weckd.compare.running.execute`.

    Raises:
        ValueError: When another process is at work on the same store, or a worker has other data.

    """
    store.folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(store.folder / "compare.lock").acquire(timeout=0):
            for level in _levels(runs):
                pending = {(item.arm.name, item.cell): item for item in level if not _is_finished(item, store)}
                jobs = (_job(run, item, bundle, store, cache_dir) for item in pending.values())
                for key, files in map_jobs(_do, jobs, spread):
                    store.install(*key, files)
                    item = pending[key]
                    tell(item, store.read(*key, digest=item.digest) or {})
    except Timeout as error:
        raise ValueError(
            f"output_dir: expected no other comparison at work on {str(store.folder.parent)!r}, got one. "
            "Wait for it; --workers and --executor spread one comparison over processes and machines."
        ) from error


def _levels(runs: Iterable[ArmRun]) -> list[list[ArmRun]]:
    """Return the runs in levels: first those that need no other run, then those that need only these, and so on."""
    found: dict[int, list[ArmRun]] = {}
    for item in runs:
        found.setdefault(_depth(item), []).append(item)
    return [found[depth] for depth in sorted(found)]


def _depth(run: ArmRun) -> int:
    return max((1 + _depth(needed) for needed in run.needs), default=0)


def _is_finished(run: ArmRun, store: RunStore) -> bool:
    result = store.read(run.arm.name, run.cell, digest=run.digest)
    return result is not None and "error" not in result


def _job(
    run: Callable[..., dict[str, Any]], item: ArmRun, bundle: ComparedBundle, store: RunStore, cache_dir: Path
) -> _Job:
    needed = [store.files(other.arm.name, other.cell) for other in item.needs]
    return _Job(run, item, bundle.source, needed, cache_dir.absolute())


def _do(job: _Job) -> tuple[tuple[str, tuple[int, int, int]], dict[str, str]]:
    """Do a run in this process, which may be on another machine; return its arm, its cell and its files."""
    item = job.item
    with tempfile.TemporaryDirectory(prefix="monai_weckd_") as folder:
        store = RunStore(Path(folder))
        for needed, files in zip(item.needs, job.needed, strict=True):
            store.install(needed.arm.name, needed.cell, files)
        job.run(item, job.source.open(), store, cache_dir=job.cache_dir)
        return (item.arm.name, item.cell), store.files(item.arm.name, item.cell)
