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

"""Compare a chain over several findings an image with its controls, on attributes of blood smears."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.few_labels import BUNDLES
from benchmarks.harness import machine
from monai_weckd.cli.main import main as command
from monai_weckd.data import load_datalist
from monai_weckd.utils.tables import table_text

__all__ = ["ATTRIBUTES", "kept_figures", "write_findings"]

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
    "platelet": (None, None, 1),
}
# smears are in color; their features here are smaller than the default's
CHANGES = {
    "channels": 3,
    "spatial_size": [96, 96],
    "network_def#flip_average": [],
    "network_def#shrink": [1],
    "label_fraction": 0.067,
}
ARMS = "chain,solved+labels,solved,solved_everything"


def write_findings(dataset_dir: Path, folder: Path, *, every: int = 1) -> None:
    """Write a data set of findings: a manifest beside a link to the images.

    Args:
        dataset_dir: blood smears in class folders.
        folder: the data set, which is created.
        every: take every n-th image, default 1: all.

    """
    datalist = load_datalist(dataset_dir)
    folder.mkdir(parents=True)
    (folder / "images").symlink_to(dataset_dir.absolute())
    columns = ["file", *(f"finding:{name}" for name in NAMES), "group"]
    rows = []
    for item in datalist.items[::every]:
        values = ["" if value is None else value for value in ATTRIBUTES[datalist.classes[item["label"]]]]
        rows.append(dict(zip(columns, [f"images/{item['id']}", *values, item["group"]], strict=True)))
    (folder / "manifest.csv").write_text(table_text(columns, rows), encoding="utf-8")


def kept_figures(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is kept of a comparison: the arms with their differences, the verdicts, and each run's figures.

    Args:
        content: of ``compare.json``.

    """
    kept = ("classes", "items", "groups", "runs", "finished", "reference", "verdicts", "splits")
    arms = [{key: value for key, value in arm.items() if key != "stages"} for arm in content["arms"]]
    keys = ("arm", "fold", "seed", "labels", "thresholds", "test", "seconds")
    results = [{key: result[key] for key in keys} for result in content["results"]]
    return {**{key: content[key] for key in kept}, "arms": arms, "results": results}


def main() -> None:
    """Compare, print the table, and write all figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset_dir", type=Path, help="blood smears in class folders")
    parser.add_argument("--work_dir", type=Path, required=True, help="folder for the set and the runs; they are kept")
    parser.add_argument("--arms", default=ARMS, help="see `compare` (default: %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="take every n-th image (default: all)")
    parser.add_argument("--label_fraction", type=float, help="of training images in a shard (default: 0.067)")
    parser.add_argument("--findings_per_image", type=int, help="findings asked for in an image (default: all)")
    parser.add_argument("--report_only", action="store_true", help="tell of finished runs, and run nothing")
    parser.add_argument("--output", type=Path, required=True, help="JSON with all figures")
    options = parser.parse_args()
    data, runs = options.work_dir / f"every_{options.every}", options.work_dir / "runs"
    if not data.is_dir():
        write_findings(options.dataset_dir, data, every=options.every)
    places = ["--bundle", str(BUNDLES / "chest_xray_chain_classification"), "--dataset_dir", str(data)]
    settings = CHANGES | ({} if options.label_fraction is None else {"label_fraction": options.label_fraction})
    if options.findings_per_image is not None:
        settings["plan#settings#findings_per_image"] = options.findings_per_image
    if settings != CHANGES:  # a small random shard may lack an outcome
        settings["missing_classes"] = "allow"
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    arms = ["--arms", options.arms, "--val_labels", "0", *(["--report_only"] if options.report_only else [])]
    if code := command(["compare", *places, "--output_dir", str(runs), *arms, *changes]):
        raise SystemExit(code)
    found = kept_figures(json.loads((runs / "compare.json").read_text(encoding="utf-8")))
    about = {"machine": machine(), "attributes": ATTRIBUTES, "changes": settings, "every": options.every}
    options.output.write_text(json.dumps({**about, **found}, separators=(",", ":")) + "\n", encoding="utf-8")
    print((runs / "tables" / "arms.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
