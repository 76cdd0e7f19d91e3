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

import os

import pytest
from prediction_models import untrained_model

from monai_weckd.predict.confidence import calibration_text, validation_text
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import table_text


def test_validation_items_may_have_names_that_are_no_text(tmp_path):
    rows = [{"id": os.fsdecode(b"\xff.png"), "split": "val", "label": "a", "predicted": "a", "probability_a": 0.9}]
    write_atomically(tmp_path / "predictions.csv", table_text(list(rows[0]), rows))
    text = validation_text(tmp_path / "model.pt", 0.5)
    assert text.startswith("on validation 0 of 1 without a class (0%), accuracy of the others 1.000")


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ({"calibration": 1.25}, "calibrated on validation, temperature 1.25"),
        ({"calibration": None, "out_of_fold": {"labels": 18}}, "calibrated by cross-validation on 18 labels"),
        ({"calibration": None, "out_of_fold": {"labels": 0}}, "not calibrated: a confidence"),
        ({"calibration": None}, "not calibrated: a confidence"),
    ],
)
def test_the_calibration_is_that_of_the_final_stage(tmp_path, found, text):
    model = untrained_model(tmp_path, **found)
    assert calibration_text(model).startswith(text)
    (tmp_path / "chain.json").unlink()
    assert calibration_text(model) == "calibration unknown: no chain.json beside it"


def test_without_validation_the_effect_of_a_threshold_is_unknown(tmp_path):
    columns = ["id", "split", "label", "predicted", "probability_a"]
    write_atomically(tmp_path / "predictions.csv", table_text(columns, []))
    expected = f"unknown on validation: no row of it in {tmp_path / 'predictions.csv'}"
    assert validation_text(tmp_path / "model.pt", 0.5) == expected


def test_what_a_smallest_confidence_costs_and_gains_is_counted(tmp_path):
    columns = ["id", "split", "label", "predicted", "probability_a", "probability_b"]
    # the wrong one is the least certain; the last is no validation item
    values = [("val", "a", "a", 0.9), ("val", "b", "b", 0.2), ("val", "b", "a", 0.6), ("test", "a", "a", 0.9)]
    rows = [dict(zip(columns, (str(n), *row, 1 - row[3]), strict=True)) for n, row in enumerate(values)]
    write_atomically(tmp_path / "predictions.csv", table_text(columns, rows))
    model = tmp_path / "model.pt"
    assert validation_text(model, 0.5).startswith(
        "on validation 0 of 3 without a class (0%), accuracy of the others 0.667"
    )
    assert validation_text(model, 0.7).startswith(
        "on validation 1 of 3 without a class (33%), accuracy of the others 1.000"
    )
    assert validation_text(model, 0.95).startswith("on validation 3 of 3 without a class (100%);")


def test_of_findings_each_known_answer_counts(tmp_path):
    columns = ["id", "split", "label_ill", "label_old", "probability_ill", "probability_old"]
    values = [("val", "1", "0", 0.9, 0.4), ("val", "0", "", 0.3, 0.9), ("val", "1", "1", 0.6, 0.9)]
    rows = [dict(zip(columns, (str(n), *row), strict=True)) for n, row in enumerate(values)]
    write_atomically(tmp_path / "predictions.csv", table_text(columns, rows))
    limits = {"ill": 0.65, "old": 0.3}
    # wrong are "old" of the first image, whose threshold is low, and "ill" of the last one, whose threshold is high
    told = validation_text(tmp_path / "model.pt", 0, limits)
    assert told.startswith("on validation 0 of 5 findings undecided (0%), accuracy of the others 0.600")
    told = validation_text(tmp_path / "model.pt", 0.65, limits)
    assert told.startswith("on validation 2 of 5 findings undecided (40%), accuracy of the others 1.000")
