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

import csv

import numpy as np
import pytest

from monai_weckd.data.keys import ImageKeys
from monai_weckd.predict.images import Prediction
from monai_weckd.predict.table import PredictionTable, prediction_row

CLASSES = ("ill", "well")
KEYS = ImageKeys("in/a.png", "patient-1")


@pytest.mark.parametrize(("limit", "predicted", "reason"), [(0.75, "well", ""), (0.76, "", "below min_confidence")])
def test_a_class_needs_its_smallest_confidence(limit, predicted, reason):
    row = prediction_row(Prediction("a.png", np.array([0.25, 0.75])), KEYS, CLASSES, min_confidence=limit)
    assert row == {
        "file": "in/a.png",
        "patient": "patient-1",
        "study": "",
        "series": "",
        "predicted": predicted,
        "confidence": 0.75,
        "probability_ill": 0.25,
        "probability_well": 0.75,
        "reason": reason,
    }


def test_what_cannot_be_read_has_a_reason_and_nothing_else():
    row = prediction_row(Prediction("a.png", None, "broken"), KEYS, CLASSES)
    told = {"file": "in/a.png", "patient": "patient-1"}
    assert {key: value for key, value in row.items() if value} == {**told, "reason": "broken"}


def test_a_table_gets_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "out.csv"
    with PredictionTable(path, CLASSES) as table:
        table.write([prediction_row(Prediction("a.png", np.array([0.25, 0.75])), KEYS, CLASSES)])
        table.write([prediction_row(Prediction("b.png", None, "broken"), KEYS, CLASSES)])
        assert not path.exists()
    assert [row["file"] for row in csv.DictReader(path.open())] == ["in/a.png", "in/a.png"]
    assert [file.name for file in path.parent.iterdir()] == ["out.csv"]


def test_an_interrupted_table_keeps_its_rows_under_another_name(tmp_path):
    def write_two(table):
        table.write([prediction_row(Prediction("a.png", None, "broken"), KEYS, CLASSES)])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), PredictionTable(tmp_path / "out.csv", CLASSES) as table:
        write_two(table)
    assert [row["file"] for row in csv.DictReader((tmp_path / "out.csv.part").open())] == ["in/a.png"]
    assert not (tmp_path / "out.csv").exists()
    with pytest.raises(ValueError, match="output: expected a CSV to write, got the folder"):
        PredictionTable(tmp_path, CLASSES)


def test_two_predictions_do_not_write_one_table(tmp_path):
    path, row = tmp_path / "out.csv", prediction_row(Prediction("a.png", None, "broken"), KEYS, CLASSES)
    with PredictionTable(path, CLASSES) as first:
        first.write([row])
        with pytest.raises(FileExistsError, match=r"^output: expected one prediction at a time into .*out\.csv"):
            PredictionTable(path, CLASSES).__enter__()
    assert [one["file"] for one in csv.DictReader(path.open())] == ["in/a.png"]
    with PredictionTable(path, CLASSES) as again:  # the lock went with the file
        again.write([row, row])
    assert [one["file"] for one in csv.DictReader(path.open())] == ["in/a.png", "in/a.png"]


def test_what_an_interrupted_table_left_is_replaced(tmp_path):
    (tmp_path / "out.csv.part").write_text("rows of before\n" * 99)
    with PredictionTable(tmp_path / "out.csv", CLASSES) as table:
        table.write([prediction_row(Prediction("a.png", None, "broken"), KEYS, CLASSES)])
    assert [one["file"] for one in csv.DictReader((tmp_path / "out.csv").open())] == ["in/a.png"]
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize(
    ("limit", "findings", "undecided"),
    [(0, "ill|old", ""), (0.3, "ill", "old"), (0.85, "", "ill|old"), (0.95, "", "ill|old|torn")],
)
def test_an_answer_for_a_finding_needs_its_smallest_confidence(limit, findings, undecided):
    """A finding with a low threshold counts as present although that is improbable, unless it is left open."""
    prediction = Prediction("a.png", np.array([0.8, 0.2, 0.1]))
    options = {"min_confidence": limit, "thresholds": [0.5, 0.1, None]}
    row = prediction_row(prediction, KEYS, ("ill", "old", "torn"), **options)
    assert (row["findings"], row["undecided"], row["reason"]) == (findings, undecided, "")
    bad = prediction_row(Prediction("a.png", None, "broken"), KEYS, ("ill", "old", "torn"), **options)
    assert list(bad) == list(row)
    assert {value for key, value in bad.items() if key not in ("file", "patient")} == {"", "broken"}
