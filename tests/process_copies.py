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

"""Do in a copy of a process what a new interpreter would do, but for the imports, which take seconds each time."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import torch


def run_copies(
    function: Callable[..., None], calls: list[tuple], *, folder: Path | None = None, preload: tuple[str, ...] = ()
) -> list[subprocess.CompletedProcess]:
    """Call a function in copies of this process, one for each of some tuples of arguments, all at the same time.

    Args:
        function: a function of a module.
        calls: its arguments, for each copy.
        folder: where the copies work, default: where this process does.
        preload: installed modules; the copies are of a process that has imported no others.

    Returns:
        The finished processes, with their output as text; an exception is told there as an interpreter does.

    """
    context = multiprocessing.get_context("forkserver" if preload else "fork")
    if preload:
        context.set_forkserver_preload(list(preload))
    done = []
    with tempfile.TemporaryDirectory() as logs:
        folders = [Path(logs) / str(number) for number in range(len(calls))]
        copies = [
            context.Process(target=_call, args=(function, args, str(log), str(folder or os.getcwd())))
            for args, log in zip(calls, folders, strict=True)
        ]
        for copy, log in zip(copies, folders, strict=True):
            log.mkdir()
            copy.start()
        for copy, args, log in zip(copies, calls, folders, strict=True):
            copy.join()
            out, err = ((log / name).read_text(errors="replace") for name in ("out", "err"))
            done.append(subprocess.CompletedProcess(args, copy.exitcode, out, err))
    return done


def run_module(words: list[str], *, folder: Path | None = None) -> subprocess.CompletedProcess:
    """Do ``python -m`` with these words in a copy of this process."""
    return run_copies(_run_module, [(list(map(str, words)),)], folder=folder)[0]


def write_output_to(out: int | Path, err: int | Path) -> None:
    """Let a copy write its output to files, given by path or descriptor."""
    for descriptor, file in ((1, out), (2, err)):
        os.dup2(file if isinstance(file, int) else os.open(file, os.O_WRONLY | os.O_CREAT), descriptor)
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", buffering=1, closefd=False) for descriptor in (1, 2))


def _call(function: Callable[..., None], args: tuple, logs: str, folder: str) -> None:
    os.chdir(folder)
    write_output_to(Path(logs) / "out", Path(logs) / "err")
    torch.set_num_threads(1)  # a forked process has none of its parent's other threads
    warnings.simplefilter("ignore")
    try:
        function(*args)
    except Exception:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def _run_module(words: list[str]) -> None:
    sys.argv = list(words)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
