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

"""Jobs for other processes, which import nothing heavy there, and a Dask cluster of two workers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TESTS = Path(__file__).resolve().parent


class NotedJob:
    """Return a number after writing down which process began it.

    Args:
        folder: folder of the notes, which all processes see.
        beside: number of processes that must have begun a job before one ends.
        kill: the job that kills its process the first time, once another result has been kept.

    """

    def __init__(self, folder, *, beside=1, kill=None):
        self.folder, self.beside, self.kill = Path(folder), beside, kill

    def __call__(self, number):
        with (self.folder / "log").open("a") as log:
            log.write(f"{os.getpid()} {number}\n")
        while len({who for who, _ in self.logged()}) < self.beside:
            time.sleep(0.01)
        died = self.folder / "died"
        if number == self.kill and not died.exists():
            while not list(self.folder.glob("kept-*")):
                time.sleep(0.01)
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def keep(self, number):
        """Write down that a result has arrived."""
        (self.folder / f"kept-{number}").touch()

    def kept(self):
        """Return the numbers whose results have arrived."""
        return sorted(int(path.name.removeprefix("kept-")) for path in self.folder.glob("kept-*"))

    def logged(self):
        """Return process and number of each job that began."""
        path = self.folder / "log"
        return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


@contextmanager
def dask_cluster(folder, *, threads=1) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """Yield the address of a scheduler of Dask on 127.0.0.1, and the processes of its two workers."""
    paths = [str(TESTS), str(TESTS.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "DASK_TEMPORARY_DIRECTORY": str(folder)}
    processes: list[subprocess.Popen] = []

    def start(name, *words):
        log = Path(folder) / f"{name}.log"
        words = [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        with log.open("w") as stream:
            processes.append(subprocess.Popen(words, env=environment, stdout=stream, stderr=stream))
        return log

    def wait_for(text, log):
        while True:
            assert processes[-1].poll() is None, log.read_text()
            for line in log.read_text().splitlines():
                if text in line:
                    return line.split()[-1]
            time.sleep(0.05)

    try:
        address = wait_for("Scheduler at:", start("scheduler", "scheduler", "--port", "0"))
        options = ("--nthreads", str(threads), "--no-nanny", "--memory-limit", "0")
        logs = [start(f"worker{number}", "worker", address, *options) for number in range(2)]
        for log in logs:
            wait_for("Registered to:", log)
        yield address, processes[1:]
    finally:
        for process in processes:
            process.kill()
            process.wait()
