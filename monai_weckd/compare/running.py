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

"""Execute one run of a comparison: train an arm on a split, or average an ensemble."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_weckd.compare.arms import ARMS, Arm
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.pool_share import read_pool_share
from monai_weckd.compare.store import RunStore, read_rows
from monai_weckd.utils.errors import first_cause

if TYPE_CHECKING:
    from monai_weckd.compare.training import ComparedBundle

__all__ = ["ArmRun", "execute", "run_arm"]

# distance between the seeds of the members of an ensemble
_STRIDE = 1_000_003


@dataclass(frozen=True)
class ArmRun:
    """One training of a comparison, or one ensemble of them.

    Args:
        arm: the arm.
        split: the split.
        seed: number of the seed.
        run_seed: the seed of the training.
        digest: digest of all settings.
        needs: the runs that this run uses, default none; see :py:class:`~monai_weckd.compare.arms.Arm`.

    """

    arm: Arm
    split: FoldSplit
    seed: int
    run_seed: int
    digest: str
    needs: tuple[ArmRun, ...] = ()

    @property
    def cell(self) -> tuple[int, int, int]:
        """Repeat, fold and seed."""
        return self.split.repeat, self.split.fold, self.seed


def execute(run: ArmRun, bundle: ComparedBundle, store: RunStore, *, cache_dir: Path) -> dict[str, Any]:
    """Execute a run and store its result, which may be an error.

    Args:
        run: the run.
        bundle: the bundle.
        store: store of the results.
        cache_dir: folder for decoded images.

    Returns:
        Settings of the run with their ``digest``, and either the figures of :py:func:`run_arm` or ``error``.

    """
    about = {
        "format": 1,
        "arm": run.arm.name,
        "repeat": run.split.repeat,
        "fold": run.split.fold,
        "seed": run.seed,
        "run_seed": run.run_seed,
        "digest": run.digest,
    }
    rows: list[dict[str, Any]] = []
    plan = None
    try:
        result, rows, plan = run_arm(run, bundle, store, cache_dir=cache_dir)
    # any error of a training is stored, reported and reflected in the exit code; the other runs continue
    except Exception as error:
        result = {"error": _one_line(error)}
    result = {**about, **result}
    store.write(run.arm.name, run.cell, result, rows=rows, plan=plan)
    return result


def run_arm(
    run: ArmRun, bundle: ComparedBundle, store: RunStore, *, cache_dir: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], str | None]:
    """Execute a run in this process.

    Args:
        run: the run.
        bundle: the bundle.
        store: store with the results of the runs that this run uses.
        cache_dir: folder for decoded images.

    Returns:
        The figures of its stages and of its final network, the predictions on its test items, and the plan's JSON.
        ``seconds`` exclude ``preparation_seconds``, the time to decode and embed images that other runs use as
        well. ``pool_share`` is the share of the pool that passed the threshold, None without one.

    Raises:
        ValueError: When a run that this run uses has failed.

    """
    began = time.perf_counter()
    bundle.prepare(run.arm, run.split, cache_dir=cache_dir)
    prepared = time.perf_counter() - began
    began, cpu = time.perf_counter(), time.process_time()
    overrides = bundle.overrides(run.arm, run.split)
    _check_needs(run, store)
    if run.needs:
        first = run.needs[0]
        overrides["plan#shards"] = str(store.path(first.arm.name, first.cell, ".plan.json").resolve())
    plan: str | None
    if run.arm.members == 1:
        result, rows, plan = _train(run, bundle, {**overrides, "seed": run.run_seed}, cache_dir)
    else:
        result, rows, plan = _ensemble(run, bundle, store, overrides, cache_dir)
    result["preparation_seconds"] = prepared
    result["seconds"] = result.get("seconds", 0.0) + time.perf_counter() - began
    result["cpu_seconds"] = result.get("cpu_seconds", 0.0) + time.process_time() - cpu
    return result, rows, plan


def _train(
    run: ArmRun, bundle: ComparedBundle, overrides: Mapping[str, Any], cache_dir: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    with tempfile.TemporaryDirectory(prefix="monai_weckd_") as folder:
        output = Path(folder) / "run"
        if run.arm.taught:
            overrides = {**overrides, "teacher_dir": str(_teach(run, bundle, overrides, Path(folder), cache_dir))}
        bundle.train(run.arm, run.split, output, overrides, cache_dir=cache_dir)
        chain = json.loads((output / "chain.json").read_text(encoding="utf-8"))
        plan = (output / "plan.json").read_text(encoding="utf-8")
        share = read_pool_share(output)
        rows = [row for row in read_rows(output / "predictions.csv") if row["split"] == "test"]
    budget = chain["label_budget"]
    result = {
        "labels": budget["train"],
        "val_labels": budget["val"],
        "plan_digest": json.loads(plan)["digest"],
        "stages": [
            {key: stage[key] for key in ("stage", "labeled", "accepted", "gate", "val", "test", "seconds")}
            for stage in chain["stages"]
        ],
        "final_stage": chain["final"]["stage"],
        "pool_share": share,
        **{key: chain["final"][key] for key in ("test", "thresholds") if key in chain["final"]},
    }
    return result, [{key: value for key, value in row.items() if key != "split"} for row in rows], plan


def _teach(run: ArmRun, bundle: ComparedBundle, given: Mapping[str, Any], folder: Path, cache_dir: Path) -> Path:
    """Train the teacher of a run on the same labels; returns its output folder."""
    arm = ARMS["solved+labels"]
    overrides = {**bundle.overrides(arm, run.split), **{key: given[key] for key in ("plan#shards", "seed")}}
    bundle.train(arm, run.split, folder / "teacher", overrides, cache_dir=cache_dir)
    return folder / "teacher"


def _ensemble(
    run: ArmRun, bundle: ComparedBundle, store: RunStore, overrides: Mapping[str, Any], cache_dir: Path
) -> tuple[dict[str, Any], list[dict[str, Any]], None]:
    """Average the probabilities of the needed runs and of further runs on the same labels with other seeds."""
    results = [store.read(needed.arm.name, needed.cell, digest=needed.digest) or {} for needed in run.needs]
    tables: list[list[dict[str, Any]]] = [list(store.rows(needed.arm.name, needed.cell)) for needed in run.needs]
    members = list(results)
    for member in range(len(tables), run.arm.members):
        seed = (run.run_seed + member * _STRIDE) % 2**31
        result, rows, _ = _train(run, bundle, {**overrides, "seed": seed}, cache_dir)
        members.append(result)
        tables.append(rows)
    read = [[bundle.task.read(row) for row in table] for table in tables]
    labels = [label for label, _ in read[0]]
    scores = np.mean([[probabilities for _, probabilities in table] for table in read], axis=0)
    parts = zip(tables[0], labels, scores, strict=True)
    rows = [{**row, **bundle.task.cells(label, score)} for row, label, score in parts]
    result = {key: results[0][key] for key in ("labels", "val_labels", "plan_digest")}
    result |= {key: sum(found[key] for found in results) for key in ("seconds", "cpu_seconds")}
    result |= {"stages": [], "final_stage": None}
    if "thresholds" in members[0]:
        result["thresholds"] = [_mean(column) for column in zip(*(one["thresholds"] for one in members), strict=True)]
    measured = bundle.task.measure(scores, np.array(labels), result.get("thresholds"))
    return {**result, "test": measured}, rows, None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _check_needs(run: ArmRun, store: RunStore) -> None:
    for needed in run.needs:
        result = store.read(needed.arm.name, needed.cell, digest=needed.digest)
        if result is None or "error" in result:
            raise ValueError(
                f"arms: expected a finished run of {needed.arm.name!r}, which {run.arm.name!r} uses, got "
                f"{'none' if result is None else 'one that failed'}. See there."
            )


def _one_line(error: BaseException) -> str:
    """Return the original error in one line; monai.bundle wraps it in errors about its expressions."""
    error = first_cause(error)
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
