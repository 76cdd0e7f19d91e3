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


"""Balanced accuracy on held-out groups after each stage: labels that the chain asks for, against random ones."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain
from monai_weckd.data import load_datalist
from monai_weckd.metrics import classification_metrics
from monai_weckd.splits import assign_split, hash_fraction

__all__ = ["grow", "hold_out"]

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
ORDERS = ("chain", "random")


def hold_out(dataset_dir: Path, *, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Return the items to label, without labels, those of a quarter of the groups to test on, and the truth by id."""
    items, classes, _ = load_datalist(dataset_dir)
    truth = {item["id"]: classes[item["label"]] for item in items}
    blind = [{key: item[key] for key in ("image", "id", "group")} for item in items]
    split = {
        item["id"]: assign_split(item["group"], seed=seed, val_fraction=0.01, test_fraction=0.25) for item in items
    }
    return (
        [item for item in blind if split[item["id"]] != "test"],
        [item for item in blind if split[item["id"]] == "test"],
        truth,
    )


def grow(
    bundle: AnnotatedBundle, dataset_dir: Path, output_dir: Path, *, order: str, seed: int, labels: int, stages: int
) -> list[float]:
    """Return the balanced accuracy of the model on the held-out groups after each stage of so many labels."""
    items, test, truth = hold_out(dataset_dir, seed=seed)
    chain = AnnotatedChain(bundle, output_dir, ahead=labels)
    chain.score(items)
    given: dict[str, str] = {}
    found = []
    for _ in range(stages):
        for key in _asked(chain, items, given, order=order, seed=seed, count=labels):
            given[key] = truth[key]
        chain.append_stage(items, given)
        probabilities = bundle.embed(test, [chain.path / "model.pt"])[1][0]
        places = [bundle.classes.index(truth[item["id"]]) for item in test]
        found.append(float(classification_metrics(probabilities, places)["balanced_accuracy"] or 0))
    return found


def _asked(
    chain: AnnotatedChain,
    items: Sequence[Mapping[str, Any]],
    given: Mapping[str, str],
    *,
    order: str,
    seed: int,
    count: int,
) -> list[str]:
    if order == "chain":
        return [one.id for one in chain.next(items, given, count=count)]
    left = [item["id"] for item in items if item["id"] not in given]
    return sorted(left, key=lambda key: hash_fraction(seed, "random order", key))[:count]


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return the command line of whoever labels stage by stage."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("bundle", help="name of a bundle")
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--labels", type=int, default=24, help="labels of a stage")
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3, help="how often, each time with other groups held out")
    return parser


def main() -> None:
    """Print a line for each order, and write all figures."""
    parser = arguments(__doc__)
    parser.add_argument("--cache_dir", type=Path, help="where embeddings are kept")
    parser.add_argument("--output", type=Path, help="JSON with all figures")
    args = parser.parse_args()
    figures: dict[str, list[list[float]]] = {order: [] for order in ORDERS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for order in ORDERS:
                bundle = AnnotatedBundle(
                    BUNDLES / args.bundle,
                    args.dataset_dir,
                    overlays=["pretrained.json"],
                    changes={"freeze_backbone": True, "seed": seed},
                    cache_dir=args.cache_dir or Path(folder, "cache"),
                )
                found = grow(
                    bundle,
                    args.dataset_dir,
                    Path(folder, f"{order}_{seed}"),
                    order=order,
                    seed=seed,
                    labels=args.labels,
                    stages=args.stages,
                )
                figures[order].append(found)
                print(order, seed, *(f"{value:.3f}" for value in found), flush=True)
    for order, rows in figures.items():
        print(order, "mean", *(f"{value:.3f}" for value in np.mean(rows, axis=0)))
    if args.output is not None:
        args.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
