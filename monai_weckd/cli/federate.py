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

from monai_weckd.cli.options import add_changes, parse_changes, parse_names
from monai_weckd.utils.messages import nearest

__all__ = ["add_federate"]

MODES = ("exact", "chain", "average")
# options of one mode, with their defaults
OPTIONS: dict[str, dict[str, Any]] = {
    "exact": {},
    "chain": {"teachers": "last", "there_and_back": False, "exact_head": False, "server_dir": None},
    "average": {"rounds": 4, "exact_head": False},
}


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
    add("--mode", default="exact", help="exact (one head from sums; default), chain (a stage at each site) or average")
    add("--dataset_dir", required=True, help="a site's images; {site} stands for its name")
    add("--output_dir", required=True, help="a site's folder for the joint model; {site} stands for its name")
    add("--job_dir", type=Path, required=True, help="folder for the job of NVIDIA FLARE")
    add("--simulate", action="store_true", help="run the job here, with all sites on this machine")
    add("--classes", metavar="A,B,...", help="class names in the order of their indices (default: the bundle's)")
    add("--hours", type=float, default=24, help="how long to wait for a site's answer (default: %(default)s)")
    add("--on_missing", default="stop", help="a site without a usable answer: stop or skip (default: %(default)s)")
    add("--teachers", help="chain: who teaches, last or all earlier sites (default: last)")
    add("--there_and_back", action="store_true", default=None, help="chain: return to the first site by the same way")
    add(
        "--exact_head",
        action="store_true",
        default=None,
        help="chain, average: at the end, solve the joint network's head for the labels of all sites",
    )
    add("--server_dir", help="chain: the server's folder for finished stages (default with --simulate: in --job_dir)")
    add("--rounds", type=int, help="average: how often weights are averaged (default: 4)")
    add_changes(parser)


def _federate(args: argparse.Namespace) -> None:
    from monai_weckd.fl.exact_rounds import check_settings
    from monai_weckd.fl.job import simulate, write_job

    sites = parse_names(args.sites)
    check_settings(sites, args.on_missing, args.hours)
    job_dir = os.path.abspath(args.job_dir)
    if args.simulate and len(job_dir.split()) > 1:
        raise ValueError(
            f"job_dir: expected a path without spaces, since NVIDIA FLARE's simulator splits it, got {job_dir!r}. "
            "Pass another one."
        )
    if args.mode not in MODES:
        raise ValueError(f"mode: expected one of {MODES}, got {args.mode!r}. {nearest(args.mode, MODES)}")
    options = _options(args)
    server_dir = options.pop("server_dir", None)
    if server_dir is None and args.simulate:
        server_dir = args.job_dir / "server"
    settings = {
        "mode": args.mode,
        **{
            name: _absolute(name, getattr(args, name), args.simulate)
            for name in ("bundle", "dataset_dir", "output_dir")
        },
        "classes": None if args.classes is None else parse_names(args.classes),
        "overlays": [os.path.abspath(path) if os.path.isfile(path) else path for path in args.config_file],
        "changes": parse_changes(args.set),
        **options,
    }
    where = None if server_dir is None else Path(_absolute("server_dir", str(server_dir), args.simulate))
    job = write_job(settings, sites, args.job_dir, hours=args.hours, on_missing=args.on_missing, server_dir=where)
    print(f"written {args.job_dir / job.name}, a job for {len(sites)} sites", flush=True)
    if args.simulate:
        simulate(job, sites, args.job_dir)
        for site in sites:
            model = Path(args.output_dir.replace("{site}", site), "model.pt")
            print(f"{site}: {model if model.exists() else 'no model, see its log'}")


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of the mode, or refuse those of another."""
    from monai_weckd.fl.chain_rounds import TEACHERS

    for name in {name for names in OPTIONS.values() for name in names}.difference(OPTIONS[args.mode]):
        if getattr(args, name) is not None:
            modes = " or ".join(mode for mode, names in OPTIONS.items() if name in names)
            raise ValueError(f"{name}: expected it with --mode {modes} alone, got {args.mode}. Leave it out.")
    given = {name: getattr(args, name) for name in OPTIONS[args.mode]}
    options = {name: OPTIONS[args.mode][name] if value is None else value for name, value in given.items()}
    if options.get("teachers", "last") not in TEACHERS:
        raise ValueError(f"teachers: expected one of {TEACHERS}, got {args.teachers!r}. Pass one of them.")
    if options.get("rounds", 1) < 1:
        raise ValueError(f"rounds: expected 1 or more, got {args.rounds}. Pass how often weights are averaged.")
    return options


def _absolute(name: str, path: str, here: bool) -> str:
    """Return a path that is the same wherever a job runs, or refuse it."""
    if here:
        path = os.path.abspath(path)
    if not os.path.isabs(path):
        raise ValueError(f"{name}: expected an absolute path where the job runs, got {path!r}. Or pass --simulate.")
    if name == "output_dir" and here and "{site}" not in path:
        raise ValueError(f"output_dir: expected {{site}} in it with --simulate, got {path!r}. Add it.")
    return path
