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

import json
import logging
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# and the digests of files with these in them
CLOCK = ("seconds", "cost", "digest")

logger = logging.getLogger(__name__)


class BundleServer:
    """Trains bundles in processes that are killed; see server.py."""

    def __init__(self):
        paths = [ROOT, ROOT / "tests", ROOT / "tests" / "bundles"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(map(str, paths))}
        command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("server.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def run(self, settings, *, fault=None, kill_after=None):
        """Train once; returns exit status, the last line of the output and the seconds that it took."""
        began = time.perf_counter()
        self.process.stdin.write(json.dumps({"settings": settings, "fault": fault}) + "\n")
        self.process.stdin.flush()
        pid = json.loads(self.process.stdout.readline())["pid"]
        if kill_after is not None and not select.select([self.process.stdout], [], [], kill_after)[0]:
            os.kill(pid, signal.SIGKILL)
        answer = json.loads(self.process.stdout.readline())
        seconds = time.perf_counter() - began
        where = "" if fault is None else f", {fault['where']} write {fault['number']} of {fault['file']}"
        logger.info("status %d after %.1f s%s", answer["status"], seconds, where)
        return answer["status"], answer["last"], seconds


def without_clock(value):
    if isinstance(value, dict):
        return {key: without_clock(part) for key, part in value.items() if key not in CLOCK}
    return [without_clock(part) for part in value] if isinstance(value, list) else value


def bits(output_dir):
    """Return all that a run has written, without what a clock has told and what is only shown."""
    files = {path.name: path for path in output_dir.rglob("*") if path.suffix in (".part", ".csv", ".json")}
    files |= {str(path.relative_to(output_dir)): path for path in output_dir.rglob("*.pt")}
    return {
        name: without_clock(json.loads(path.read_text())) if path.suffix == ".json" else path.read_bytes()
        for name, path in files.items()
    }
