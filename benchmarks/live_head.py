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

"""Measure how long the label server needs after an answer until a new head has seen all images.

python -m benchmarks.live_head blood_smear_chain_classification path/to/blood_smear --cache_dir path/to/cache
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.few_labels import BUNDLES, embed
from benchmarks.harness import machine
from monai_weckd.annotation.live import LiveHead
from monai_weckd.networks import StandardizedLinear
from monai_weckd.plan.label_kind import LabelKind

IMAGES, LABELS, ROUNDS = 5000, (20, 50, 100, 200, 300), 11


def main() -> None:
    """Print milliseconds for each number of labels: median, least and most of eleven rounds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", choices=sorted(path.name for path in BUNDLES.iterdir() if path.is_dir()))
    parser.add_argument("dataset_dir", help="its images, repeated up to 5,000")
    parser.add_argument("--cache_dir", type=Path, required=True, help="folder for embeddings")
    options = parser.parse_args()
    features, classes, groups = embed(BUNDLES / options.bundle, options.dataset_dir, options.cache_dir)
    ids = [f"{place}" for place in range(IMAGES)]
    rows = np.resize(features.numpy(), (IMAGES, features.shape[1]))
    group_of = dict(zip(ids, np.resize(groups, IMAGES).tolist(), strict=True))
    begin = time.perf_counter()
    kind = LabelKind(tuple(map(str, range(int(classes.max()) + 1))))
    head = LiveHead(StandardizedLinear(rows.shape[1], len(kind.names)), ids, rows, kind)
    print(f"{machine()}, {IMAGES} images of {rows.shape[1]} features, {torch.get_num_threads()} threads")
    print(f"once: {time.perf_counter() - begin:.2f} s")
    order = np.random.default_rng(0).permutation(len(classes))
    for count in LABELS:
        labels = {ids[place]: int(classes[place]) for place in order[:count]}
        times = []
        for _ in range(ROUNDS):
            begin = time.perf_counter()
            head.solve(labels, group_of)
            times.append(1000 * (time.perf_counter() - begin))
        print(f"{count} labels: {np.median(times):.0f} ms ({min(times):.0f} to {max(times):.0f})", flush=True)


if __name__ == "__main__":
    main()
