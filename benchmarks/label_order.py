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
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain
from monai_weckd.cli.options import parse_changes
from monai_weckd.data import load_datalist
from monai_weckd.metrics import classification_metrics
from monai_weckd.utils.draws import hash_fraction

__all__ = ["grow", "hold_out"]

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
ORDERS = ("chain", "random")


def hold_out(
    dataset_dir: Path, *, seed: int, development: bool = False
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, str]]:
    """Return the items to label (without labels), the test items (a quarter of the groups), and the truth by id.

    Args:
        dataset_dir: folder of the images.
        seed: seed of the draw of groups.
        development: leave out the test groups, and hold out a quarter of the others instead, to choose settings.

    """
    items, classes, *_ = load_datalist(dataset_dir)
    truth = {item["id"]: classes[item["label"]] for item in items}
    blind = [{key: item[key] for key in ("image", "id", "group")} for item in items]
    rest, test = _divide(blind, seed)
    return (*_divide(rest, 100 + seed), truth) if development else (rest, test, truth)


def _divide(items: list[dict[str, Any]], seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    held = [hash_fraction(seed, "split", item["group"]) < 0.25 for item in items]
    return (
        [item for item, out in zip(items, held, strict=True) if not out],
        [item for item, out in zip(items, held, strict=True) if out],
    )


def grow(
    bundle: AnnotatedBundle, output_dir: Path, *, order: str, seed: int, args: argparse.Namespace
) -> tuple[list[float], int]:
    """Return the model's balanced accuracy on the held-out groups after each stage, and the number of rejected stages.

    Args:
        bundle: trains the stages.
        output_dir: for the chain.
        order: "chain" or "random".
        seed: draws the groups, and the random order.
        args: from the command line.

    """
    labels = args.labels
    items, test, truth = hold_out(args.dataset_dir, seed=seed, development=args.development)
    chain = AnnotatedChain(bundle, output_dir, val_fraction=0.25, ahead=labels)
    chain.score(items)
    given: dict[str, str] = {}
    found = []
    for _ in range(args.stages):
        for key in _asked(chain, items, given, order=order, seed=seed, count=labels):
            given[key] = truth[key]
        chain.append_stage(items, given)
        probabilities = bundle.embed(test, [chain.path / "model.pt"])[1][0]
        places = [bundle.classes.index(truth[item["id"]]) for item in test]
        found.append(float(classification_metrics(probabilities, places)["balanced_accuracy"] or 0))
    return found, args.stages - len(chain.accepted)


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
    """Return the parser of benchmarks that label stage by stage."""
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
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=ORDERS)
    parser.add_argument("--development", action="store_true", help="leave the test groups out, and hold out others")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE in the bundle's train.json")
    args = parser.parse_args()
    settings = parse_changes(args.set)
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    figures: dict[str, list[list[float]]] = {order: [] for order in args.orders}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(args.seeds):
            for order in args.orders:
                bundle = AnnotatedBundle(
                    BUNDLES / args.bundle,
                    args.dataset_dir,
                    changes={"seed": seed, **settings},
                    cache_dir=args.cache_dir or Path(folder, "cache"),
                )
                found, rejected = grow(bundle, Path(folder, f"{order}_{seed}"), order=order, seed=seed, args=args)
                figures[order].append(found)
                print(order, seed, *(f"{value:.3f}" for value in found), f"{rejected} rejected", flush=True)
    for order, rows in figures.items():
        print(order, "mean", *(f"{value:.3f}" for value in np.mean(rows, axis=0)))
    if args.output is not None:
        args.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
