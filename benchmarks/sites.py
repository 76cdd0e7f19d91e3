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

"""Measure what three sites get together: the exact head of their sums, against each site alone and pooled images."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, Fold, embed
from benchmarks.harness import digits, machine
from monai_weckd.fl import ExactSite, add_sums, solve_exact
from monai_weckd.metrics import classification_metrics
from monai_weckd.networks import StandardizedLinear

SITES = 3
SKEW = 0.8  # probability that a group goes to the site of its class
SHARES = {"20 %": 0.2, "all": 1.0}
ARMS = ("exact", "pooled", "even: best site", "even: mean site", "skewed: best site", "skewed: mean site")


def divide(labels: np.ndarray, groups: np.ndarray, seed: int, *, skewed: bool) -> np.ndarray:
    """Return the site of each item, (N,): by lot, or mostly by class; a group is at one site.

    Args:
        labels: (N,).
        groups: (N,).
        seed: of the lots.
        skewed: whether classes decide.

    """
    rng = np.random.default_rng(seed)
    site_of = {}
    for group in np.unique(groups):
        site = rng.integers(SITES)
        own = np.bincount(labels[groups == group]).argmax() % SITES
        site_of[group] = own if skewed and rng.random() < SKEW else site
    return np.array([site_of[group] for group in groups])


def exact(fold: Fold, labeled: np.ndarray, site: np.ndarray) -> dict[str, Any]:
    """Return the figures on the test items of the exact head of all sites.

    Args:
        fold: the items and their division.
        labeled: indices of the labeled items.
        site: site of each item, (N,).

    """
    known = np.full(len(fold.labels), -1)
    known[labeled] = fold.labels[labeled]
    classes = int(fold.labels.max()) + 1
    sites = {}
    for number in range(SITES):
        rows = fold.train[site[fold.train] == number]
        target, names = torch.from_numpy(known[rows]), fold.groups[rows].tolist()
        sites[str(number)] = ExactSite(fold.features[rows], target, names, num_classes=classes)
    moments = add_sums({name: one.moments() for name, one in sites.items()})
    products = add_sums({name: one.products(moments) for name, one in sites.items()})
    head = solve_exact(
        moments, products, add_sums({name: one.held_out(moments, products) for name, one in sites.items()})
    )
    layer = StandardizedLinear(fold.features.shape[1], classes)
    head.write(layer)
    with torch.no_grad():
        probabilities = torch.softmax(layer(fold.features[fold.test]), dim=1).numpy()
    tested = classification_metrics(probabilities, fold.labels[fold.test])
    figures: dict[str, Any] = {name: float(tested[name]) for name in ("balanced_accuracy", "ece")}
    return {**figures, "predicted": digits(probabilities.argmax(axis=1)), "penalty": head.penalty}


def alone(fold: Fold, labeled: np.ndarray, own: np.ndarray) -> dict[str, Any]:
    """Return the figures on the test items of a site that has its own images alone, perhaps of fewer classes.

    Args:
        fold: the items and their division.
        labeled: indices of the labeled items of all sites.
        own: whether an item is at this site, (N,).

    """
    labeled = labeled[own[labeled]]
    figures = replace(fold, train=fold.train[own[fold.train]]).evaluate(labeled)[0]
    return {"labels": len(labeled), **{name: figures[name] for name in ("balanced_accuracy", "ece", "predicted")}}


def measure(data: tuple[torch.Tensor, np.ndarray, np.ndarray], shares: Sequence[str]) -> list[dict[str, Any]]:
    """Return the figures of each of five folds, by share of labels and arm.

    Args:
        data: features, labels and groups.
        shares: keys of ``SHARES``.

    """
    features, labels, groups = data
    found = []
    for number, (train, test) in enumerate(
        StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups)
    ):
        fold = Fold(features, labels, groups, train, test)
        figures: dict[str, Any] = {"fold": number, "test": test.tolist()}
        for share in shares:
            rng = np.random.default_rng(number)
            labeled = np.sort(rng.choice(train, round(SHARES[share] * len(train)), replace=False))
            figures[share] = {"pooled": fold.evaluate(labeled)[0]}
            for name, skewed in (("even", False), ("skewed", True)):
                site = divide(labels, groups, number, skewed=skewed)
                figures[share][name] = [alone(fold, labeled, site == one) for one in range(SITES)]
            # the sums do not depend on the division, see the tests
            figures[share]["exact"] = exact(fold, labeled, site)
            print(number, share, *(f"{score(figures[share], arm):.3f}" for arm in ARMS), flush=True)
        found.append(figures)
    return found


def score(figures: dict[str, Any], arm: str) -> float:
    """Return the balanced accuracy of an arm.

    Args:
        figures: of a fold and a share.
        arm: one of ``ARMS``.

    """
    name, _, which = arm.partition(": ")
    if not which:
        return float(figures[name]["balanced_accuracy"])
    values = [one["balanced_accuracy"] for one in figures[name]]
    return float(max(values) if which == "best site" else np.mean(values))


def table(folds: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows: means and standard errors over folds, in points, and the differences from the exact head.

    Args:
        folds: what :py:func:`measure` returned.

    """
    lines = ["| labels | " + " | ".join(ARMS) + " | exact minus pooled |", "|---" * (len(ARMS) + 2) + "|"]
    for share in (share for share in SHARES if share in folds[0]):
        scores = [[score(fold[share], arm) for fold in folds] for arm in ARMS]
        cells = [f"{_points(values)}" for values in scores]
        lines.append(f"| {share} | {' | '.join(cells)} | {_points(np.subtract(*scores[:2]), '+')} |")
    return lines


def _points(values: Sequence[float] | np.ndarray, sign: str = "") -> str:
    points = 100 * np.asarray(values)
    return f"{points.mean():{sign}.1f} ± {points.std(ddof=1) / len(points) ** 0.5:.1f}"


def main() -> None:
    """Print the table of one set, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--shares", nargs="+", choices=SHARES, default=SHARES, help="labels of the training items")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = embed(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir)
    folds = measure(data, options.shares)
    options.output.write_text(
        json.dumps({"machine": machine(), "folds": folds}, separators=(",", ":")) + "\n", encoding="utf-8"
    )
    print(f"\n{options.bundle}, {SITES} sites, five folds\n\n" + "\n".join(table(folds)))


if __name__ == "__main__":
    main()
