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


"""Plant copies and wrong labels in a data set, and count how many of them an audit finds."""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from monai_weckd.audit.audit import Audit, audit_data
from monai_weckd.audit.embedding import embedded_images
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.data import Datalist, load_datalist
from monai_weckd.networks.solved_head import solve_head

__all__ = ["cleanlab_suggestions", "count_found", "plant"]

BUNDLES = Path(__file__).resolve().parents[1] / "bundles"
PLANTED = 10  # copies, and wrong labels, of a draw
FIRST = 20  # suggestions that a reader looks at


def plant(datalist: Datalist, folder: Path, *, seed: int) -> tuple[Datalist, dict[str, str], set[str]]:
    """Return a data list with planted faults, the source of each copy by id, and the ids of the wrong labels.

    A copy is cropped by 3 % of each side at a random place, resized to 80 % and saved as JPEG of quality 80. It has the
    label of its source, and a group of its own. A wrong label is any other class. No image gets both.

    Args:
        datalist: labeled items, whose images Pillow reads.
        folder: for the copies.
        seed: seed of the draw.

    """
    rng = np.random.default_rng(seed)
    items: list[dict[str, Any]] = [dict(item) for item in datalist.items]
    places = rng.permutation(len(items))[: 2 * PLANTED]
    for place in places[:PLANTED]:
        others = [label for label in range(len(datalist.classes)) if label != items[place]["label"]]
        items[place]["label"] = int(rng.choice(others))
    sources = {}
    for number, place in enumerate(places[PLANTED:]):
        path = folder / f"copy_{number}.jpg"
        _save_copy(Path(items[place]["image"]), path, rng)
        sources[path.name] = items[place]["id"]
        items.append({**items[place], "image": str(path), "id": path.name, "group": path.name})
    wrong = {items[place]["id"] for place in places[:PLANTED]}
    return datalist._replace(items=items), sources, wrong


def _save_copy(source: Path, path: Path, rng: np.random.Generator) -> None:
    with Image.open(source) as image:
        picture = image.convert("RGB")
    width, height = picture.size
    cut = round(0.03 * width), round(0.03 * height)
    left, top = (int(rng.integers(0, most + 1)) for most in cut)
    picture = picture.crop((left, top, left + width - cut[0], top + height - cut[1]))
    picture.resize((round(0.8 * width), round(0.8 * height)), Image.Resampling.BICUBIC).save(path, quality=80)


def count_found(audit: Audit, sources: dict[str, str], wrong: set[str]) -> dict[str, int]:
    """Return how many of the copies and wrong labels an audit found, and how many findings it has.

    Args:
        audit: the audit.
        sources: id of each copy's source, by the copy's id.
        wrong: ids of the wrong labels.

    """
    names = [[audit.items[place]["id"] for place in finding.places] for finding in audit.of_kind("near_duplicate")]
    suggested = [audit.items[finding.places[0]]["id"] for finding in audit.of_kind("label")]
    return {
        "copies": sum(any({copy, source} == set(pair) for pair in names) for copy, source in sources.items()),
        "pairs": len(names),
        "wrong_labels": len(wrong & set(suggested[:FIRST])),
        "suggestions": len(suggested),
    }


def cleanlab_suggestions(config: BundleConfig, datalist: Datalist) -> list[str]:
    """Return the ids that cleanlab suggests from out-of-fold probabilities of the same heads, by its own ranking.

    Args:
        config: the bundle's training configuration.
        datalist: labeled items.

    """
    from cleanlab.filter import find_label_issues

    items = datalist.items
    labels, groups = np.array([item["label"] for item in items]), [item["group"] for item in items]
    embeddings = embedded_images(config, datalist).gather(range(len(items)))
    head = solve_head(embeddings, torch.from_numpy(labels), groups, num_classes=len(datalist.classes))
    found = find_label_issues(
        labels, head.out_of_fold.exp().numpy(), return_indices_ranked_by="self_confidence", n_jobs=1
    )
    return [items[place]["id"] for place in found]


def main() -> None:
    """Print a line for each draw, and the means."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", help="name of a bundle")
    parser.add_argument("dataset_dir", type=Path)
    parser.add_argument("--images", type=int, help="a random part of the images (default: all)")
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--no_groups", action="store_true", help="make each image its own group")
    parser.add_argument("--cache_dir", type=Path, help="where embeddings are kept")
    parser.add_argument("--cleanlab", action="store_true", help="count what cleanlab finds as well")
    parser.add_argument("--output", type=Path, help="JSON with all figures")
    args = parser.parse_args()
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    datalist = load_datalist(args.dataset_dir)
    items = datalist.items
    if args.images is not None:
        items = [items[place] for place in sorted(np.random.default_rng(0).permutation(len(items))[: args.images])]
    if args.no_groups:
        items = [{**item, "group": item["id"]} for item in items]
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        config = BundleConfig(
            BUNDLES / args.bundle, changes={"cache_dir": str(args.cache_dir or Path(folder, "cache"))}
        )
        for seed in range(args.first_seed, args.first_seed + args.draws):
            copies = Path(folder, str(seed))
            copies.mkdir()
            planted, sources, wrong = plant(datalist._replace(items=items), copies, seed=seed)
            figures.append(count_found(audit_data(config, planted), sources, wrong))
            if args.cleanlab:
                figures[-1]["by_cleanlab"] = len(wrong & set(cleanlab_suggestions(config, planted)[:FIRST]))
            print(seed, figures[-1], flush=True)
    for name in figures[0]:
        values = [found[name] for found in figures]
        print(f"{name}: {min(values)} to {max(values)}, mean {np.mean(values):.1f}")
    if args.output is not None:
        args.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
