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

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.cli.options import split_assignment
from monai_weckd.data.datalist import Datalist, load_datalist
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.oracle import LabelOracle, is_labeled
from monai_weckd.plan.planner import plan_chain, read_shards
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import SPLITS, divide_epochs, group_of

if TYPE_CHECKING:
    from monai_weckd.costs.forecast import BundleForecast

__all__ = ["add_plan"]

SCARCE = 5

PLAN_DEFAULTS = {
    "num_stages": 3,
    "label_fraction": 0.1,
    "policy": "disjoint",
    "shard_by": "item",
    "no_stratify": False,
    "val_fraction": 0.15,
    "test_fraction": 0.25,
    "split_file": None,
    "selection": "random",
    "shard_file": None,
    "missing_classes": "error",
    "seed": 0,
    "max_epochs": 36,
    "iterations_per_epoch": 20,
    "batch_size": 16,
}


def add_plan(commands: Any) -> None:
    """Add the command ``plan``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "plan", help="show who sees what when, and what it costs in labels, steps and seconds", allow_abbrev=False
    )
    parser.set_defaults(run=_plan)

    def add(name: str, **options: Any) -> None:
        # left out where not given: what a bundle says comes between the command line and the defaults
        default = PLAN_DEFAULTS.get(name)
        options["help"] += "" if default is None or default is False else f" (default: {default})"
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS, **options)

    add("dataset_dir", required=True, help="folder with manifest.csv, or with one folder for each class")
    add("bundle", type=Path, help="take what is not given from its train.json, and predict seconds and memory")
    add("set", action="append", metavar="KEY=VALUE", help="set a value of that configuration; may be repeated")
    add("num_stages", type=int, help="number of stages")
    add("label_fraction", type=float, help="size of a shard, of the labeled training items")
    add("policy", help="labels of a stage: disjoint, cumulative or shared")
    add("shard_by", help="draw shards from single items (item) or whole groups (group)")
    add("no_stratify", action="store_true", help="draw shards without reading the other training labels")
    add("val_fraction", type=float, help="expected fraction of groups in validation")
    add("test_fraction", type=float, help="expected fraction of groups in the test split")
    add("split_file", help="JSON file with the split of every item by its id")
    add("selection", help="who chooses shards: random, or a strategy of the chain such as auto")
    add("shard_file", help="plan.json of another run, whose shards are taken")
    add("missing_classes", help="a random shard without some class: error or allow")
    add("seed", type=int, help="seed of splits and shards")
    add("max_epochs", type=int, help="epochs of the whole chain")
    add("iterations_per_epoch", type=int, help="optimizer steps in an epoch")
    add("batch_size", type=int, help="labeled images in a batch")
    add("output", type=Path, help="write the plan to this JSON file")


def _plan(args: argparse.Namespace) -> None:
    forecast = _forecast(args)
    args = argparse.Namespace(**{**PLAN_DEFAULTS, **(forecast.settings if forecast else {}), **vars(args)})
    datalist = load_datalist(args.dataset_dir, split_file=args.split_file)
    plan = plan_chain(
        datalist.items,
        PlanSettings(
            num_stages=args.num_stages,
            label_fraction=args.label_fraction,
            policy=args.policy,
            shard_by=args.shard_by,
            stratify=not args.no_stratify,
            selection=args.selection,
            missing_classes=args.missing_classes,
            val_fraction=args.val_fraction,
            test_fraction=args.test_fraction,
            seed=args.seed,
        ),
        classes=datalist.classes,
        shards=None if args.shard_file is None else read_shards(args.shard_file),
    )
    splits, stages = list(_split_rows(plan, datalist)), _stage_rows(plan, datalist, args)
    print(_table(["split", "items", "groups", "labels", *plan.classes], splits), end="\n\n")
    print(_table(["stage", "labels", "new", "groups", *plan.classes, "pool", "epochs", "steps", "passes"], stages))
    print("", *_budget(plan, datalist), *_scarce(plan, splits), sep="\n")
    if forecast is not None:
        print("", *forecast.forecast(plan, datalist.items, args), sep="\n")
    if "output" in args:
        args.output.write_text(plan.to_json(), encoding="utf-8")
        print(f"plan {plan.digest[:12]} written to {args.output}")


def _forecast(args: argparse.Namespace) -> BundleForecast | None:
    if "bundle" not in args:
        if "set" in args:
            raise ValueError("set: expected together with a bundle, got it alone. Pass --bundle.")
        return None
    from monai_weckd.costs.forecast import BundleForecast

    return BundleForecast(args.bundle, dict(map(split_assignment, vars(args).get("set", ()))))


def _split_rows(plan: ChainPlan, datalist: Datalist) -> Iterator[list[Any]]:
    oracle = LabelOracle(datalist.items)
    for split in SPLITS:
        items = plan.select(datalist.items, split)
        # the classes of the training items are known only where the plan has read them
        shown = split != "train" or plan.settings.stratify
        labeled = [item["id"] for item in items if is_labeled(item)]
        counts = _class_counts(oracle, plan, labeled) if shown else ["-"] * len(plan.classes)
        yield [split, len(items), len({group_of(item) for item in items}), len(labeled), *counts]


def _stage_rows(plan: ChainPlan, datalist: Datalist, args: argparse.Namespace) -> list[list[Any]]:
    for name in ("iterations_per_epoch", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name}: expected an integer of at least 1, got {getattr(args, name)}. Raise it.")
    oracle = LabelOracle(datalist.items)
    groups = {item["id"]: group_of(item) for item in datalist.items}
    rows = []
    for stage, epochs in zip(plan.stages, divide_epochs(args.max_epochs, plan.settings.num_stages), strict=True):
        steps, labeled = epochs * args.iterations_per_epoch, plan.num_labeled(stage.stage)
        new = len(stage.new)
        known: list[Any] = [len({groups[key] for key in stage.labeled})]
        known += _class_counts(oracle, plan, stage.labeled)
        if not stage.labeled:  # whose labels these will be is for the chain to say
            new = 0 if plan.settings.policy == "shared" and stage.stage > 1 else plan.shard_size
            known = ["-"] * len(known)
        passes = f"{steps * args.batch_size / labeled:.1f}"
        rows.append([stage.stage, labeled, new, *known, len(plan.train) - labeled, epochs, steps, passes])
    return rows


def _class_counts(oracle: LabelOracle, plan: ChainPlan, ids: Iterable[str]) -> list[int]:
    counts = Counter(oracle.reveal(ids, purpose="test").values())
    return [counts[index] for index in range(len(plan.classes))]


def _scarce(plan: ChainPlan, splits: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield a line for each class that validation or test has too few of to measure anything."""
    for split, _, _, _, *counts in splits:
        for name, count in zip(plan.classes, counts, strict=True):
            if split != "train" and count < SCARCE:
                yield f"note: {split} has only {count} of {name!r}; pass another --seed or a larger --{split}_fraction"


def _budget(plan: ChainPlan, datalist: Datalist) -> list[str]:
    budget = plan.label_budget
    total = sum(budget.values())
    lines = [
        f"label budget: {total} of {sum(map(is_labeled, datalist.items))} labels "
        f"= {budget['train']} for training + {budget['val']} for validation",
        f"test: {len(plan.test)} labels, used for the final figures only",
    ]
    if plan.settings.stratify:
        lines.append(
            "stratification: reads the labels of all training items to draw the shards; --no_stratify reads none"
        )
    if plan.undrawn is not None:
        lines.append(
            f"selection: {plan.settings.selection}; "
            "each shard is chosen when its stage starts, before its labels are known"
        )
    if plan.unused:
        lines.append(f"unused: {len(plan.unused)} unlabeled items in validation and test")
    return lines


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    cells = [list(map(str, row)) for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
