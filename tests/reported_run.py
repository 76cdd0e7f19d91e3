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

from __future__ import annotations

import numpy as np

from monai_weckd.metrics import classification_metrics
from monai_weckd.utils.records import sealed_json
from monai_weckd.utils.tables import table_text
from monai_weckd.visualize.report import write_report

HOSTILE = '<b>&"x'


CLASSES = ("normal", HOSTILE, "earwax $plug$")


def make_predictions(classes, num_test):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, len(classes), num_test + 10)
    probabilities = rng.dirichlet(np.ones(len(classes)), num_test + 10)
    probabilities = 0.7 * probabilities + 0.3 * np.eye(len(classes))[labels]
    return [
        {
            "id": f"{classes[label]}/{number}.png",
            "group": f"patient{number // 2}",
            "split": "val" if number < 10 else "test",
            "label": classes[label],
            "predicted": classes[row.argmax()],
            **{f"probability_{name}": value for name, value in zip(classes, row, strict=True)},
        }
        for number, (label, row) in enumerate(zip(labels, probabilities, strict=True))
    ]


def arrays_of_test(rows, classes):
    rows = [row for row in rows if row["split"] == "test"]
    probabilities = np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows])
    return probabilities, np.array([classes.index(row["label"]) for row in rows])


def make_stage(stage, metrics, *, accepted):
    return {
        "stage": stage,
        "teacher": None if stage == 1 else 1,
        "labeled": 31 * stage,
        "groups": 20 * stage,
        "pool": 300 - 31 * stage,
        "epochs": 4,
        "best_epoch": 3,
        "seconds": 61.5 * stage,
        "val": metrics and {**metrics, "balanced_accuracy": 0.6 + 0.01 * stage, "macro_auc": None},
        "test": metrics,
        "accepted": accepted,
        "gate": {
            "metric": "val_balanced_accuracy",
            "value": 0.7,
            "previous": None if stage == 1 else 0.65,
            "tolerance": 0.0,
        },
        "checkpoint": f"stage_{stage}/model.pt",
    }


def make_epoch(epoch):
    stage, stage_epoch = 1 + (epoch - 1) // 4, 1 + (epoch - 1) % 4
    return {
        "epoch": epoch,
        "stage": stage,
        "stage_epoch": stage_epoch,
        "loss": 2.0 / epoch,
        "task_loss": 1.0 / epoch,
        "distillation_loss": None if stage == 1 else 0.5 / epoch,
        "attention_loss": None if stage == 1 else 0.1 / epoch,
        "temperature": 5.0 - stage_epoch,
        "learning_rate": 0.001,
        "val": {"val_balanced_accuracy": 0.05 * epoch, "val_accuracy": 0.06 * epoch, "val_macro_auc": 0.07 * epoch}
        if epoch % 2
        else None,
        "seconds": 1.0,
    }


class Run:
    """The content of an output folder, to be changed by a test and written."""

    def __init__(self, folder, *, classes=CLASSES, num_test=40):
        self.folder = folder
        self.classes = list(classes)
        self.rows = make_predictions(self.classes, num_test)
        metrics = classification_metrics(*arrays_of_test(self.rows, self.classes)) if num_test else None
        self.plan = {
            "format": 1,
            "classes": self.classes,
            "settings": {"seed": 7, "policy": "cumulative"},
            "shard_sizes": [31, 31, 31],
            "train": ["a"] * 93,
            "val": ["b"] * 10,
            "test": ["c"] * num_test,
            "stages": [],
            "skipped": [f"scan_{HOSTILE}.dcm"],
            "unused": ["u1", "u2"],
        }
        self.chain = {
            "format": 1,
            "classes": self.classes,
            "seed": 7,
            "label_budget": {"train": 93, "val": 10},
            "ledger": [
                {"purpose": "shard", "stage": 1, "labels": 31},
                {"purpose": "validation", "stage": None, "labels": 10},
            ],
            "settings": {"temperature": [4.0, 1.0], "<script>key": "<script>alert(1)</script>"},
            "stages": [make_stage(stage, metrics, accepted=stage != 2) for stage in (1, 2, 3)],
            "final": {"stage": 3, "test": metrics},
        }
        self.history = {"epochs": [make_epoch(epoch) for epoch in range(1, 13)]}

    def write(self):
        for name in ("plan", "chain", "history"):
            (self.folder / f"{name}.json").write_text(sealed_json(getattr(self, name), indent=1), encoding="utf-8")
        text = table_text(list(self.rows[0]) if self.rows else self.columns(), self.rows)
        (self.folder / "predictions.csv").write_bytes(text.encode())
        return self.folder

    def columns(self):
        return ["id", "group", "split", "label", "predicted", *(f"probability_{name}" for name in self.classes)]

    def page(self):
        return write_report(self.write()).read_text(encoding="utf-8")
