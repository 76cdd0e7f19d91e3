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

"""Statistics of a comparison: arm summaries, paired differences with bootstrap intervals, and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from monai_weckd.engines.label_task import LabelTask, task_of
from monai_weckd.metrics import FindingTally, Tally, mean_defined
from monai_weckd.plan.label_kind import LabelKind

__all__ = ["ArmDifference", "RunPredictions", "arm_difference", "arm_summary", "verdict"]

_CLASSES = task_of(LabelKind(()))
# normal quantiles for a two-sided test at 5 %, and for a power of 80 %
_QUANTILE, _POWER = 1.96, 0.84


@dataclass(frozen=True)
class RunPredictions:
    """The predictions of one run of an arm on its test items.

    Args:
        repeat: number of the repeat of the cross-validation, from 0.
        fold: number of the fold, from 0.
        seed: number of the seed.
        ids: ids of the N test items.
        labels: class indices, shape (N,), or values of findings, (N, F).
        probabilities: class probabilities, shape (N, C), or those of findings, (N, F).
        thresholds: from which probability on each finding counts as present, default None: there are classes.

    """

    repeat: int
    fold: int
    seed: int
    ids: Sequence[str]
    labels: np.ndarray
    probabilities: np.ndarray
    thresholds: Sequence[float | None] | None = None

    @property
    def cell(self) -> tuple[int, int, int]:
        """Repeat, fold and seed; only runs with the same cell are compared."""
        return self.repeat, self.fold, self.seed


@dataclass(frozen=True)
class ArmDifference:
    """The difference of a metric between two arms.

    Args:
        value: the difference.
        interval: its 95 % interval, None if undefined.
        standard_error: its standard error, None if undefined.
        visible: the smallest true difference that four of five such comparisons would detect, None if undefined.
        runs: number of compared runs of each arm.

    """

    value: float
    interval: tuple[float, float] | None
    standard_error: float | None
    visible: float | None
    runs: int


@dataclass(frozen=True)
class _Training:
    """The variance that retraining adds to a mean difference, and its degrees of freedom."""

    variance: float
    freedom: int


def arm_summary(runs: Sequence[RunPredictions], task: LabelTask = _CLASSES) -> dict[str, dict[str, float | None]]:
    """Summarize the runs of one arm.

    ``mean`` and ``sd`` are computed over the runs, each on the test items of one fold. ``pooled`` is computed over all
    folds of a repeat together, in which every item is tested once, and averaged over repeats and seeds. Its AUC
    compares items within a fold only, since the scores of different networks have no common scale.

    Args:
        runs: the runs, at least one.
        task: what depends on the kind of the labels, default: one class an image.

    Returns:
        ``mean``, ``sd`` (with divisor n - 1, None for a single run) and ``pooled`` by metric; None if undefined.

    """
    figures = [task.measure(run.probabilities, run.labels, run.thresholds) for run in runs]
    pooled = {name: float(values[0]) for name, values in _pooled(_tallies(runs, task)).items()}
    pooled[_error_name(task)] = _pooled_error(runs, task)
    summary = {}
    for name in task.figures:
        values = [value for figure in figures if (value := figure[name]) is not None]
        summary[name] = {
            "mean": float(np.mean(values)) if values else None,
            "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            "pooled": pooled[name] if np.isfinite(pooled[name]) else None,
        }
    return summary


def arm_difference(
    first: Sequence[RunPredictions],
    second: Sequence[RunPredictions],
    task: LabelTask = _CLASSES,
    *,
    groups: Mapping[str, str],
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, ArmDifference]:
    """Compare two arms on their common runs, which have the same repeat, fold and seed.

    The difference is that of the pooled figures of :py:func:`arm_summary`. Its 95 % interval comes from a bootstrap of
    the test groups (Field and Welsh, J. R. Statist. Soc. B 69, 2007), in which a group counts equally often in both
    arms, all repeats and all seeds. The bootstrap takes the predictions as fixed, so it misses the variance of
    retraining. The part of the variance between splits that resampled groups do not explain (method of moments, as
    DerSimonian and Laird, Control. Clin. Trials 7, 1986) is therefore added, and the interval is widened. If all runs
    are tested on the same items, the variance between the runs is added instead.

    Args:
        first: runs of the first arm; a positive difference means that it is better.
        second: runs of the second arm, which is subtracted.
        task: what depends on the kind of the labels, default: one class an image.
        groups: group of each test item, by its id.
        num_resamples: number of bootstrap resamples, default 1000.
        seed: seed of the draw, default 0.

    Returns:
        The difference by metric; the calibration error has no interval, and an undefined metric is left out.

    Raises:
        ValueError: When the arms have no common runs, or common runs were tested on different items.

    """
    ours, theirs = {run.cell: run for run in first}, {run.cell: run for run in second}
    cells = sorted(ours.keys() & theirs.keys())
    _check_pairs(ours, theirs, cells)
    names = sorted({groups[key] for cell in cells for key in ours[cell].ids})
    weights = _group_weights(len(names), num_resamples, seed)
    place = {name: index for index, name in enumerate(names)}
    columns = {key: place[groups[key]] for cell in cells for key in ours[cell].ids}
    tallies = [_tallies([runs[cell] for cell in cells], task, weights, columns) for runs in (ours, theirs)]
    above, below = map(_pooled, tallies)
    same_items = len({tuple(ours[cell].ids) for cell in cells}) == 1
    training = _training(*tallies, same_items=same_items)
    found = {
        name: _difference(above[name] - below[name], training[name], runs=len(cells), groups=len(names))
        for name in _resampled(task)
        if np.isfinite(above[name][0] - below[name][0])
    }
    errors = [_pooled_error([runs[cell] for cell in cells], task) for runs in (ours, theirs)]
    return {**found, _error_name(task): ArmDifference(errors[0] - errors[1], None, None, None, len(cells))}


def verdict(difference: ArmDifference, *, arm: str, control: str, metric: str = "balanced accuracy") -> str:
    """Return one sentence that says whether an arm helped.

    Args:
        difference: the arm minus the control, as a fraction.
        arm: the arm, as in "the chain".
        control: the control, as in "one model on as many random labels".
        metric: name of the compared metric, default "balanced accuracy".

    Example::

        >>> verdict(ArmDifference(0.031, (0.004, 0.059), 0.014, 0.039, 15), arm="the chain", control="a model")
        'The balanced accuracy of the chain is 3.1 points above that of a model (95 % interval 0.4 to 5.9): it helped.'

    """
    points = 100 * difference.value
    name = f"The {metric} of {arm}"
    if difference.interval is None or difference.visible is None:
        return f"{name} differs from that of {control} by {points:+.1f} points; there are too few groups to say more."
    lower, upper = (100 * limit for limit in difference.interval)
    interval = f"95 % interval {lower:.1f} to {upper:.1f}"
    if lower <= 0 <= upper:
        return (
            f"{name} cannot be told apart from that of {control}: it differs by {points:+.1f} points ({interval}), and "
            f"a true difference of less than {100 * difference.visible:.1f} is easily missed here."
        )
    side, effect = ("above", "helped") if points > 0 else ("below", "hurt")
    return f"{name} is {abs(points):.1f} points {side} that of {control} ({interval}): it {effect}."


def _resampled(task: LabelTask) -> tuple[str, ...]:
    """Return the metrics without the binned calibration error, which resampling inflates."""
    return tuple(task.figures)[:-1]


def _error_name(task: LabelTask) -> str:
    return tuple(task.figures)[-1]


def _check_pairs(
    ours: Mapping[tuple[int, int, int], RunPredictions],
    theirs: Mapping[tuple[int, int, int], RunPredictions],
    cells: Sequence[tuple[int, int, int]],
) -> None:
    if not cells:
        raise ValueError("runs: expected some of the same split and seed in both arms, got none. Finish both arms.")
    for cell in cells:
        if list(ours[cell].ids) != list(theirs[cell].ids):
            raise ValueError(
                f"runs: expected the same test items in both arms, got others in repeat {cell[0]}, fold {cell[1]}. "
                "Run both arms on the same splits."
            )


def _group_weights(count: int, num_resamples: int, seed: int) -> np.ndarray:
    """Return how often each group counts, shape (1 + resamples, groups); the first row is the sample itself."""
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=num_resamples)
    return np.vstack([np.ones(count), draws])


def _tallies(
    runs: Iterable[RunPredictions],
    task: LabelTask,
    weights: np.ndarray | None = None,
    columns: Mapping[str, int] | None = None,
) -> dict[tuple[int, int, int], Tally | FindingTally]:
    """Return the tally of each run by its cell; without weights, each item counts once."""
    found = {}
    for run in runs:
        if weights is None or columns is None:
            rows = np.ones((1, len(run.labels)))
        else:
            rows = weights[:, [columns[key] for key in run.ids]]
        scores = np.asarray(run.probabilities, dtype=float)
        found[run.cell] = task.tally(scores, np.asarray(run.labels), run.thresholds, rows)
    return found


def _pooled(tallies: Mapping[tuple[int, int, int], Any]) -> dict[str, np.ndarray]:
    """Return each metric over all folds of a repeat, averaged over repeats and seeds, shape (R,)."""
    sheets: dict[tuple[int, int], list[Any]] = {}
    for (repeat, _, seed), tally in tallies.items():
        sheets.setdefault((repeat, seed), []).append(tally)
    figures = [type(sheet[0]).total(sheet).metrics() for sheet in sheets.values()]
    return {name: mean_defined(np.stack([figure[name] for figure in figures]), axis=0) for name in figures[0]}


def _pooled_error(runs: Iterable[RunPredictions], task: LabelTask) -> float:
    sheets: dict[tuple[int, int], list[RunPredictions]] = {}
    for run in runs:
        sheets.setdefault((run.repeat, run.seed), []).append(run)
    values = [
        task.measure(
            np.concatenate([run.probabilities for run in sheet]), np.concatenate([run.labels for run in sheet]), None
        )[_error_name(task)]
        for sheet in sheets.values()
    ]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else np.nan


def _training(
    ours: Mapping[tuple[int, int, int], Tally | FindingTally],
    theirs: Mapping[tuple[int, int, int], Tally | FindingTally],
    *,
    same_items: bool,
) -> dict[str, _Training]:
    """Return the variance that retraining adds: the part between splits that resampled groups do not explain."""
    by_split: dict[tuple[int, int], list[dict[str, np.ndarray]]] = {}
    for cell, tally in ours.items():
        pair = tally.metrics(), theirs[cell].metrics()
        by_split.setdefault(cell[:2], []).append({name: pair[0][name] - pair[1][name] for name in pair[0]})
    found = {}
    for name in next(iter(by_split.values()))[0]:
        rows = {
            split: mean_defined(np.stack([cell[name] for cell in cells]), axis=0) for split, cells in by_split.items()
        }
        within = [_variance(row[1:]) for row in rows.values()]
        # within a repeat the folds share no test item
        folds = [np.array([row[0] for (r, _), row in rows.items() if r == repeat]) for repeat in {r for r, _ in rows}]
        freedom = sum(len(values) - 1 for values in folds)
        if same_items:
            found[name] = _between_runs(np.array([cell[name][0] for cells in by_split.values() for cell in cells]))
            continue
        between = sum((len(values) - 1) * _variance(values) for values in folds) / freedom if freedom else 0.0
        found[name] = _Training(max(between - float(np.mean(within)), 0.0) / len(rows), freedom)
    return found


def _between_runs(values: np.ndarray) -> _Training:
    """Return the variance that retraining adds where all runs are tested on the same items."""
    return _Training(_variance(values) / len(values), len(values) - 1)


def _variance(values: np.ndarray) -> float:
    defined = values[np.isfinite(values)]
    return float(np.var(defined, ddof=1)) if len(defined) > 1 else 0.0


def _difference(values: np.ndarray, training: _Training, *, runs: int, groups: int) -> ArmDifference:
    value, resampled = float(values[0]), values[1:][np.isfinite(values[1:])]
    if groups < 2 or len(resampled) < 2:
        return ArmDifference(value, None, None, None, runs)
    drawn = float(np.std(resampled, ddof=1))
    error = float(np.sqrt(drawn**2 + training.variance))
    # few splits estimate their variance poorly: use Student's quantile with Satterthwaite's degrees of freedom
    share = training.variance / error**2 if error else 0.0
    quantile = float(stdtrit(training.freedom / share**2, 0.975)) if share else _QUANTILE
    # two arms with the same predictions have no spread
    stretch = error * quantile / (drawn * _QUANTILE) if drawn else 1.0
    limits = value + (np.quantile(resampled, [0.025, 0.975]) - value) * stretch
    return ArmDifference(value, (float(limits[0]), float(limits[1])), error, (quantile + _POWER) * error, runs)
