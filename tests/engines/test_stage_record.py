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

from dataclasses import replace

import pytest

from monai_weckd.engines.stage_record import StageRecord

RECORD = StageRecord(
    stage=2,
    teacher=1,
    labeled=40,
    groups=20,
    pool=0,
    epochs=3,
    best_epoch=1,
    seconds=12.3,
    metric="val_macro_auc",
    value=0.78,
    previous=0.71,
    tolerance=0.0,
    accepted=True,
    selection="herding",
    calibration=None,
)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "stage 2 of 3 accepted: val_macro_auc 0.710 -> 0.780, 40 labels, 12 s"),
        ({"previous": None}, "stage 2 of 3 accepted: val_macro_auc 0.780, 40 labels, 12 s"),
        ({"value": None, "previous": None}, "stage 2 of 3 accepted: 40 labels, 12 s"),
        ({"accepted": False, "value": 0.7}, "stage 2 of 3 rejected: val_macro_auc 0.710 -> 0.700, 40 labels, 12 s"),
    ],
)
def test_a_stage_is_told_in_one_line(changes, line):
    assert replace(RECORD, **changes).summary(3) == line


@pytest.mark.parametrize(
    ("classes", "out_of_fold", "line"),
    [
        ({"dark": 15, "bright": 25, "gray": 0}, None, "40 labels (15 dark, 25 bright), 12 s"),
        ({str(number): 3 for number in range(12)}, None, "40 labels of 12 classes, 12 s"),
        (
            {"dark": 40},
            {"balanced_accuracy": 0.8125, "labels": 40},
            "balanced accuracy 0.812 by cross-validation, 40 labels (40 dark), 12 s",
        ),
        (
            {"dark": 40},
            {"balanced_accuracy": 1.0, "labels": 2},
            "balanced accuracy 1.000 by cross-validation of 2 labels, 40 labels (40 dark), 12 s",
        ),
        (
            None,
            {"findings": {"mass": {}}, "macro_auc": 0.75},
            "macro AUC 0.750 by cross-validation, 40 labels, 12 s",
        ),
        (None, {"balanced_accuracy": None}, "40 labels, 12 s"),
        (None, {"labels": 0, "penalty": 100.0}, "40 labels, 12 s"),  # none could be held out
    ],
)
def test_a_stage_tells_its_labels_and_what_cross_validation_found(classes, out_of_fold, line):
    record = replace(RECORD, value=None)
    assert record.summary(3, classes=classes, out_of_fold=out_of_fold) == f"stage 2 of 3 accepted: {line}"
