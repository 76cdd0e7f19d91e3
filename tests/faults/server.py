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

"""Train bundles in processes that may die: what they have to import is imported once, then each run is a fork.

Each line of standard input is a run: JSON with ``settings`` for the bundle, of which ``overlays`` are names of files in
its ``configs``, and ``fault``, None or how the run is to die or to fail by itself. The answers are lines of JSON: the
run's process id and, when it has ended, its exit status (negative: a signal) and the last line of its output.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import matplotlib.figure  # noqa: F401
from bundle_runs import OTOSCOPY
from monai.bundle import ConfigWorkflow

import monai_weckd.bundle
import monai_weckd.utils.files
import monai_weckd.visualize  # noqa: F401
from monai_weckd.utils.errors import first_cause


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class HalfWritten:
    """A file of which half is written, and that is the last thing that this process does."""

    def __init__(self, file):
        self.file = file

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self.file.close()

    def write(self, data):
        self.file.write(data[: len(data) // 2])
        self.file.flush()
        die()


def arrange(fault):
    """Let this process die, or find no room, when it writes a file for the n-th time.

    ``where`` is "within" the write, "before" or "after" the file gets its name; "full" lets no file grow beyond 4 KiB
    from then on.
    """
    left, part = fault["number"], fault["file"] + ".part"
    replace, path_open = os.replace, Path.open

    def due(path):
        nonlocal left
        left -= str(path).endswith(part)
        return left == 0 and str(path).endswith(part)

    def replace_and_die(source, target):
        if due(source):
            if fault["where"] == "after":
                replace(source, target)
            die()
        replace(source, target)

    def open_with_fault(path, mode="r", *args, **kwargs):
        file = path_open(path, mode, *args, **kwargs)
        if "w" not in mode or not due(path):
            return file
        if fault["where"] == "within":
            return HalfWritten(file)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        return file

    if fault["where"] in ("within", "full"):
        Path.open = open_with_fault
    else:
        os.replace = replace_and_die


def run(settings):
    files = [str(OTOSCOPY / "configs" / f"{name}.json") for name in ("train", *settings.pop("overlays", ["scratch"]))]
    workflow = ConfigWorkflow(
        files,
        str(OTOSCOPY / "configs" / "metadata.json"),
        workflow_type="train",
        logging_file=False,
        bundle_root=str(OTOSCOPY),
        **settings,
    )
    workflow.initialize()
    workflow.run()


def child(order, output):
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        if order["fault"] is not None:
            arrange(order["fault"])
        run(order["settings"])
    except BaseException as error:
        # the output is a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        traceback.print_exc()
        # as the bundle's show_cause_last does
        sys.stderr.write(f"{type(first_cause(error)).__name__}: {first_cause(error)}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def tell(**answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main():
    for line in sys.stdin:
        with tempfile.TemporaryFile() as output:
            pid = os.fork()
            if pid == 0:
                child(json.loads(line), output.fileno())
            tell(pid=pid)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            output.seek(0)
            lines = output.read().decode(errors="replace").strip().splitlines()
            tell(status=status, last=lines[-1] if lines else "")


if __name__ == "__main__":
    main()
