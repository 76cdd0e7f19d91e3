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

"""Check the goals of the label-efficiency study against the kept comparisons."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from statistics import mean
from typing import Any

__all__ = ["Cell", "goals"]

METRIC = "balanced_accuracy"
LABELS_ALONE = ("single", "single_long", "kd", "born_again", "ensemble", "solved")
WITH_POOL = ("fixmatch", "mean_teacher")


class Cell:
    """A comparison on one set with one size of shard.

    Args:
        content: content of ``compare.json``.

    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.name: str = content["about"]["dataset_dir"]
        self.fraction: float = content["about"]["label_fraction"]
        # an inert arm learned nothing from its pool: it is no competitor
        arms = [arm for arm in content["arms"] if arm["metrics"] is not None and not arm.get("inert")]
        self.arms = {arm["name"]: arm for arm in arms}

    def value(self, arm: str, metric: str = METRIC) -> float:
        """Return the mean of an arm over its runs."""
        return float(self.arms[arm]["metrics"][metric]["mean"])

    def best(self, names: Sequence[str], metric: str = METRIC) -> str | None:
        """Return the best arm, None if none of them was run; choosing the best favors the arms over the chain."""
        known = [name for name in names if name in self.arms]
        return max(known, key=lambda name: self.value(name, metric), default=None)

    def gain(self, arm: str) -> tuple[float, float, float]:
        """Return the chain minus an arm, in points, and the ends of the interval."""
        found = self.arms[arm]["difference"][METRIC]
        low, high = found["interval"]
        return 100 * found["value"], 100 * low, 100 * high


def goals(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table with each goal and its measured value.

    Args:
        found: comparisons of one start.

    """
    cells = [Cell(content) for content in found]
    lines = ["| goal | what | measured | asked for | |", "|---|---|---|---|---|"]
    for goal in (_paper, _labels_alone, _with_pool, _all_labels, _half_the_labels, _calibration, _first_stage):
        lines += goal(cells)
    return lines


def _line(goal: str, what: str, measured: str, asked: str, met: bool) -> str:
    return f"| {goal} | {what} | {measured} | {asked} | {'met' if met else 'missed'} |"


def _by_set(cells: Sequence[Cell], choose: Callable[[Cell], str | None]) -> dict[str, list[tuple[float, float, float]]]:
    """Return the chain's gains over the chosen arms, by set."""
    gains: dict[str, list[tuple[float, float, float]]] = {}
    for cell in cells:
        arm = choose(cell)
        if arm in cell.arms:
            gains.setdefault(cell.name, []).append(cell.gain(str(arm)))
    return gains


def _told(gains: Mapping[str, Sequence[tuple[float, float, float]]]) -> tuple[str, list[float], int]:
    """Return words, the mean gain of each set, and the number of sets whose interval excludes 0.

    The ends of a set's interval are means over its budgets: exact if these are fully correlated, else too wide.
    """
    words, means, clear = [], [], 0
    for name, values in gains.items():
        value, low, high = (mean(column) for column in zip(*values, strict=True))
        words.append(f"{name} {value:+.1f} ({low:+.1f} to {high:+.1f})")
        means.append(value)
        clear += low > 0
    return f"{mean(means):+.1f}; {', '.join(words)}", means, clear


def _paper(cells: Sequence[Cell]) -> Iterable[str]:
    gains = _by_set(cells, lambda _: "paper")
    if gains:
        words, means, _ = _told(gains)
        met = mean(means) >= 5 and all(value >= 0 for values in gains.values() for value, _, _ in values)
        yield _line("G1", "chain minus the paper's preset", words, "≥ 5 on average, never below 0", met)


def _labels_alone(cells: Sequence[Cell]) -> Iterable[str]:
    gains = _by_set(cells, lambda cell: cell.best(LABELS_ALONE))
    if gains:
        words, means, clear = _told(gains)
        what = "chain minus the best of the controls that learn from random labels alone"
        met = mean(means) >= 3 and clear >= 2
        yield _line("G2", what, words, "≥ 3 on average, interval above 0 on two sets", met)


def _with_pool(cells: Sequence[Cell]) -> Iterable[str]:
    gains = _by_set(cells, lambda cell: cell.best(WITH_POOL))
    if gains:
        words, means, _ = _told(gains)
        met = mean(means) >= 1 and min(means) >= 0
        what = "chain minus the better of FixMatch and Mean Teacher, random labels"
        yield _line("G3", what, words, "≥ 0 on every set, ≥ 1 on average", met)


def _all_labels(cells: Sequence[Cell]) -> Iterable[str]:
    for cell in cells:
        if "everything" in cell.arms and round(cell.fraction, 3) == 0.1:
            value, low, high = cell.gain("everything")
            words = f"{value:+.1f} ({low:+.1f} to {high:+.1f})"
            yield _line("G4", f"{cell.name}: chain on 30 % minus one model on all labels", words, "≥ -2", value >= -2)


def _half_the_labels(cells: Sequence[Cell]) -> Iterable[str]:
    values = {(cell.name, round(cell.fraction, 3)): cell for cell in cells}
    for name in dict.fromkeys(cell.name for cell in cells):
        half, whole = values.get((name, 0.05)), values.get((name, 0.1))
        if half and whole and "single_long" in whole.arms:
            chain, control = half.value("chain"), whole.value("single_long")
            what = f"{name}: chain on 15 % minus one model on 30 % random labels"
            yield _line("G4", what, f"{100 * (chain - control):+.1f}", "≥ 0", chain >= control)


def _calibration(cells: Sequence[Cell]) -> Iterable[str]:
    pairs = []
    for cell in cells:
        controls = [cell.value(arm, "ece") for arm in (*LABELS_ALONE, *WITH_POOL, "paper") if arm in cell.arms]
        if controls:
            pairs.append((cell.value("chain", "ece"), min(controls)))
    if pairs:
        words = f"{mean(a for a, _ in pairs):.3f} against {mean(b for _, b in pairs):.3f}, lower in "
        words += f"{sum(a <= b for a, b in pairs)} of {len(pairs)}"
        what = "expected calibration error of the chain against the best control's"
        yield _line("G5", what, words, "≤ in each", all(a <= b for a, b in pairs))
    stages = [[stage["test"][METRIC] for stage in cell.arms["chain"]["stages"]] for cell in cells]
    falls = sum(after < before for values in stages for before, after in pairwise(values))
    steps = sum(len(values) - 1 for values in stages)
    what = "stages whose mean on test is below that of the stage before"
    yield _line("G5", what, f"{falls} of {steps}", "0", falls == 0)


def _first_stage(cells: Sequence[Cell]) -> Iterable[str]:
    gains = _by_set(cells, lambda _: "first")
    if gains:
        words, means, _ = _told(gains)
        most = max(value for values in gains.values() for value, _, _ in values)
        what = "chain minus one model on the first shard alone, which has a third of its labels"
        yield _line("G6", what, f"at most {most:+.1f}; {words}", "≥ 15 on one set", max(means) >= 15)
