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

"""Trainings that die or run out of room: each is a fork of this process, which has imported what they need."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import torch
from bundle_runs import OTOSCOPY
from monai.bundle import ConfigWorkflow
from process_copies import write_output_to

from monai_weckd.utils.errors import first_cause

CLOCK = ("seconds", "cost", "digest")

logger = logging.getLogger(__name__)


def run_once(settings, *, fault=None, kill_after=None):
    """Train once; returns exit status (negative: a signal), the last line of the output and the seconds that it took.

    Args:
        settings: of the bundle; ``overlays`` are names of files in its ``configs``.
        fault: None, or how the run is to die or to fail by itself, see :func:`arrange`.
        kill_after: seconds after which it is killed.

    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        run = multiprocessing.get_context("fork").Process(target=child, args=(settings, fault, output.fileno()))
        run.start()
        run.join(kill_after)
        if run.is_alive():
            run.kill()
        run.join()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    seconds = time.perf_counter() - began
    where = "" if fault is None else f", {fault['where']} write {fault['number']} of {fault['file']}"
    logger.info("status %d after %.1f s%s", run.exitcode, seconds, where)
    return run.exitcode, lines[-1] if lines else "", seconds


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


def child(settings, fault, output):
    write_output_to(output, output)
    torch.set_num_threads(1)  # a forked process has none of its parent's other threads
    try:
        if fault is not None:
            arrange(fault)
        run(dict(settings))
    except BaseException as error:
        # the output is a file, too
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        traceback.print_exc()
        # as the bundle's show_cause_last does
        sys.stderr.write(f"{type(first_cause(error)).__name__}: {first_cause(error)}\n")
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)
