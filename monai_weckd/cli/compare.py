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

"""``python -m monai_weckd compare``: compare a bundle's chain with its controls by cross-validation."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.cli.options import add_changes, parse_changes, parse_names

if TYPE_CHECKING:
    from monai_weckd.compare.running import ArmRun
    from monai_weckd.engines.label_task import LabelTask

__all__ = ["add_compare"]


def add_compare(commands: Any) -> None:
    """Add the command ``compare``; heavy imports wait until it runs.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "compare", help="compare a bundle's chain with its controls on your data", allow_abbrev=False
    )
    parser.set_defaults(run=_compare)
    add = parser.add_argument
    add("--bundle", type=Path, required=True, help="folder of the bundle")
    add("--dataset_dir", type=Path, required=True, help="the data, as for training")
    add("--output_dir", type=Path, required=True, help="folder for results; finished runs there are not repeated")
    add_changes(parser)
    add("--arms", help="names, separated by commas (default: all that make sense)")
    add("--reference", default="chain", help="the arm that the others are compared with (default: %(default)s)")
    add("--folds", type=int, help="folds of the cross-validation (default: those of the data, else 5)")
    add("--repeats", type=int, help="repeats of the cross-validation (default: 1)")
    add("--new_splits", action="store_true", help="ignore splits and folds of the data")
    add("--seeds", type=int, nargs="+", default=[0], help="seeds of shards and weights on each split (default: 0)")
    add("--label_fraction", type=float, help="size of a shard (default: the bundle's)")
    add("--val_labels", type=int, help="validation items of each split, 0 for none (default: as many as a shard has)")
    add("--executor", default="local", help="local, or dask for the workers of a scheduler (default: %(default)s)")
    add("--workers", type=int, default=1, help="local processes (default: %(default)s)")
    add("--scheduler", metavar="ADDRESS", help="address of Dask's scheduler, such as tcp://127.0.0.1:8786")
    add("--report_only", action="store_true", help="write the report about finished runs, and run nothing")


def _compare(args: argparse.Namespace) -> None:
    import logging

    from monai_weckd.compare.arms import choose_arms
    from monai_weckd.compare.protocol import choose_splits, refuse_overwritten
    from monai_weckd.compare.schedule import plan_runs, run_schedule
    from monai_weckd.compare.store import RunStore
    from monai_weckd.compare.summary import summarize_comparison
    from monai_weckd.compare.training import ComparedBundle
    from monai_weckd.data.phantoms import is_phantom
    from monai_weckd.utils.spread import Spread
    from monai_weckd.visualize.comparison import check_page

    # fails before the runs, not after them, if a package for the report is missing
    check_page()
    # otherwise MONAI warns in each run that no logging file is set
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    spread = Spread(args.executor, args.workers, args.scheduler)
    changes = _changes(args)
    refuse_overwritten(changes)
    bundle = ComparedBundle(args.bundle, args.dataset_dir, overlays=args.config_file, changes=changes)
    names = None if args.arms is None else parse_names(args.arms)
    active = bundle.size.plan.selection != "random"
    arms = choose_arms(names, active=active, solved=bundle.solved, fault=bundle.fault)
    if args.reference not in [arm.name for arm in arms]:
        raise ValueError(
            f"reference: expected one of the arms {', '.join(arm.name for arm in arms)}, got {args.reference!r}. "
            "Add it to --arms, or pass another."
        )
    protocol = choose_splits(
        bundle, folds=args.folds, repeats=args.repeats, val_labels=args.val_labels, new_splits=args.new_splits
    )
    splits = protocol.splits
    print(protocol.sentence, flush=True)
    runs = plan_runs(bundle, arms, splits, args.seeds)
    store = RunStore(args.output_dir / "runs")
    tell = partial(_print_result, bundle.task)
    if not args.report_only:
        print(f"{len(runs)} runs: {len(arms)} arms, {len(splits)} splits, {len(args.seeds)} seeds", flush=True)
        run_schedule(runs, bundle, store, cache_dir=args.output_dir / "cache", tell=tell, spread=spread)
    content = summarize_comparison(runs, bundle, store, reference=args.reference)
    content["splits"] = protocol.sentence
    _write(args, content, synthetic=is_phantom(args.dataset_dir))
    print(*content["verdicts"], sep="\n")
    print(f"{content['preparation_seconds']:.1f} s went into decoding and embedding images, in no arm's time")
    print(f"{content['finished']} of {content['runs']} runs finished; report {args.output_dir / 'compare.html'}")
    if content["failures"]:
        first = content["failures"][0]
        raise ValueError(f"{len(content['failures'])} runs failed, first one of {first['arm']!r}: {first['error']}")


def _changes(args: argparse.Namespace) -> dict[str, Any]:
    changes = parse_changes(args.set)
    return changes if args.label_fraction is None else {**changes, "label_fraction": args.label_fraction}


def _print_result(task: LabelTask, run: ArmRun, result: Mapping[str, Any]) -> None:
    repeat, fold, seed = run.cell
    what = f"{run.arm.name}, repeat {repeat}, fold {fold}, seed {seed}"
    if "error" in result:
        print(f"{what}: failed: {result['error']}", flush=True)
    else:
        metric, word = next(iter(task.figures.items()))
        figure = "unknown" if result["test"][metric] is None else f"{result['test'][metric]:.3f}"
        share = result.get("pool_share")
        passed = "" if share is None else f", {100 * share:.3g} % of the pool passed the threshold"
        print(f"{what}: {word} {figure}, {result['seconds']:.1f} s{passed}", flush=True)


def _write(args: argparse.Namespace, content: Mapping[str, Any], *, synthetic: bool) -> None:
    from monai_weckd.compare.summary import comparison_csv
    from monai_weckd.compare.tables import arm_tables
    from monai_weckd.utils.files import replace_text, write_atomically
    from monai_weckd.visualize.comparison import comparison_figures, comparison_page

    hidden = ("run", "command", "output_dir", "report_only", "executor", "workers", "scheduler")
    about = {key: str(value) if isinstance(value, Path) else value for key, value in vars(args).items()}
    about = {"synthetic": synthetic, **{key: value for key, value in about.items() if key not in hidden}}
    args.output_dir.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"about": about, **content}, indent=1)
    replace_text(args.output_dir / "compare.json", text + "\n")
    replace_text(args.output_dir / "compare.csv", comparison_csv(content))
    # file names that are not UTF-8 contain lone surrogates, which cannot be encoded
    page = comparison_page(content, about=about).encode(errors="backslashreplace").decode()
    replace_text(args.output_dir / "compare.html", page)
    files = {f"figures/{name}": figure for name, figure in comparison_figures(content).items()}
    files |= {f"tables/{name}": table.encode() for name, table in arm_tables(content).items()}
    for name, data in files.items():
        (args.output_dir / name).parent.mkdir(exist_ok=True)
        write_atomically(args.output_dir / name, data)
