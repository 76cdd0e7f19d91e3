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

"""Hold features that the cross-validated loss chooses against the default's: sizes of the images, depths and flips.

python -m benchmarks.feature_choice otoscopy_chain_classification path/to/otoscopy
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, Fold, embed
from benchmarks.harness import machine

STAGES, SHARE = 4, 0.05  # of the training items, labels of a stage
LAST = 1280  # features of the last layer, which come after those of the other depths
DEFAULT = "192 and 96"


def views_of(bundle: Path, dataset_dir: str) -> tuple[dict[str, torch.Tensor], np.ndarray, np.ndarray]:
    """Return the features of each candidate, (N, D), labels and groups.

    Args:
        bundle: its folder.
        dataset_dir: its images.

    """
    found: dict[tuple[int, bool], torch.Tensor] = {}
    for size in (192, 96):
        for flips in ([0, 1], []):
            changes = {"spatial_size": [size, size], "network_def#shrink": [1], "network_def#flip_average": flips}
            found[size, bool(flips)], labels, groups = embed(bundle, dataset_dir, **changes)
    large, small = found[192, True], found[96, True]
    candidates = {
        DEFAULT: torch.cat([large, small], dim=1),
        "192": large,
        "96": small,
        "192 and 96, no flips": torch.cat([found[192, False], found[96, False]], dim=1),
        "192 and 96, last layer": torch.cat([large[:, -LAST:], small[:, -LAST:]], dim=1),
        "192, last layer, no flips": found[192, False][:, -LAST:],
    }
    return candidates, labels, groups


def loss_of(fold: Fold, labeled: np.ndarray) -> float:
    """Return the balanced cross-entropy of labels that cross-validation holds out.

    Args:
        fold: the features.
        labeled: indices of the labeled items.

    """
    logs, labels = fold.solve(labeled).out_of_fold, fold.labels[labeled]
    told = (~logs.isnan().any(dim=1)).numpy()
    of_label = logs.numpy()[told, labels[told]].clip(-30)
    weight = 1 / np.bincount(labels[told])[labels[told]]
    return float(-(of_label * weight).sum() / weight.sum())


def main() -> None:
    """Print balanced accuracies of each candidate and of the chosen one, after the first and the last stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    options = parser.parse_args()
    torch.set_num_threads(1)
    candidates, labels, groups = views_of(BUNDLES / options.bundle, options.dataset_dir)
    print(machine())
    scores: dict[int, list[dict[str, float]]] = {0: [], STAGES - 1: []}
    chosen: dict[int, list[float]] = {0: [], STAGES - 1: []}
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for train, test in splitter.split(labels, labels, groups):
        folds = {name: Fold(features, labels, groups, train, test) for name, features in candidates.items()}
        chain = folds[DEFAULT].chain("herding", round(SHARE * len(train)), 0, stages=STAGES)
        for stage, (labeled, _, _) in enumerate(chain):
            if stage in scores:
                found = {name: 100 * fold.evaluate(labeled)[0]["balanced_accuracy"] for name, fold in folds.items()}
                scores[stage].append(found)
                losses = {name: loss_of(fold, labeled) for name, fold in folds.items()}
                chosen[stage].append(found[min(losses, key=lambda name: losses[name])] - found[DEFAULT])
    for stage, found_all in scores.items():
        means = (f"{name} {np.mean([one[name] for one in found_all]):.1f}" for name in candidates)
        gains = np.array(chosen[stage])
        error = gains.std(ddof=1) / len(gains) ** 0.5
        print(f"stage {stage + 1}: {'; '.join(means)}; chosen minus default {gains.mean():+.1f} ± {error:.1f}")


if __name__ == "__main__":
    main()
