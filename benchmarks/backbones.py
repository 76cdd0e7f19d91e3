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

"""Compare the variants of the pretrained network, frozen, at several sizes: points of a chain, and seconds.

Features are those of three depths and the last, without flips and at one size.

    python -m benchmarks.backbones otoscopy_chain_classification path/to/otoscopy --cache_dir path/to/cache \\
        --output backbones-otoscopy.json
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, Fold, embed
from benchmarks.harness import interleave, machine
from monai_weckd.bundle import BundleConfig

VARIANTS, SIZES = ("lite0", "lite1", "lite2"), (96, 160, 224)
STAGES, SHARE = 4, 0.05  # of the training items, labels of a stage
SEEDS = 2
PLAIN: dict[str, Any] = {"network_def#flip_average": [], "network_def#shrink": [1]}  # a fifth of the default's seconds
TIMED = 16  # images


def changes_of(variant: str, size: int) -> dict[str, Any]:
    """Return what to set in the bundle's configuration, by key."""
    return {"spatial_size": [size, size], "network_def#network#variant": variant} | PLAIN


def seconds(bundle: Path) -> dict[tuple[str, int], float]:
    """Return the processor time for the features of an image, by variant and size.

    Args:
        bundle: its folder.

    """
    arms = {}
    for variant, size in product(VARIANTS, SIZES):
        # two classes stand in for a data list
        config = BundleConfig(bundle, changes=changes_of(variant, size) | {"network_def#num_classes": 2})
        network, images = config.value("network_def").eval(), torch.randn(TIMED, config["channels"], size, size)
        arms[f"{variant} {size}"] = partial(network, images)
    with torch.no_grad():
        times = interleave(arms, rounds=5, warm_up=1)
    return {(variant, size): median(times[f"{variant} {size}"]) / TIMED for variant, size in product(VARIANTS, SIZES)}


def score(features: torch.Tensor, labels: np.ndarray, groups: np.ndarray) -> list[float]:
    """Return the balanced accuracy of the chain's last stage in each fold, in points.

    Args:
        features: (N, D).
        labels: (N,).
        groups: (N,).

    """
    found = []
    for seed in range(SEEDS):
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        for train, test in splitter.split(labels, labels, groups):
            chain = Fold(features, labels, groups, train, test).chain(
                "herding", round(SHARE * len(train)), seed, stages=STAGES
            )
            *_, (_, figures, _) = chain
            found.append(round(100 * figures["balanced_accuracy"], 2))
    return found


def main() -> None:
    """Print a row for each variant and size; keep the figures of all folds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--cache_dir", type=Path, help="folder for embeddings")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bundle, found = BUNDLES / options.bundle, []
    for (variant, size), took in seconds(bundle).items():
        points = score(*embed(bundle, options.dataset_dir, options.cache_dir, **changes_of(variant, size)))
        found.append({"variant": variant, "size": size, "seconds": round(took, 4), "points": points})
        gain = np.subtract(points, found[0]["points"])
        error = gain.std(ddof=1) / len(gain) ** 0.5
        mean, gains = f"{np.mean(points):.1f}", f"{gain.mean():+.1f} ± {error:.1f}"
        print(f"| {variant} | {size} | {mean} | {gains} | {1000 * took:.0f} ms |", flush=True)
        options.output.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
