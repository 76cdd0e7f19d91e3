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

"""``python -m monai_weckd plan``: show splits, shards, label budget and cost before training."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai_weckd.cli.options import add_changes, add_fields, given_fields, parse_changes
from monai_weckd.data.datalist import Datalist, load_datalist, plan_datalist
from monai_weckd.data.duplicates import duplicate_notes
from monai_weckd.data.item_level import group_images
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.oracle import LabelOracle, is_labeled
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import SPLITS, group_of
from monai_weckd.utils.options import option

if TYPE_CHECKING:
    from monai_weckd.bundle.config import BundleConfig

__all__ = ["add_plan"]

SCARCE = 5


@dataclass(frozen=True)
class _Sources:
    """Options of the command beyond the plan's settings: files of splits, plan and shards."""

    split_file: str | None = option(None, "JSON file with the split of every item by its id")
    plan: str | None = option(None, "earlier plan.json of some of these images; their groups stay in their splits")
    shards: str | None = option(None, "plan.json of another run, to use its shards")
    findings: bool = option(False, "whether an image may show several findings, or none, in place of one class")
    item_level: str = option("image", "what has one label: image, or all images of a series, study or patient")


# keys of these options in a bundle's configuration
_KEYS = {
    "split_file": "split_file",
    "plan": "plan#earlier",
    "shards": "plan#shards",
    "findings": "datalist#findings",
    "item_level": "datalist#item_level",
}


def add_plan(commands: Any) -> None:
    """Add the command ``plan``.

    Args:
        commands: the subparsers of ``python -m monai_weckd``.

    """
    parser = commands.add_parser(
        "plan", help="show who sees what when, and what it costs in labels and seconds", allow_abbrev=False
    )
    parser.set_defaults(run=_plan)
    add = parser.add_argument
    add("--dataset_dir", required=True, help="folder with manifest.csv, or with one folder for each class")
    add("--bundle", type=Path, help="take missing options from its train.json, and predict seconds and memory")
    add_changes(parser)
    add_fields(parser, PlanSettings)
    add_fields(parser, _Sources)
    add("--output", type=Path, help="write the plan to this JSON file")


def _plan(args: argparse.Namespace) -> None:
    config = _bundle(args)
    settings, sources = _settings(args, config), _sources(args, config)
    datalist = load_datalist(
        args.dataset_dir,
        split_file=sources.split_file,
        spatial_dims=None if config is None else config.spatial_dims,
        findings=sources.findings,
    )
    datalist = group_images(datalist, sources.item_level, args.dataset_dir)
    plan = plan_datalist(datalist, settings, shards=sources.shards, earlier=sources.plan)
    splits = list(_split_rows(plan, datalist))
    print(_table(["split", "items", "groups", "labels", *plan.classes], splits), end="\n\n")
    print(_table(["stage", "labels", "new", "groups", *plan.classes, "pool"], _stage_rows(plan, datalist)))
    print("", *_budget(plan, datalist), *_scarce(plan, splits), *_oddities(plan, datalist), sep="\n")
    if config is not None:
        print("", *_forecast(config, plan, datalist), sep="\n")
    if args.output is not None:
        args.output.write_text(plan.to_json(), encoding="utf-8")
        print(f"plan {plan.digest[:12]} written to {args.output}")


def _bundle(args: argparse.Namespace) -> BundleConfig | None:
    if args.bundle is None:
        for name in ("config_file", "set"):
            if getattr(args, name):
                raise ValueError(f"{name}: expected together with a bundle, got it alone. Pass --bundle.")
        return None
    # imported here: without a bundle, planning needs neither torch nor MONAI
    from monai_weckd.bundle.config import BundleConfig

    config = BundleConfig(args.bundle, overlays=args.config_file, changes=parse_changes(args.set))
    config.value("imports")
    return config


def _settings(args: argparse.Namespace, config: BundleConfig | None) -> PlanSettings:
    settings = PlanSettings() if config is None else config.value("plan#settings")
    return replace(settings, **given_fields(args, PlanSettings))


def _sources(args: argparse.Namespace, config: BundleConfig | None) -> _Sources:
    own = {} if config is None else {name: config.value(key) for name, key in _KEYS.items() if key in config}
    return _Sources(**{**own, **given_fields(args, _Sources)})


def _forecast(config: BundleConfig, plan: ChainPlan, datalist: Datalist) -> Iterator[str]:
    from monai_weckd.costs.forecast import forecast_cost

    return forecast_cost(config, plan, datalist)


def _split_rows(plan: ChainPlan, datalist: Datalist) -> Iterator[list[Any]]:
    oracle = LabelOracle(datalist.items, findings=plan.findings)
    for split in SPLITS:
        items = plan.select(datalist.items, split)
        # the classes of the training items are known only where the plan has read them
        shown = split != "train" or plan.purposes
        labeled = [item["id"] for item in items if is_labeled(item)]
        counts = _class_counts(oracle, plan, labeled) if shown else ["-"] * len(plan.classes)
        yield [split, len(items), len({group_of(item) for item in items}), len(labeled), *counts]


def _stage_rows(plan: ChainPlan, datalist: Datalist) -> list[list[Any]]:
    oracle = LabelOracle(datalist.items, findings=plan.findings)
    oracle.ask(plan.asked)
    groups = {item["id"]: group_of(item) for item in datalist.items}
    rows = []
    for stage in plan.stages:
        labeled, new = plan.num_labeled(stage.stage), len(stage.new)
        known: list[Any] = [len({groups[key] for key in stage.labeled})]
        known += _class_counts(oracle, plan, stage.labeled)
        if not stage.labeled:  # the chain chooses these items when the stage starts
            new = plan.size_of(stage.stage)
            known = ["-"] * len(known)
        rows.append([stage.stage, labeled, new, *known, len(plan.train) - labeled])
    return rows


def _class_counts(oracle: LabelOracle, plan: ChainPlan, ids: Iterable[str]) -> list[int]:
    return list(plan.kind.counts(oracle.reveal(ids, purpose="test").values()).values())


def _scarce(plan: ChainPlan, splits: Iterable[Sequence[Any]]) -> Iterator[str]:
    """Yield a line for each class with too few items in validation or test for a useful measurement."""
    for split, items, _, _, *counts in splits:
        for name, count in zip(plan.classes, counts, strict=True):
            if split != "train" and items and count < SCARCE:
                yield f"note: {split} has only {count} of {name!r}; label more, or pass another --{split}_fraction"


def _oddities(plan: ChainPlan, datalist: Datalist) -> Iterator[str]:
    """Yield what was and was not used, and a note for each contradiction between byte-identical images."""
    yield from filter(None, (datalist.layout, datalist.passed_over.text()))
    splits = {key: split for split in SPLITS for key in getattr(plan, split)}
    for note in duplicate_notes(datalist.items, datalist.classes, splits):
        yield f"note: {note}"


def _budget(plan: ChainPlan, datalist: Datalist) -> list[str]:
    budget = plan.label_budget
    total = sum(budget.values())
    lines = [
        f"label budget: {total} of {sum(map(is_labeled, datalist.items))} labels "
        f"= {budget['train']} for training + {budget['val']} for validation",
        f"test: {len(plan.test)} labels, used for the final figures only"
        if plan.test
        else "test: none held out, so the chain has no final figures; --test_fraction 0.25 holds labels out",
    ]
    if not plan.val:
        lines.append("validation: none held out, so all labels are for training; --val_fraction 0.15 holds labels out")
    if plan.split_by_label:
        lines.append(f"split: reads the labels of all items, to have every {plan.kind.word} in each part")
    if plan.settings.stratify:
        lines.append(
            "stratification: reads the labels of all training items to draw the shards; --stratify false reads none"
        )
    if plan.settings.findings_per_image is not None:
        lines.append(
            f"findings: {plan.settings.findings_per_image} of {len(plan.classes)} of each training image asked for, "
            f"{budget['train'] * plan.settings.findings_per_image} in all"
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
