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
import signal
import sys
from collections import Counter
from unittest.mock import MagicMock

import pytest
from spread_jobs import NotedJob, dask_cluster

from monai_weckd.utils import spread
from monai_weckd.utils.spread import Spread, map_jobs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "ray"}, r"executor: expected one of \('local', 'dask'\), got 'ray'. Pass one of them."),
        ({"workers": 0}, "workers: expected 1 or more, got 0. Pass such a number."),
        ({"executor": "dask"}, "scheduler: expected the address of a Dask scheduler, got none. Start one with"),
        ({"executor": "dask", "workers": 2, "scheduler": "tcp://a:1"}, "workers: expected none with executor 'dask'"),
        (
            {"scheduler": "tcp://a:1"},
            "scheduler: expected none with executor 'local', got 'tcp://a:1'. Pass",
        ),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ValueError, match=message):
        Spread(**options)


@pytest.mark.parametrize("workers", [1, 2])
def test_each_job_is_done_once(workers):
    assert sorted(map_jobs(abs, range(-5, 0), Spread(workers=workers))) == [1, 2, 3, 4, 5]
    assert list(map_jobs(abs, [], Spread(workers=workers))) == []


def test_in_one_process_a_result_is_there_before_the_next_job_is_made():
    begun = []

    def jobs():
        for number in range(3):
            begun.append(number)
            yield number

    for number in map_jobs(abs, jobs(), Spread()):
        assert begun[-1] == number


@pytest.mark.parametrize("workers", [1, 2])
def test_the_error_of_a_job_is_raised(workers):
    with pytest.raises(ValueError, match="invalid literal"):
        list(map_jobs(int, ["1", "x"], Spread(workers=workers)))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x"])
def test_a_scheduler_that_is_not_there(address, monkeypatch):
    monkeypatch.setattr(spread, "_WAIT", 0.5)
    with pytest.raises(ValueError, match=f"scheduler: expected a Dask scheduler at '{address}', got none .*Start one"):
        list(map_jobs(abs, [1], Spread("dask", scheduler=address)))


@pytest.mark.parametrize(
    ("module", "where", "message"),
    [
        ("joblib", Spread(), r"joblib: expected for compare, .* Install monai-weckd\[compare\]"),
        (
            "distributed",
            Spread("dask", scheduler="tcp://127.0.0.1:9"),
            r"distributed: expected for executor 'dask', .* Install monai-weckd\[spread\]",
        ),
    ],
)
def test_missing_packages_are_asked_for(monkeypatch, module, where, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        list(map_jobs(abs, [1], where))


def keep_all(job, where):
    """Do those of twelve jobs that have no result yet, and keep each result as it comes."""
    for number in map_jobs(job, sorted({*range(12)} - {*job.kept()}), where):
        job.keep(number)


def counts(job):
    return Counter(number for _, number in job.logged())


def test_processes_of_this_machine_share_the_work(tmp_path):
    job = NotedJob(tmp_path, beside=2)
    keep_all(job, Spread(workers=2))
    assert job.kept() == list(range(12))
    assert set(counts(job).values()) == {1}
    assert len({who for who, _ in job.logged()} - {os.getpid()}) == 2


def test_a_killed_process_loses_no_result_that_has_arrived(tmp_path):
    job = NotedJob(tmp_path, kill=5)
    with pytest.raises(ChildProcessError, match=r"executor: expected live workers, got one .* run the command again"):
        keep_all(job, Spread(workers=2))
    kept = job.kept()
    assert 0 < len(kept) < 12
    keep_all(job, Spread(workers=2))
    assert job.kept() == list(range(12))
    assert {counts(job)[number] for number in kept} == {1}


@pytest.mark.slow
def test_the_workers_of_a_dask_cluster_share_the_work_and_one_that_is_killed_loses_no_result(tmp_path):
    job, second = NotedJob(tmp_path, beside=2), tmp_path / "second"
    second.mkdir()
    with dask_cluster(tmp_path) as (address, workers):
        where = Spread("dask", scheduler=address)
        keep_all(job, where)
        assert job.kept() == list(range(12))
        assert set(counts(job).values()) == {1}
        assert {who for who, _ in job.logged()} == {worker.pid for worker in workers}
        # the other worker takes over, without another call
        job = NotedJob(second, kill=5)
        keep_all(job, where)
        assert job.kept() == list(range(12))
        assert counts(job)[5] == 2
        [died] = [worker for worker in workers if worker.poll() is not None]
        assert died.returncode == -signal.SIGKILL


@pytest.mark.parametrize("threads", [{"a": 2}, {"a": 1, "b": 8}])
def test_workers_of_several_threads_are_refused(monkeypatch, threads):
    client = MagicMock()
    client.nthreads.return_value = threads
    client.__enter__.return_value = client
    monkeypatch.setattr("distributed.Client", lambda *_, **__: client)
    with pytest.raises(ValueError, match=rf"scheduler: expected workers of one thread, got {max(threads.values())} "):
        list(map_jobs(abs, [1], Spread("dask", scheduler="tcp://127.0.0.1:9")))
    client.submit.assert_not_called()
