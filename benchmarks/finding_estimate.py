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

"""Compare the estimate of findings, and cross-validation alone, with the figures on test images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, embed
from benchmarks.findings import CHANGES, write_findings
from benchmarks.harness import machine
from monai_weckd.engines.estimate import estimate_findings, represented
from monai_weckd.engines.solver import fit_layer, layer_inputs, solve_finding_layer
from monai_weckd.metrics import finding_metrics, finding_thresholds
from monai_weckd.networks import StandardizedLinear
from monai_weckd.selection import SelectionContext, select_items

__all__ = ["measure"]

STAGES, SHARE = 3, 0.2  # of the training images, over all stages
FIGURES = ("macro_auc", "macro_average_precision", "macro_f1")


def measure(features: torch.Tensor, findings: np.ndarray, groups: np.ndarray) -> list[dict]:
    """Return for each fold and choice of labels what was estimated, cross-validated and true.

    Args:
        features: (N, D).
        findings: (N, F).
        groups: (N,).

    """
    strata = np.unique(findings, axis=0, return_inverse=True)[1].ravel()
    found = []
    for fold, (train, test) in enumerate(
        StratifiedGroupKFold(5, shuffle=True, random_state=0).split(strata, strata, groups)
    ):
        layer = StandardizedLinear(features.shape[1], findings.shape[1])
        rows = features[train].double()
        scaling = fit_layer(layer, rows.mean(dim=0), rows.std(dim=0, correction=0))
        inputs = layer_inputs(layer, features)
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
                chosen = select_items(rule, context, count=round(SHARE * len(train) / STAGES))
                asked = asked | np.isin(np.arange(len(train)), chosen)
                labeled, others = train[asked], train[~asked]
                target, names = torch.from_numpy(findings[labeled]), groups[labeled].tolist()
                head, calibration = solve_finding_layer(layer, inputs[labeled], target, names, scaling)
                with torch.no_grad():
                    everything = torch.sigmoid(layer(features)).numpy()
                probabilities = everything[train]
            told = np.where(head.out_of_fold.isnan(), -1, findings[labeled])
            held_out = torch.sigmoid(calibration.of_logits(head.out_of_fold)).nan_to_num().numpy()
            limits = finding_thresholds(held_out, told)
            weights = 1 + represented(inputs[labeled], inputs[others]).numpy()
            estimate = estimate_findings(held_out, told, limits, names, weights=weights)
            cross_validated = finding_metrics(held_out, told, limits)
            true = finding_metrics(everything[test], findings[test], limits)
            figures = {
                name: {"true": true[name], "cross_validated": cross_validated[name], **estimate[name]}
                for name in FIGURES
            }
            found.append({"fold": fold, "labels": rule, **figures})
            print(fold, rule, figures["macro_auc"], flush=True)
    return found


def main() -> None:
    """Print the table, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", type=Path, help="blood smears in class folders")
    parser.add_argument("--work_dir", type=Path, required=True, help="folder for the set and its embeddings; kept")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = options.work_dir / f"every_{options.every}"
    if not data.is_dir():
        write_findings(options.dataset_dir, data, every=options.every)
    bundle = BUNDLES / "chest_xray_chain_classification"
    features, findings, groups = embed(bundle, str(data), options.work_dir / "runs" / "cache", **CHANGES)
    found = measure(features, findings.astype(np.float32), groups)
    content = {"machine": machine(), "changes": CHANGES, "every": options.every, "results": found}
    options.output.write_text(json.dumps(content, separators=(",", ":")) + "\n", encoding="utf-8")
    print("| labels | figure | cross-validated minus true | estimated minus true | intervals with the true figure |")
    print("|---|---|---|---|---|")
    for rule in ("herding", "random"):
        for name in FIGURES:
            rows = [one[name] for one in found if one["labels"] == rule]
            gaps = [100 * np.mean([row[key] - row["true"] for row in rows]) for key in ("cross_validated", "value")]
            inside = sum(row["interval"][0] <= row["true"] <= row["interval"][1] for row in rows)
            print(f"| {rule} | {name} | {gaps[0]:+.1f} | {gaps[1]:+.1f} | {inside} of {len(rows)} |")


if __name__ == "__main__":
    main()
