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

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PYTHON = sys.executable
OTOSCOPY = ROOT / "bundles" / "otoscopy_chain_classification"
# on the command line; a stage on a frozen backbone takes a second
SMALL = ("--set", "spatial_size=[64,64]")
# a chain that is trained step by step
SCRATCH = ("--config_file", "scratch.json", "--set", "max_epochs=6")
SCRATCH += ("--set", "iterations_per_epoch=3", "--set", "batch_size=8")
VALIDATED = (*SMALL, "--val_fraction", "0.25")

needs_monai_label = pytest.mark.skipif(
    importlib.util.find_spec("monailabel") is None, reason="MONAI Label is not installed"
)


def listens(port):
    """Return whether somebody listens on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class LabelServer:
    """A server in a process of its own, on a free port of this machine, spoken to by REST alone."""

    def __init__(self, studies, output_dir, *, options=(), settings=VALIDATED, bundle=OTOSCOPY):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        command = [PYTHON, "-W", "ignore", "-m", "monai_weckd", "label", "--bundle", bundle, "--studies", studies]
        command += ["--output_dir", output_dir, "--port", self.port, *options, *settings]
        self.log = Path(output_dir).with_suffix(".log")
        with self.log.open("ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "http_proxy": "http://127.0.0.1:9"}
            self.process = subprocess.Popen(
                list(map(str, command)), stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
            )

    def __enter__(self):
        while self.process.poll() is None:
            if listens(self.port):
                return self
            time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(self.log.read_text()[-4000:])

    def __exit__(self, *error):
        self.process.kill()  # as the power does
        self.process.wait()

    def ask(self, method, path, *, session=None, **options):
        """Return the answer to a request."""
        import requests

        speaker = session or requests.Session()
        speaker.trust_env = False  # no proxy
        return speaker.request(method, self.url + path, timeout=200, **options)

    def state(self):
        return self.ask("GET", "/weckd/state").json()

    def wait_for_stage(self):
        """Wait until no stage is being trained; returns the state then."""
        while (state := self.state())["training"]["running"]:
            time.sleep(0.1)
        return state

    def memory_mb(self):
        """Return how much memory the server's process holds."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


LONG = [f"{'n' * length}.png" for length in (246, 247, 250, 251)] + [f"{'ä' * 125}.png"]
