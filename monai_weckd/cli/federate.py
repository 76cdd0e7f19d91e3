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

"""``python -m monai_weckd federate``: one model for several sites, whose images stay there."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from monai_weckd.cli.options import add_changes, parse_changes
from monai_weckd.utils.messages import nearest

__all__ = ["add_federate"]

MODES = ("exact", "chain")


def add_federate(commands: Any) -> None:
    """Add the command ``federate``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "federate", help="solve one model for several sites, whose images stay there", allow_abbrev=False
    )
    parser.set_defaults(run=_federate)
    add = parser.add_argument
    add("--bundle", required=True, help="the bundle's folder, the same at each site")
    add("--sites", required=True, metavar="A,B,...", help="names of the sites, in the order of a chain")
    add("--mode", default="exact", help="exact (one head from sums) or chain (a stage at each site; default: exact)")
    add("--dataset_dir", required=True, help="a site's images; {site} stands for its name")
    add("--output_dir", required=True, help="a site's folder for the joint model; {site} stands for its name")
    add("--job_dir", type=Path, required=True, help="folder for the job of NVIDIA FLARE")
    add("--simulate", action="store_true", help="run the job here, with all sites on this machine")
    add("--classes", metavar="A,B,...", help="class names in the order of their indices (default: the bundle's)")
    add("--hours", type=float, default=24, help="how long to wait for a site's answer (default: %(default)s)")
    add("--on_missing", default="stop", help="a site without a usable answer: stop or skip (default: %(default)s)")
    add("--teachers", default="last", help="who teaches in a chain: last, or all earlier sites (default: %(default)s)")
    add("--there_and_back", action="store_true", help="let a chain return to the first site by the same way")
    add("--server_dir", help="the server's folder for finished stages (default with --simulate: in --job_dir)")
    add_changes(parser)


def _federate(args: argparse.Namespace) -> None:
    from monai_weckd.fl.chain_rounds import TEACHERS
    from monai_weckd.fl.exact_rounds import check_settings
    from monai_weckd.fl.job import simulate, write_job

    sites = args.sites.split(",")
    check_settings(sites, args.on_missing, args.hours)
    if args.mode not in MODES:
        raise ValueError(f"mode: expected one of {MODES}, got {args.mode!r}. {nearest(args.mode, MODES)}")
    if args.teachers not in TEACHERS:
        raise ValueError(f"teachers: expected one of {TEACHERS}, got {args.teachers!r}. Pass one of them.")
    chain = {"teachers": args.teachers, "there_and_back": args.there_and_back}
    if args.mode != "chain" and (args.teachers != "last" or args.there_and_back or args.server_dir):
        raise ValueError(
            f"mode: expected chain with --teachers, --there_and_back or --server_dir, got {args.mode}. Leave them out."
        )
    server_dir = (
        Path(args.server_dir) if args.server_dir else args.job_dir.absolute() / "server" if args.simulate else None
    )
    settings = {
        "mode": args.mode,
        **{
            name: _absolute(name, getattr(args, name), args.simulate)
            for name in ("bundle", "dataset_dir", "output_dir")
        },
        "classes": None if args.classes is None else args.classes.split(","),
        "overlays": args.config_file,
        "changes": parse_changes(args.set),
    }
    job = write_job(
        settings, sites, args.job_dir, hours=args.hours, on_missing=args.on_missing, chain=chain, server_dir=server_dir
    )
    print(f"written {args.job_dir / job.name}, a job for {len(sites)} sites", flush=True)
    if args.simulate:
        simulate(job, sites, args.job_dir)
        for site in sites:
            model = Path(args.output_dir.replace("{site}", site), "model.pt")
            print(f"{site}: {model if model.exists() else 'no model, see its log'}")


def _absolute(name: str, path: str, here: bool) -> str:
    """Return a path that is the same wherever a job runs, or refuse it."""
    if here:
        path = os.path.abspath(path)
    if not os.path.isabs(path):
        raise ValueError(f"{name}: expected an absolute path at the sites, got {path!r}. Or pass --simulate.")
    if name == "output_dir" and here and "{site}" not in path:
        raise ValueError(f"output_dir: expected {{site}} in it with --simulate, got {path!r}. Add it.")
    return path
