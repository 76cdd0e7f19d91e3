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

"""Is the mean of a solved head and a fine-tuned network better than either? Both train on the labels of one chain.

    python -m benchmarks.two_views otoscopy_chain_classification path/to/otoscopy --cache_dir path/to/cache \\
        --output two_views-otoscopy.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.few_labels import BUNDLES, Fold, embed
from benchmarks.harness import digits, machine
from monai_weckd.bundle import BundleConfig
from monai_weckd.data import ByteCacheDataset
from monai_weckd.engines.averaging import WeightAverage
from monai_weckd.metrics import classification_metrics

STAGES = 4
SHARE = 0.05  # of the training items, labels of a stage
STEPS, BATCH, RATE, DECAY = 300, 16, 1e-3, 0.95  # of the fine-tuning


class FineTuned:
    """Fine-tune the bundle's pretrained network, as ``two_views.json`` configures it.

    Args:
        bundle: its folder.
        dataset_dir: its images.
        cache_dir: folder of decoded images.

    """

    def __init__(self, bundle: Path, dataset_dir: str, cache_dir: Path) -> None:
        changes = {"dataset_dir": dataset_dir}
        solved = BundleConfig(bundle, changes=changes)
        self.datalist = solved.value("datalist")
        self.config = BundleConfig(bundle, overlays=["scratch.json", "pretrained.json"], changes=changes)
        images = ByteCacheDataset(
            [dict(item) for item in self.datalist.items],
            solved.value("train#preprocessing"),
            value_range=solved["train#dataset#value_range"],
            cache_dir=cache_dir,
        )
        self.images = torch.stack([torch.as_tensor(images[place]["image"]).float() for place in range(len(images))])

    def train(self, labeled: np.ndarray, labels: np.ndarray) -> torch.nn.Module:
        """Return the network with averaged weights, trained on balanced batches.

        Args:
            labeled: places of the labeled items.
            labels: class of every item.

        """
        torch.manual_seed(0)
        random = np.random.default_rng(0)
        config = self.config.copy(datalist=self.datalist)
        network = config.value("network_def").to(memory_format=torch.channels_last).train()
        augment = config.value("train#augmentation")
        optimizer = torch.optim.AdamW(network.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        average = WeightAverage(network, decay=DECAY)
        chance = 1 / np.bincount(labels[labeled])[labels[labeled]]
        for _ in range(STEPS):
            places = random.choice(labeled, BATCH, p=chance / chance.sum())
            images = augment(self.images[places], torch.randint(0, 2**31, (BATCH,)))
            logits = network(images.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            F.cross_entropy(logits, torch.from_numpy(labels[places])).backward()
            optimizer.step()
            schedule.step()
            average.update()
        return average.module

    @torch.no_grad()
    def predict(self, network: torch.nn.Module) -> np.ndarray:
        """Return the probabilities of all items, (N, C).

        Args:
            network: the network.

        """
        network.eval()
        parts = self.images.split(16)
        return torch.cat([torch.softmax(network(part), dim=1) for part in parts]).numpy()


def main() -> None:
    """Print a line for each fold and the means, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for images and embeddings")
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(5)), help="which of five (default: all)")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    features, labels, groups = embed(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir)
    tuned = FineTuned(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir)
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    splitter = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    for number, (train, test) in enumerate(splitter.split(labels, labels, groups)):
        if number not in options.folds:
            continue
        fold = Fold(features, labels, groups, train, test)
        *_, (labeled, _, solved) = fold.chain("herding", round(SHARE * len(train)), 0, stages=STAGES)
        other = tuned.predict(tuned.train(labeled, labels))
        views = {"solved": solved, "tuned": other, "mean": (solved + other) / 2}
        scores = {
            name: float(classification_metrics(view[test], labels[test])["balanced_accuracy"])
            for name, view in views.items()
        }
        told = {name: digits(view[test].argmax(axis=1)) for name, view in views.items()}
        places = {"labeled": labeled.tolist(), "test": test.tolist()}
        found.append({"fold": number, "labels": len(labeled), **scores, **places, "predicted": told})
        print({"fold": number, **scores}, flush=True)
        options.output.write_text(json.dumps({"machine": machine(), "folds": found}) + "\n", encoding="utf-8")
    gains = np.array([fold["mean"] - max(fold["solved"], fold["tuned"]) for fold in found])
    print(f"mean minus the better view: {100 * gains.mean():+.1f} ± {100 * gains.std(ddof=1) / len(gains) ** 0.5:.1f}")


if __name__ == "__main__":
    main()
