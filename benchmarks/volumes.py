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

"""Compare frozen features of volumes: the network made 3-D, and the 2-D network on slices (2.5-D), with solved heads.

python -m benchmarks.volumes path/to/hippocampus_mri_3d --cache_dir path/to/cache
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, Fold, embed
from benchmarks.harness import machine
from monai_weckd.bundle import BundleConfig
from monai_weckd.networks import EfficientNetLite, PooledClassifier, extract
from monai_weckd.networks.local_backbone import slices_along

BUNDLE = BUNDLES / "brain_mri_3d_chain_classification"
SLICES = 10  # along each axis
SIZE = 96
SHARES = (0.1, 0.3, 1.0)  # of the training items, drawn at random


def embed_slices(dataset_dir: str) -> torch.Tensor:
    """Return the mean and the maximum of the 2-D network's features over the slices of each axis, (N, 6 D).

    Args:
        dataset_dir: the volumes.

    """
    config = BundleConfig(BUNDLE, changes={"dataset_dir": dataset_dir})
    network = PooledClassifier(
        EfficientNetLite(spatial_dims=2, in_channels=1, pretrained=True, input_scale=0.45),
        num_classes=2,
        input_shape=(1, SIZE, SIZE),
        layers=("stages.2", "stages.4", "stages.6"),
    )
    prepare, rows = config.value("train#preprocessing"), []
    for item in config.value("datalist").items:
        volume = torch.as_tensor(prepare(dict(item))["image"]).float()
        planes = [part[0] for part in slices_along(volume[None], count=SLICES, size=SIZE)]
        of_axes = extract(network, iter(planes))[0].split(SLICES)
        rows.append(torch.cat([pooled for part in of_axes for pooled in (part.mean(dim=0), part.amax(dim=0))]))
    return torch.stack(rows)


def main() -> None:
    """Print balanced accuracies, means and standard errors over folds, in points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", help="the volumes")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for embeddings")
    parser.add_argument("--draws", type=int, default=6, help="divisions into five folds (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    volumes, labels, groups = embed(BUNDLE, options.dataset_dir, options.cache_dir)
    kinds = {"3-D": volumes, "2.5-D": embed_slices(options.dataset_dir)}
    found: dict[tuple[str, float], list[float]] = {(kind, share): [] for kind in kinds for share in SHARES}
    for draw in range(options.draws):
        splitter = StratifiedGroupKFold(5, shuffle=True, random_state=draw)
        for number, (train, test) in enumerate(splitter.split(labels, labels, groups)):
            order = np.random.default_rng(5 * draw + number).permutation(train)
            for (kind, share), scores in found.items():
                labeled = np.sort(order[: round(share * len(train))])
                fold = Fold(kinds[kind], labels, groups, train, test)
                scores.append(100 * fold.evaluate(labeled)[0]["balanced_accuracy"])
    print(f"{machine()}, {options.draws} x 5 folds")
    for kind in kinds:
        scores = [np.array(found[kind, share]) for share in SHARES]
        print(kind, *(f"{values.mean():.1f} ± {values.std(ddof=1) / len(values) ** 0.5:.1f}" for values in scores))


if __name__ == "__main__":
    main()
