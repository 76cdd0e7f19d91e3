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

from collections import Counter

import pytest
from compared_runs import NoBundle, NotedRun, make_runs
from filelock import FileLock

from monai_weckd.compare import schedule
from monai_weckd.compare.schedule import run_schedule
from monai_weckd.compare.store import RunStore
from monai_weckd.utils.spread import Spread


def do(folder, runs, *, spread=None, **options):
    told = []
    run_schedule(
        runs,
        NoBundle(),
        RunStore(folder / "runs"),
        cache_dir=folder,
        tell=lambda run, result: told.append(run.arm.name),
        run=NotedRun(folder, **options),
        spread=spread or Spread(),
    )
    return told


def counts(folder):
    return Counter(NotedRun(folder).logged())


def check_all_is_done(folder):
    store = RunStore(folder / "runs")
    for item in make_runs():
        assert store.read(item.arm.name, item.cell, digest=item.digest) == {"digest": item.digest, "test": {}}
        assert store.path(item.arm.name, item.cell, ".plan.json").read_text() == "a plan"


def test_finished_runs_are_not_done_again(tmp_path):
    assert len(do(tmp_path, make_runs())) == 12
    assert do(tmp_path, make_runs()) == []
    assert set(counts(tmp_path).values()) == {1}
    check_all_is_done(tmp_path)


def test_runs_under_other_settings_are_done_again(tmp_path):
    do(tmp_path, make_runs())
    assert len(do(tmp_path, make_runs(digest="e"))) == 12


def test_failed_runs_are_tried_once_in_each_call_and_the_others_go_on(tmp_path):
    told = do(tmp_path, make_runs(folds=1), fail=["single"])
    assert told == ["chain", "single", "ensemble"]
    assert do(tmp_path, make_runs(folds=1)) == ["single"]


def test_a_run_waits_for_one_whose_labels_it_uses(tmp_path):
    # listed in the wrong order
    single, ensemble = make_runs(arms=["single", "ensemble"], folds=1)
    assert do(tmp_path, [ensemble, single]) == ["single", "ensemble"]


def test_a_run_has_the_results_of_all_that_it_uses(tmp_path):
    views = make_runs(arms=["chain", "tuned+labels", "two_views"], folds=1)
    assert do(tmp_path, views[::-1]) == ["chain", "tuned+labels", "two_views"]
    store = RunStore(tmp_path / "runs")
    assert [store.read(item.arm.name, item.cell, digest=item.digest)["digest"] for item in views] == [
        item.digest for item in views
    ]


def test_a_second_call_on_the_same_folder_is_refused(tmp_path):
    (tmp_path / "runs").mkdir()
    with (
        FileLock(tmp_path / "runs" / "compare.lock"),
        pytest.raises(ValueError, match=r"output_dir: expected no other comparison at work on .*, got one. Wait"),
    ):
        do(tmp_path, make_runs())
    assert len(do(tmp_path, make_runs())) == 12


@pytest.mark.parametrize("after", [1, 5, 9])
def test_workers_that_die_lose_no_finished_run(tmp_path, monkeypatch, after):
    genuine = schedule.map_jobs

    def dying(function, jobs, spread):
        for result in genuine(function, jobs, spread):
            if sum(counts(tmp_path).values()) > after:
                raise ChildProcessError("executor: expected live workers, got one that died.")
            yield result

    with monkeypatch.context() as patch:
        patch.setattr(schedule, "map_jobs", dying)
        with pytest.raises(ChildProcessError):
            do(tmp_path, make_runs())
    assert len(do(tmp_path, make_runs())) == 12 - after
    check_all_is_done(tmp_path)
    assert sorted(counts(tmp_path).values()) == [1] * 11 + [2]
