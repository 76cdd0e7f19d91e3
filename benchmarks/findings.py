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

"""Measure a chain over several findings an image: labels that it chooses, as many random ones, and all."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, embed
from benchmarks.harness import machine
from monai_weckd.cli.options import parse_changes
from monai_weckd.engines.solver import fit_layer, layer_inputs, solve_finding_layer
from monai_weckd.metrics import finding_metrics, finding_thresholds
from monai_weckd.networks import StandardizedLinear
from monai_weckd.selection import SelectionContext, select_items

__all__ = ["ATTRIBUTES", "findings_of", "measure"]

# what a smear shows, by its class: three attributes that overlap, and are not the classes themselves. A platelet has no
# nucleus, and its granules are not those of a cell, so two of them are unknown.
NAMES = ("granular", "segmented nucleus", "mature")
ATTRIBUTES = {
    "basophil": (1, 1, 1),
    "eosinophil": (1, 1, 1),
    "erythroblast": (0, 0, 0),
    "ig": (1, 0, 0),  # immature granulocytes: promyelocytes, myelocytes and metamyelocytes
    "lymphocyte": (0, 0, 1),
    "monocyte": (0, 0, 1),
    "neutrophil": (1, 1, 1),
    "platelet": (-1, -1, 1),
}
STAGES, SHARE = 3, 0.2  # of the training images, over all stages
FIGURES = ("macro_auc", "macro_average_precision", "macro_f1", "macro_ece")


def findings_of(classes: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Return the findings of images by their class, (N, F): 1, 0, and -1 where one is unknown.

    Args:
        classes: names of the classes.
        labels: class of each image, (N,).

    """
    return np.array([ATTRIBUTES[name] for name in classes], dtype=np.float32)[labels]


def solve(
    features: torch.Tensor, findings: np.ndarray, groups: np.ndarray, train: np.ndarray, labeled: np.ndarray
) -> tuple[np.ndarray, list[float | None]]:
    """Return the probabilities of all images, (N, F), and the thresholds, by heads on frozen features.

    Args:
        features: (N, D).
        findings: (N, F).
        groups: (N,).
        train: indices of the training images, which standardize the features.
        labeled: indices of those with labels.

    """
    layer = StandardizedLinear(features.shape[1], findings.shape[1])
    rows = features[train].double()
    scaling = fit_layer(layer, rows.mean(dim=0), rows.std(dim=0, correction=0))
    inputs, target = layer_inputs(layer, features), torch.from_numpy(findings[labeled])
    head, calibration = solve_finding_layer(layer, inputs[labeled], target, groups[labeled].tolist(), scaling)
    told = np.where(head.out_of_fold.isnan(), -1, findings[labeled])
    held_out = torch.sigmoid(calibration.of_logits(head.out_of_fold)).nan_to_num().numpy()
    with torch.no_grad():
        probabilities = torch.sigmoid(layer(features)).numpy()
    return probabilities, finding_thresholds(held_out, told)


def measure(
    features: torch.Tensor, findings: np.ndarray, labels: np.ndarray, groups: np.ndarray
) -> list[dict[str, Any]]:
    """Return the figures of each arm on the test images of five folds.

    Args:
        features: (N, D).
        findings: (N, F).
        labels: classes by which folds are stratified, (N,).
        groups: (N,).

    """
    found = []
    for train, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(labels, labels, groups):
        count = round(SHARE * len(train) / STAGES)
        chosen: dict[str, np.ndarray] = {"all": train}
        for rule in ("herding", "random"):
            asked, probabilities = np.zeros(len(train), dtype=bool), None
            for stage in range(1, STAGES + 1):
                context = SelectionContext(
                    features[train].numpy(),
                    probabilities,
                    groups[train].tolist(),
                    asked,
                    np.ones_like(asked),
                    seed=0,
                    stage=stage,
                    findings=True,
                )
                asked = asked | np.isin(np.arange(len(train)), select_items(rule, context, count=count))
                probabilities = solve(features, findings, groups, train, train[asked])[0][train]
            chosen[rule] = train[asked]
        figures: dict[str, Any] = {}
        for arm, labeled in chosen.items():
            probabilities, thresholds = solve(features, findings, groups, train, labeled)
            figures[arm] = finding_metrics(probabilities[test], findings[test], thresholds) | {"labels": len(labeled)}
        found.append(figures)
        print({arm: round(one["macro_auc"], 4) for arm, one in figures.items()}, flush=True)
    return found


def table(folds: Sequence[dict[str, Any]]) -> list[str]:
    """Return rows: means and standard errors over folds, in points.

    Args:
        folds: what :py:func:`measure` returned.

    """
    lines = ["| labels | images | macro AUC | average precision | F1 | ECE |", "|---|---|---|---|---|---|"]
    names = {"herding": "chosen by the chain", "random": "random", "all": "all"}
    for arm, text in names.items():
        cells = [_mean([fold[arm][name] for fold in folds]) for name in FIGURES]
        lines.append(f"| {text} | {folds[0][arm]['labels']} | {' | '.join(cells)} |")
    gains = [_mean([fold["herding"][name] - fold["random"][name] for fold in folds], "+") for name in FIGURES]
    return [*lines, f"| chosen minus random | | {' | '.join(gains)} |"]


def _mean(values: Sequence[float], sign: str = "") -> str:
    points = 100 * np.asarray(values)
    return f"{points.mean():{sign}.1f} ± {points.std(ddof=1) / len(points) ** 0.5:.1f}"


def main() -> None:
    """Print the table, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", help="blood smears in class folders")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE in the bundle's train.json")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle = BUNDLES / "blood_smear_chain_classification"
    changes = parse_changes(options.set)
    features, labels, groups = embed(bundle, options.dataset_dir, options.cache_dir, **changes)
    features, labels, groups = (part[:: options.every] for part in (features, labels, groups))
    folds = measure(features, findings_of(sorted(ATTRIBUTES), labels), labels, groups)
    content = {
        "machine": machine(),
        "findings": NAMES,
        "attributes": ATTRIBUTES,
        "changes": changes,
        "every": options.every,
        "folds": folds,
    }
    options.output.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    print("\n" + "\n".join(table(folds)))


if __name__ == "__main__":
    main()
