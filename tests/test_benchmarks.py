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

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import benchmarks.__main__ as main  # noqa: E402
from benchmarks.__main__ import BEGIN, END, PAGE, PARTS, RESULTS, load, on_page  # noqa: E402
from benchmarks.chain_cost import RECIPE, run_bundle  # noqa: E402
from benchmarks.harness import Result, interleave, machine, markdown, processor, ratio, slope  # noqa: E402
from benchmarks.interval_coverage import false_alarms  # noqa: E402
from benchmarks.rivals import FOLDER  # noqa: E402


def test_arms_take_turns_and_warm_up_rounds_do_not_count():
    calls, clock = [], iter(range(10_000))
    times = interleave(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=3,
        repeats=2,
        warm_up=1,
        lead=1,
        clock=lambda: next(clock),
    )
    assert "".join(calls) in ("aaabbbbbbaaaaaabbbbbbaaa", "bbbaaaaaabbbbbbaaaaaabbb")
    assert times == {"a": [0.5] * 3, "b": [0.5] * 3}  # one tick of the clock for two calls


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    times = {"ours": [2.0, 9.0, 4.0], "one": [1.0, 1.0, 1.0], "two": [1.0, 2.0, 3.0]}
    assert ratio(times, "ours", "one", "two") == 1.0
    assert ratio(times, "ours", "one") == 4.0


def test_the_slope_is_the_exponent():
    sizes = [1_000, 10_000, 100_000]
    assert slope(sizes, [3e-4 * size**1.3 for size in sizes]) == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("value", "limit", "at_least", "verdict"),
    [(1.0, 1.0, False, "met"), (1.01, 1.0, False, "missed"), (2.0, 2.0, True, "met"), (1.9, 2.0, True, "missed")],
)
def test_a_goal_is_met_or_missed(value, limit, at_least, verdict):
    result = Result("P1", "this / that", value, limit, at_least, note="quietly")
    assert result.verdict == verdict
    assert Result("P1", "this", value).verdict == ""
    table = markdown([result], {"date": "today"})
    assert (
        f"| P1 | this / that (quietly) | {value:.3g} x | {'≥' if at_least else '≤'} {limit:g} x | {verdict} |" in table
    )


def test_the_table_of_the_documentation_is_that_of_the_results():
    found = json.loads(RESULTS.read_text(encoding="utf-8"))
    results = load(found)
    assert [result.verdict for result in results] == [row["verdict"] for part in PARTS for row in found["parts"][part]]
    page = PAGE.read_text(encoding="utf-8")
    assert on_page(page, markdown(results, found["machine"])) == page
    assert page.count(BEGIN) == page.count(END) == 1
    assert {result.goal for result in results} == {f"P{number}" for number in range(1, 11)}


def test_a_part_is_kept_beside_those_of_the_same_day_and_machine_only(tmp_path, monkeypatch, capsys):
    for name, content in (("PAGE", f"head\n{BEGIN}{END}tail\n"), ("RESULTS", None)):
        monkeypatch.setattr(main, name, tmp_path / name)
        if content:
            (tmp_path / name).write_text(content)
    result = Result("P1", "this / that", 1.0)
    here = {"date": "today", "processor": "2 cores, Abacus 3000"}
    main.keep({part: [result] for part in PARTS}, here)
    main.keep({"steps": [Result("P1", "this / that", 2.0)]}, here)
    kept = (tmp_path / "RESULTS").read_text()
    assert {row["processor"] for rows in json.loads(kept)["parts"].values() for row in rows} == {here["processor"]}
    assert "processor 2 cores, Abacus 3000." in (tmp_path / "PAGE").read_text()
    assert [row.value for row in load(json.loads(kept))] == [2.0] + [1.0] * (len(PARTS) - 1)
    assert (tmp_path / "PAGE").read_text().count("this / that") == len(PARTS)
    for other in ({**here, "date": "tomorrow"}, {**here, "processor": "2 cores, Abacus 4000"}):
        main.keep({"steps": [result]}, other)
        assert "another day or machine" in capsys.readouterr().out
        assert (tmp_path / "RESULTS").read_text() == kept


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor\t: 0\nmodel\t\t: 85\nmodel name\t: Abacus: 3000\n\nmodel name\t: Abacus 4000\n", "Abacus: 3000"),
        ("processor\t: 0\nmodel name\t:\n", "riscv"),
        (None, "riscv"),
    ],
)
def test_the_processor_is_named(cpuinfo, model, tmp_path, monkeypatch):
    monkeypatch.setattr("platform.processor", lambda: "")
    monkeypatch.setattr("platform.machine", lambda: "riscv")
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert processor(tmp_path / "cpuinfo") == model
    assert machine()["processor"].endswith(f" cores, {processor()}")


# these start many processes, which is what they measure
LONG = ("chain_cost", "memory", "scaling", "startup", "checkpoint")


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=[pytest.mark.slow] if part in LONG else []) for part in PARTS]
)
def test_every_part_runs(part, monkeypatch):
    if part == "steps" and not FOLDER.is_dir():
        pytest.skip("the rivals are not installed: make bench does it")
    if part == "memory" and sys.platform != "linux":
        pytest.skip("only Linux tells the peak of a process's memory")
    module = importlib.import_module(f"benchmarks.{part}")
    # memory that is kept would be so for the tests to come, of which one measures it
    monkeypatch.setattr(module, "keep_heap", lambda: None, raising=False)
    results = module.measure(quick=True)
    assert results
    for result in results:
        # what is no matter of speed holds on any machine and for any size
        if result.what.startswith(("losses of all arms on", "keys of the final", "exported: largest")):
            assert result.verdict == "met"


def test_the_bundle_takes_the_recipe(copy_ears, tmp_path, monkeypatch):
    monkeypatch.setattr("logging.disable", lambda level: None)
    for key, value in {"iterations_per_epoch": 1, "label_fraction": 0.2}.items():
        monkeypatch.setitem(RECIPE, key, value)
    assert run_bundle(copy_ears(tmp_path / "ears", 96)).keys() == {"seconds", "cpu_seconds"}


def test_an_unknown_part_is_refused():
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks", "stepps"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "parts: expected some of steps, handler, loading" in done.stderr


def test_equal_methods_are_simulated():
    rates = false_alarms(20, folds=4, repeats=1, seeds=2, group_size=3, spread=0.1)
    assert rates.keys() == {"balanced_accuracy", "macro_auc"}
    assert all(rate <= 0.2 for rate in rates.values())
