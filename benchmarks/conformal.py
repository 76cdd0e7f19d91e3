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

"""Measure how often prediction sets hold the true class on test patients, and how large they are."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, RULES, STAGES, Fold, embed
from benchmarks.harness import machine
from benchmarks.selection import stage_size
from monai_weckd.engines.calibration import fit_temperature
from monai_weckd.metrics import conformal_limit, prediction_sets

COVERAGES = (0.8, 0.9, 0.95)
BUDGETS = ("5 %", "10 %")


def set_figures(fold: Fold, labeled: np.ndarray) -> dict[str, dict[str, float]]:
    """Return coverage and size of the sets on the test items, by the coverage that was asked for.

    ``images`` is the share of images whose set holds the true class, ``patients`` the mean of these shares over groups.

    Args:
        fold: the data.
        labeled: indices of the labeled items.

    """
    head, target = fold.solve(labeled), torch.from_numpy(fold.labels[labeled])
    known = ~head.out_of_fold.isnan().any(dim=1)
    temperature = fit_temperature(head.out_of_fold[known].clamp(min=-1e4), target[known])
    held_out = torch.softmax(head.out_of_fold.clamp(min=-1e4) / temperature, dim=1).nan_to_num(0).numpy()
    scores = 1 - held_out[np.arange(len(target)), target]
    logits = (fold.inputs[fold.test].double() @ head.weight.T + head.bias) / temperature
    probabilities = torch.softmax(logits, dim=1).numpy()
    truth, groups = fold.labels[fold.test], fold.groups[fold.test]
    found = {}
    for coverage in COVERAGES:
        limit = conformal_limit(scores, fold.groups[labeled].tolist(), coverage)
        inside = prediction_sets(probabilities, limit)
        held = inside[np.arange(len(truth)), truth]
        found[f"{coverage:g}"] = {
            "images": float(held.mean()),
            "patients": float(np.mean([held[groups == name].mean() for name in np.unique(groups)])),
            "size": float(inside.sum(axis=1).mean()),
            "single": float((inside.sum(axis=1) == 1).mean()),
            "calibrated_on": len(np.unique(fold.groups[labeled])),
        }
    return found


def measure(data: tuple[torch.Tensor, np.ndarray, np.ndarray], draws: int) -> list[dict[str, Any]]:
    """Return the figures of every fold, by rule and labels of a stage, after the last of three stages.

    Args:
        data: features, labels and groups.
        draws: number of divisions into five grouped and stratified folds.

    """
    features, labels, groups = data
    found = []
    for draw in range(draws):
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=draw)
        for train, test in splitter.split(labels, labels, groups):
            fold = Fold(features, labels, groups, train, test)
            figures = {}
            for budget in BUDGETS:
                count = stage_size(budget, len(train), int(labels.max()) + 1)
                for rule in RULES:
                    *_, (labeled, _, _) = fold.chain(rule, count, draw)
                    figures[f"{rule}, {STAGES} x {budget}"] = set_figures(fold, labeled)
            figures["all"] = set_figures(fold, train)
            found.append(figures)
            print(draw, flush=True)
    return found


def table(folds: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows: means over folds, with the standard error of the coverage.

    Args:
        folds: what :py:func:`measure` returned.

    """
    lines = [
        "| labels | patients | asked | images covered | patients' mean | classes in a set | sets of one |",
        "|---|---|---|---|---|---|---|",
    ]
    for labels in folds[0]:
        for coverage in folds[0][labels]:
            every = [fold[labels][coverage] for fold in folds]
            values = {name: np.array([one[name] for one in every]) for name in every[0]}
            errors = {name: 100 * rows.std(ddof=1) / len(rows) ** 0.5 for name, rows in values.items()}
            cells = [f"{100 * values[name].mean():.1f} ± {errors[name]:.1f}" for name in ("images", "patients")]
            cells += [f"{values['size'].mean():.2f}", f"{100 * values['single'].mean():.0f} %"]
            patients = round(values["calibrated_on"].mean())
            lines.append(f"| {labels} | {patients} | {100 * float(coverage):g} % | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Print the table of one set, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--draws", type=int, default=2, help="divisions into five folds (default: %(default)s)")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folds = measure(embed(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir), options.draws)
    options.output.write_text(json.dumps({"machine": machine(), "folds": folds}, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.bundle}, {options.draws} x 5 folds\n\n" + "\n".join(table(folds)))


if __name__ == "__main__":
    main()
