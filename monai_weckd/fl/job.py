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

"""The exact head, a chain, or an average of several sites as a job of NVIDIA FLARE."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from monai_weckd.fl.messages import pack
from monai_weckd.utils.records import json_digest

__all__ = ["simulate", "write_job"]

has_nvflare = find_spec("nvflare") is not None

NAME = "federation"
SCRIPT = "site.py"  # what a job carries to the sites, where the package is installed
POLLING = 0.5  # seconds between two questions of a site whether there is a task; by default FLARE waits 2 each time
_LINES = "from monai_weckd.fl.site import main\n\nmain()\n"


def write_job(
    settings: Mapping[str, Any],
    sites: Sequence[str],
    job_dir: Path,
    *,
    hours: float,
    on_missing: str,
    server_dir: Path | None = None,
) -> Any:
    """Write a job that a server of NVIDIA FLARE takes, and return it, a ``nvflare.job_config.api.FedJob``.

    Args:
        settings: see :py:func:`monai_weckd.fl.messages.pack`.
        sites: names of the sites.
        job_dir: gets the folder of the job.
        hours: how long to wait for a site's answer.
        on_missing: see :py:func:`monai_weckd.fl.exact_rounds.solve_over_sites` and
            :py:func:`monai_weckd.fl.chain_rounds.run_over_sites`.
        server_dir: the server's folder for the stages of a chain, so that the same job goes on after the server or a
            site has failed; default None: nothing is kept.

    Raises:
        ImportError: When NVIDIA FLARE is not installed.

    """
    if not has_nvflare:
        raise ImportError(
            "federate: expected the package nvflare, got none. Install it: pip install 'monai-weckd[flare]'."
        )
    from nvflare.fuel.utils.constants import FrameworkType
    from nvflare.job_config.api import FedJob
    from nvflare.job_config.script_runner import ScriptRunner

    from monai_weckd.fl.flare import AverageController, ChainController, ExactController

    all_of_them = on_missing == "stop"
    job = FedJob(
        name=NAME,
        min_clients=len(sites) if all_of_them else 1,
        mandatory_clients=list(sites) if all_of_them else None,
    )
    job.set_app_packages(["monai_weckd"])  # not sent to the sites
    job.to_server({"server": {"task_request_interval": POLLING}})
    given = (list(sites), hours, on_missing)
    if settings["mode"] == "chain":
        name = f"{json_digest({**settings, 'sites': list(sites)})[:16]}.pt"
        options = {key: settings[key] for key in ("teachers", "there_and_back", "exact_head")}
        job.to_server(ChainController(*given, **options, kept=None if server_dir is None else str(server_dir / name)))
    elif settings["mode"] == "average":
        job.to_server(AverageController(*given, settings["rounds"], settings["exact_head"]))
    else:
        job.to_server(ExactController(*given))
    with _script(job_dir):
        job.to_clients(ScriptRunner(script=SCRIPT, script_args=pack(settings), framework=FrameworkType.NUMPY))
        job.export_job(os.curdir)
    return job


def simulate(job: Any, sites: Sequence[str], job_dir: Path) -> None:
    """Run a job with all sites on this machine; the log of each is below ``simulation``.

    Args:
        job: result of :py:func:`write_job`.
        sites: names of the sites.
        job_dir: the folder of the job; it gets the folder ``simulation``.

    Raises:
        ValueError: When the job fails.

    """
    from nvflare.recipe import SimEnv

    folder = job_dir.absolute() / "simulation"
    try:
        with _script(job_dir):
            SimEnv(clients=list(sites), num_threads=len(sites), workspace_root=str(folder)).deploy(job)
    except RuntimeError as error:
        log = folder / NAME / "server" / "log.txt"
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        reasons = re.findall(r"^ValueError: (.*)$", text, re.MULTILINE)
        raise ValueError(reasons[-1] if reasons else f"federate: {error}") from error


@contextmanager
def _script(job_dir: Path) -> Iterator[None]:
    """Enter a folder with the script: NVIDIA FLARE sends a script to the sites if its path is relative."""
    job_dir.mkdir(parents=True, exist_ok=True)
    (job_dir / SCRIPT).write_text(_LINES, encoding="utf-8")
    before = Path.cwd()
    os.chdir(job_dir)
    try:
        yield
    finally:
        os.chdir(before)
        (job_dir / SCRIPT).unlink()
