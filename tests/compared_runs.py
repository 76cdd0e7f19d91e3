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

"""Trainings and runs that take no time, for comparisons of which only the rest is tested."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from monai_weckd.compare.arms import ARMS
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.running import ArmRun
from monai_weckd.metrics import classification_metrics

BUNDLE = Path(__file__).resolve().parents[1] / "bundles" / "otoscopy_chain_classification"


def train(bundle, arm, split, output_dir, overrides, *, cache_dir):
    """Plan as a training would, and predict by a hash of arm and item; a stand-in for ``ComparedBundle.train``."""
    output_dir.mkdir(parents=True)
    datalist = bundle.datalist._replace(items=bundle.items_of(split))
    plan = bundle.config_of(arm).copy(overrides, datalist=datalist).value("plan")
    items = {item["id"]: item for item in datalist.items}
    scores = np.random.default_rng(len(arm.name)).dirichlet(np.ones(len(plan.classes)), size=len(plan.test))
    labels = [items[key]["label"] for key in plan.test]
    figures = classification_metrics(scores, np.array(labels))
    about = {"accepted": True, "gate": None, "val": None, "test": figures, "seconds": 0.1}
    stages = [{"stage": n + 1, "labeled": len(stage.labeled), **about} for n, stage in enumerate(plan.stages)]
    content = {"label_budget": plan.label_budget, "stages": stages, "final": {"stage": 1, "test": figures}}
    (output_dir / "chain.json").write_text(json.dumps(content))
    (output_dir / "plan.json").write_text(plan.to_json())
    with (output_dir / "predictions.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "group", "split", "label", "predicted", *(f"probability_{c}" for c in plan.classes)])
        for key, label, row in zip(plan.test, labels, scores, strict=True):
            names = plan.classes[label], plan.classes[int(row.argmax())]
            writer.writerow([key, items[key]["group"], "test", *names, *map(float, row)])


def prepare(bundle, arm, split, *, cache_dir):
    """Read no image; a stand-in for ``ComparedBundle.prepare``."""


class NoBundle:
    """What a schedule needs of a bundle."""

    @property
    def source(self):
        return self

    def open(self):
        return self


def make_runs(arms=("chain", "single", "ensemble"), folds=4, digest="d"):
    """Return the runs of a comparison, fold by fold."""
    found = []
    for fold in range(folds):
        runs = {}
        for name in arms:
            arm = ARMS[name]
            runs[name] = ArmRun(
                arm, FoldSplit(0, fold, {}), 0, 1, f"{digest}-{name}", tuple(runs[needed] for needed in arm.needs)
            )
        found += runs.values()
    return found


class NotedRun:
    """Do a run by writing down that it began.

    Args:
        folder: folder of the notes, which all processes see.
        fail: arms whose runs fail.

    """

    def __init__(self, folder, *, fail=()):
        self.folder, self.fail = Path(folder), fail

    def __call__(self, item, bundle, store, *, cache_dir):
        with (self.folder / "log").open("a") as log:
            log.write(f"{item.arm.name} {item.split.fold}\n")
        for needed in item.needs:
            assert store.read(needed.arm.name, needed.cell, digest=needed.digest) is not None
        result = {"digest": item.digest, "test": {}, **({"error": "no"} if item.arm.name in self.fail else {})}
        store.write(item.arm.name, item.cell, result, plan="a plan")
        return result

    def logged(self):
        """Return arm and fold of each run that began."""
        path = self.folder / "log"
        return [tuple(line.split()) for line in path.read_text().splitlines()] if path.exists() else []
