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

"""Run the comparisons of the label-efficiency study, and write their page."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, digits, machine
from benchmarks.label_efficiency.page import RESULTS, write_page
from monai_weckd.compare.store import RunStore
from monai_weckd.engines.label_task import task_of
from monai_weckd.plan.label_kind import LabelKind

SETS = {
    "otoscopy": "otoscopy",
    "blood_smear": "blood_smear",
    "brain_mri": "brain_mri",
    "hippocampus_mri_3d": "brain_mri_3d",
}
# what a training begins with: overlays and settings
STARTS: dict[str, tuple[str, ...]] = {
    "solved": (),
    "compact": (),
    "two_views": (),
    "pretrained": ("--config_file", "scratch.json", "pretrained.json"),
    "scratch": ("--config_file", "scratch.json"),
}
DESCRIPTION = """Hold the bundles' chain against its controls on real images, at several label budgets. Results go to
benchmarks/label_efficiency/results, tables and curves to docs/label_efficiency.md. What is finished stays."""


def title(start: str, name: str, fraction: float, args: argparse.Namespace) -> str:
    """Return the name of the folder and file of one comparison."""
    variant = args.variant.replace(",", "").replace(" ", "_")
    return "-".join(part for part in (start, name, f"{fraction:g}", variant) if part)


def command(start: str, name: str, fraction: float, args: argparse.Namespace) -> list[str]:
    """Return the command of one comparison."""
    found = [
        "compare",
        f"--bundle=bundles/{SETS[name]}_chain_classification",
        f"--dataset_dir={args.data / name}",
        f"--output_dir={args.output_dir / title(start, name, fraction, args)}",
        f"--label_fraction={fraction:g}",
        f"--folds={args.folds}",
        f"--repeats={args.repeats}",
        "--seeds",
        *map(str, args.seeds),
        f"--set=cache_dir={args.output_dir / f'cache-{start}-{name}'}",
        "--set=missing_classes=allow",
        *STARTS[start],
        *args.extra,
    ]
    return [*found, f"--arms={args.arms}"] if args.arms else found


def compare(start: str, name: str, fraction: float, args: argparse.Namespace) -> None:
    """Run one comparison in a fresh process, and keep its results."""
    parts = command(start, name, fraction, args)
    print(" ".join(["python -m monai_weckd", *parts]), flush=True)
    done = subprocess.run([sys.executable, "-W", "ignore", "-m", "monai_weckd", *parts], cwd=ROOT)
    found = args.output_dir / title(start, name, fraction, args) / "compare.json"
    if done.returncode > 1 or not found.exists():
        raise RuntimeError(f"compare: expected results of {start}, {name}, {fraction:g}, got none. See above.")
    content = json.loads(found.read_text(encoding="utf-8"))
    content["about"] |= {"machine": machine(), "start": start, "dataset_dir": name, "variant": args.variant}
    content["about"]["set"] = [change for change in content["about"]["set"] if not change.startswith("cache_dir=")]
    keep_predictions(content, RunStore(found.parent / "runs"))
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{title(start, name, fraction, args)}.json"
    path.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def keep_predictions(content: dict[str, Any], store: RunStore) -> None:
    """Add the predicted class of each test item, a digit each, to the results of a comparison.

    Args:
        content: of ``compare.json``; ``tests`` gets ids and classes of the test items by repeat and fold, each result
            ``predicted``, in their order.
        store: where the comparison keeps its predictions.

    """
    content["tests"] = {}
    task = task_of(LabelKind(tuple(content["classes"])))
    for result in content["results"]:
        cell = result["repeat"], result["fold"], result["seed"]
        found = store.predictions(result["arm"], cell, task)
        place = f"{result['repeat']} {result['fold']}"
        content["tests"][place] = {"ids": list(found.ids), "labels": digits(found.labels)}
        result["predicted"] = digits(found.probabilities.argmax(axis=1))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the requested comparisons, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.label_efficiency", description=DESCRIPTION)
    parser.add_argument("--data", type=Path, help="folder of the sets; without it the page is written, and nothing run")
    parser.add_argument("--output_dir", type=Path, default=ROOT / ".label_efficiency", help="folder for single runs")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS)[:3])
    parser.add_argument("--start", choices=STARTS, default="solved")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.02, 0.05, 0.1])
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--variant", default="", help="name of a changed chain, for the table of ablations")
    parser.add_argument("--arms", help="names, separated by commas (default: all)")
    parser.add_argument("--extra", action="append", default=[], help="further option of compare, as --extra=--set=K=V")
    args = parser.parse_args(argv)
    if args.data is not None:
        for fraction in args.fractions:
            for name in args.sets:
                compare(args.start, name, fraction, args)
    write_page()


if __name__ == "__main__":
    main()
