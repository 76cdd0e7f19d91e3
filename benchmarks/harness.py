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

"""Shared tools of the benchmarks: results, interleaved timing, and child processes."""

from __future__ import annotations

import ctypes
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from pathlib import Path

__all__ = ["Result", "child", "digits", "interleave", "keep_heap", "machine", "markdown", "processor", "ratio", "slope"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Args:
        goal: name of the goal, such as "P1".
        what: description of the comparison.
        value: the measured value.
        limit: limit of the goal, None for a figure without a goal.
        at_least: whether the limit is a minimum (else a maximum).
        unit: unit of the value, "x" for a ratio.
        note: how it was measured, or why it misses the goal.

    """

    goal: str
    what: str
    value: float
    limit: float | None = None
    at_least: bool = False
    unit: str = "x"
    note: str = ""

    @property
    def verdict(self) -> str:
        """Return "met", "missed", or an empty text without a goal."""
        if self.limit is None:
            return ""
        met = self.value >= self.limit if self.at_least else self.value <= self.limit
        return "met" if met else "missed"


def digits(numbers: Iterable[int]) -> str:
    """Return a character for each number: 0 to 9, a to z. So thousands of predicted classes are one short line.

    Args:
        numbers: each from 0 to 35.

    """
    return "".join("0123456789abcdefghijklmnopqrstuvwxyz"[number] for number in numbers)


def interleave(
    arms: dict[str, Callable[[], object]],
    *,
    rounds: int,
    repeats: int = 1,
    warm_up: int = 2,
    lead: int = 0,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, list[float]]:
    """Return the seconds per call of each arm for each round; the arms take turns, in reverse order every other round.

    Args:
        arms: functions to call, by name.
        rounds: number of rounds that count.
        repeats: calls in a row; their mean counts.
        warm_up: rounds before these, which do not count.
        lead: calls at the start of a turn that do not count, since the previous arm's data may still be in the cache.
        clock: returns seconds; by default the processor time of this process, which other load does not affect.

    """
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-warm_up, rounds):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            for _ in range(lead):
                arms[name]()
            start = clock()
            for _ in range(repeats):
                arms[name]()
            if number >= 0:
                times[name].append((clock() - start) / repeats)
    return times


def ratio(times: dict[str, list[float]], one: str, *others: str) -> float:
    """Return the median over the rounds of one arm's time divided by the sum of the others' times."""
    rivals = zip(*(times[name] for name in others), strict=True)
    return statistics.median(time / sum(rival) for time, rival in zip(times[one], rivals, strict=True))


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the exponent of the best power law: the slope of a least-squares line through the logarithms."""
    return statistics.linear_regression([math.log(n) for n in sizes], [math.log(v) for v in values]).slope


def child(module: str, *arguments: object, **settings: str) -> dict:
    """Run a benchmark's module in a fresh interpreter with one thread, and return the JSON that it prints last.

    Args:
        module: a module of this package, run with ``-m``.
        arguments: its arguments.
        settings: further environment variables.

    """
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{module}", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **settings}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def keep_heap() -> None:
    """Make the C library keep freed memory, so that no arm pays for pages that an earlier arm has returned.

    glibc sometimes returns the end of its heap to the system. A step of some milliseconds then faults on sixty pages
    or on none, depending on the arm that ran before.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        for option in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
            libc.mallopt(option, 2**30)


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model of the processor, from the kernel if it gives one."""
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, model = line.partition(":")
            if name.strip() == "model name" and model.strip():
                return model.strip()
    return platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """Return date, processor and versions."""
    return {
        "date": date.today().isoformat(),
        "processor": f"{os.cpu_count()} cores, {processor()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "monai", "pytorch-ignite", "numpy")},
    }


def markdown(results: Sequence[Result], about: dict[str, str]) -> str:
    """Return the table for the documentation."""
    lines = [", ".join(f"{key} {value}" for key, value in about.items()) + ".", ""]
    lines += ["| goal | what | measured | limit | |", "|---|---|---|---|---|"]
    for result in results:
        limit = "" if result.limit is None else f"{'≥' if result.at_least else '≤'} {result.limit:g} {result.unit}"
        note = f" ({result.note})" if result.note else ""
        lines.append(
            f"| {result.goal} | {result.what}{note} | {result.value:.3g} {result.unit} | {limit} | {result.verdict} |"
        )
    return "\n".join(lines) + "\n"
