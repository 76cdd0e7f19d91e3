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
"""See what fixed augmented views beside the image are worth to a head on frozen features. No test group is touched."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.preprocessing import StandardScaler

from monai_weckd.bundle import BundleConfig
from monai_weckd.data import EmbeddingDataset
from monai_weckd.handlers import FrozenBackbone

__all__ = ["compare_views", "embed_items"]

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
MOST = 16


def embed_items(
    bundle: Path, dataset_dir: str, *, views: int, limit: int
) -> tuple[np.ndarray, list[Mapping[str, Any]]]:
    """Return embeddings of the items outside the test split, (N, views + 1, D), by ImageNet weights, and the items."""
    config = BundleConfig(bundle, overlays=["pretrained.json"], changes={"dataset_dir": dataset_dir})
    test = set(config.value("plan").test)
    items = [item for item in config.value("datalist").items if item["id"] not in test]
    groups = np.random.default_rng(0).permutation(sorted({item["group"] for item in items}))
    kept = set(groups[: max(1, len(groups) * limit // max(limit, len(items)))])
    items = [item for item in items if item["group"] in kept]
    # not as a list, because the parser might read some of its strings as expressions
    config = config.copy({"train#dataset#data": "@items"}, items=tuple(items))
    dataset: EmbeddingDataset = FrozenBackbone(config.value("network")).embed(
        config.value("train#dataset"),
        augment=config.value("train#prepare_batch").augment,
        views=views,
    )
    dataset.fill("now")
    return dataset.rows, items


def compare_views(
    rows: np.ndarray, labels: np.ndarray, groups: Sequence[str], *, labeled: int, rounds: int = 40
) -> dict[int, np.ndarray]:
    """Return balanced accuracy and macro AUC of logistic regression, (rounds, 2), by number of views.

    In each round a third of the groups is held out, and of the others some items are labeled.
    """
    counts = [count for count in (0, 1, 2, 4, 8, MOST) if count < rows.shape[1]]
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in counts}
    names = np.unique(groups)
    for seed in range(rounds):
        rng = np.random.default_rng(seed)
        held_out = np.isin(groups, rng.permutation(names)[: len(names) // 3])
        chosen = rng.choice(np.flatnonzero(~held_out), labeled, replace=False)
        if any(len(set(labels[part])) < len(set(labels)) for part in (chosen, held_out)):
            continue
        for count in counts:
            train = rows[chosen, : count + 1].reshape(-1, rows.shape[2])
            scaler = StandardScaler().fit(train)
            model = LogisticRegression(C=0.1 / (count + 1), max_iter=300)
            model.fit(scaler.transform(train), np.repeat(labels[chosen], count + 1))
            scores = model.predict_proba(scaler.transform(rows[held_out, 0]))
            truth = labels[held_out]
            auc = roc_auc_score(truth, scores[:, 1] if scores.shape[1] == 2 else scores, multi_class="ovr")
            found[count].append((balanced_accuracy_score(truth, scores.argmax(axis=1)), auc))
    return {count: np.array(values) for count, values in found.items()}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images")
    parser.add_argument("--limit", type=int, default=900, help="items to embed at most (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows, items = embed_items(BUNDLES / options.bundle, options.dataset_dir, views=MOST, limit=options.limit)
    labels = np.unique([item["label"] for item in items], return_inverse=True)[1]
    print("| labels | views | balanced accuracy | macro AUC | gain in balanced accuracy | gain in macro AUC |")
    print("|---|---|---|---|---|---|")
    for labeled in (28, 84):
        figures = compare_views(rows, labels, [item["group"] for item in items], labeled=labeled)
        for count, values in figures.items():
            gains = values - figures[0]
            error = gains.std(axis=0) / len(gains) ** 0.5
            cells = [f"{value:.3f}" for value in values.mean(axis=0)]
            cells += [f"{gain:.3f} ± {one:.3f}" for gain, one in zip(gains.mean(axis=0), error, strict=True)]
            print(f"| {labeled} | {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
