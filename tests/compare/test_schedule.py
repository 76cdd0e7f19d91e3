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

import os
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from monai_weckd.compare.arms import ARMS
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.running import ArmRun
from monai_weckd.compare.schedule import run_schedule
from monai_weckd.compare.store import RunStore

# runs that do nothing but say so, for several processes
WORKER = """
import sys
from pathlib import Path
from test_schedule import make_runs, note
from monai_weckd.compare.schedule import run_schedule
from monai_weckd.compare.store import RunStore
folder = Path(sys.argv[1])
run = note(folder, sys.argv[2], beside={"a", "b"})
run_schedule(make_runs(), None, RunStore(folder / "runs"), cache_dir=folder, tell=lambda *_: None, run=run)
"""


def make_runs(arms=("chain", "single", "ensemble"), folds=4, digest="d"):
    found = []
    for fold in range(folds):
        runs = {}
        for name in arms:
            arm = ARMS[name]
            runs[name] = ArmRun(arm, FoldSplit(0, fold, {}), 0, 1, f"{digest}-{name}", runs.get(arm.needs))
        found += runs.values()
    return found


def note(folder, who, *, beside=frozenset(), fail=()):
    """Return a function that does a run by writing down that it did, and ends none before others have begun one."""

    def run(item, bundle, store, *, cache_dir):
        with (folder / "log").open("a") as log:
            log.write(f"{who} {item.arm.name} {item.split.fold}\n")
        while not beside <= {other for other, *_ in logged(folder)}:
            time.sleep(0.01)
        result = {"digest": item.digest, "test": {}, **({"error": "no"} if item.arm.name in fail else {})}
        store.write(item.arm.name, item.cell, result)
        return result

    return run


def logged(folder):
    path = folder / "log"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def do(folder, runs, **options):
    told = []
    store = RunStore(folder / "runs")
    run_schedule(
        runs,
        None,
        store,
        cache_dir=folder,
        tell=lambda run, result: told.append(run.arm.name),
        run=note(folder, "a", **options),
    )
    return told


def test_finished_runs_are_not_done_again(tmp_path):
    assert len(do(tmp_path, make_runs())) == 12
    assert do(tmp_path, make_runs()) == []
    assert len(logged(tmp_path)) == 12


def test_runs_under_other_settings_are_done_again(tmp_path):
    do(tmp_path, make_runs())
    assert len(do(tmp_path, make_runs(digest="e"))) == 12


def test_failed_runs_are_tried_once_in_each_call_and_the_others_go_on(tmp_path):
    told = do(tmp_path, make_runs(folds=1), fail=["single"])
    assert told == ["chain", "single", "ensemble"]
    time.sleep(0.02)  # coarse clocks of file systems
    assert do(tmp_path, make_runs(folds=1)) == ["single"]


def test_nobody_waits_for_a_failed_run_on_a_server_whose_clock_is_behind(tmp_path, monkeypatch):
    write = RunStore.write

    def write_early(store, arm, cell, result):
        write(store, arm, cell, result)
        os.utime(store.path(arm, cell), (0, 0))

    monkeypatch.setattr(RunStore, "write", write_early)
    monkeypatch.setattr(time, "sleep", lambda seconds: seconds and pytest.fail("it waits"))
    assert do(tmp_path, make_runs(folds=1), fail=["single"]) == ["chain", "single", "ensemble"]


def test_two_processes_share_the_work(tmp_path, pytestconfig):
    paths = [str(pytestconfig.rootpath / "tests" / "compare")]
    code = f"import sys; sys.path[:0] = {paths!r}\n{WORKER}"
    workers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, str(tmp_path), name]) for name in ("a", "b")
    ]
    try:
        assert [worker.wait() for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.kill()
    lines = logged(tmp_path)
    assert sorted(Counter((arm, fold) for _, arm, fold in lines).values()) == [1] * 12
    assert {who for who, _, _ in lines} == {"a", "b"}
    # nobody began an ensemble before its single model was there
    order = [(arm, fold) for _, arm, fold in lines]
    assert all(order.index(("single", fold)) < order.index(("ensemble", fold)) for fold in "0123")


def test_the_work_of_a_killed_process_is_taken_over(tmp_path):
    runs = make_runs(arms=["chain"], folds=1)
    hold = (
        "import sys, time; from filelock import FileLock; from pathlib import Path; path = Path(sys.argv[1])\n"
        "path.parent.mkdir(parents=True); lock = FileLock(path); lock.acquire(); print('held', flush=True)\n"
        "time.sleep(600)"
    )
    lock = RunStore(tmp_path / "runs").path("chain", (0, 0, 0), ".lock")
    other = subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        told = []
        waiter = threading.Thread(target=lambda: told.extend(do(tmp_path, runs)), daemon=True)
        waiter.start()
        time.sleep(0.3)
        assert told == []
        assert waiter.is_alive()
    finally:
        other.kill()
        other.wait()
    waiter.join()
    assert told == ["chain"]


def test_a_run_waits_for_one_whose_labels_it_uses(tmp_path):
    # listed in the wrong order, as where another process does the first
    single, ensemble = make_runs(arms=["single", "ensemble"], folds=1)
    assert do(tmp_path, [ensemble, single]) == ["single", "ensemble"]
