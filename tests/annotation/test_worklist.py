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
import pytest
from PIL import Image
from test_session import QuietChain

from monai_weckd.annotation.worklist import WorklistSession, read_worklist
from monai_weckd.data.keys import ImageKeys
from monai_weckd.predict.images import Prediction
from monai_weckd.predict.table import PredictionTable, prediction_row
from monai_weckd.utils.tables import read_table, table_text

CLASSES = ["ill", "Background"]
CONFIDENCE = {"=a.png": 0.6, "b.png": 0.9, "c/d.png": 0.55, "bad.png": None}


@pytest.fixture
def studies(tmp_path):
    folder = tmp_path / "images"
    (folder / "c").mkdir(parents=True)
    for name in CONFIDENCE:
        Image.new("L", (3, 4)).save(folder / name)
    return folder


@pytest.fixture
def predictions(tmp_path):
    """A table of which two images are below the smallest confidence."""
    rows = []
    for name, value in CONFIDENCE.items():
        chances = None if value is None else np.array([value, 1 - value])
        prediction = Prediction(name, chances, "" if value else "cannot be decoded")
        rows.append(prediction_row(prediction, ImageKeys(name), CLASSES, min_confidence=0.8))
    with PredictionTable(tmp_path / "predictions.csv", CLASSES) as table:
        table.write(rows)
    return table.path


def test_those_without_a_class_are_the_worklist(predictions):
    assert read_worklist(predictions) == ["=a.png", "c/d.png"]
    predictions.write_bytes(b"\xef\xbb\xbf" + predictions.read_bytes())  # as a spreadsheet saves it
    assert read_worklist(predictions) == ["=a.png", "c/d.png"]


FINDINGS = ["effusion", "mass"]


def table_of_findings(folder, *, min_confidence=0.0, sets=()):
    """Write a table of findings; ``sets`` are their sets, image by image."""
    rows = []
    for place, (name, value) in enumerate(CONFIDENCE.items()):
        chances = None if value is None else np.array([value, 0.1])
        prediction = Prediction(name, chances, "" if value else "cannot be decoded")
        options = {"min_confidence": min_confidence, "thresholds": [0.5, 0.5]}
        row = prediction_row(prediction, ImageKeys(name), FINDINGS, **options)
        rows.append({**row, **(dict(zip(("set_effusion", "set_mass"), sets[place], strict=True)) if sets else {})})
    (folder / "findings.csv").write_text(table_text(list(rows[0]), rows), encoding="utf-8")
    return folder / "findings.csv"


def test_those_with_an_undecided_finding_are_the_worklist(tmp_path):
    assert read_worklist(table_of_findings(tmp_path, min_confidence=0.8)) == ["=a.png", "c/d.png"]
    with pytest.raises(ValueError, match=r"^worklist: expected images below min_confidence in .*, got none in 4 rows"):
        read_worklist(table_of_findings(tmp_path))


def test_sets_count_where_no_confidence_leaves_an_answer_open(tmp_path, predictions):
    sets = [("present", "absent"), ("present|absent", "absent"), ("present", "absent|present"), ("", "")]
    assert read_worklist(table_of_findings(tmp_path, sets=sets)) == ["b.png", "c/d.png"]
    assert read_worklist(table_of_findings(tmp_path, sets=sets, min_confidence=0.8)) == ["=a.png", "c/d.png"]
    text = predictions.read_text().replace("below min_confidence", "")
    rows = [{**row, "set": "ill|Background" if row["file"] == "b.png" else "ill"} for row in read_table(text)]
    predictions.write_text(table_text(list(rows[0]), rows))
    assert read_worklist(predictions) == ["b.png"]


def test_what_is_no_worklist_is_told(predictions, tmp_path):
    with pytest.raises(ValueError, match=r"^worklist: expected a CSV of `predict`, got no .*none\.csv. Correct"):
        read_worklist(tmp_path / "none.csv")
    (tmp_path / "other.csv").write_text("id,label\r\n1,2\r\n")
    with pytest.raises(ValueError, match=r"^worklist: expected a CSV of `predict` in .*: expected the column 'file'"):
        read_worklist(tmp_path / "other.csv")
    (tmp_path / "other.csv").write_text("file,reason\r\n1,2\r\n")
    with pytest.raises(
        ValueError, match=r"^worklist: expected a CSV .*: expected the column 'predicted' or 'undecided'"
    ):
        read_worklist(tmp_path / "other.csv")
    (tmp_path / "other.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"^worklist: expected a CSV of `predict` in "):
        read_worklist(tmp_path / "other.csv")
    predictions.write_text(predictions.read_text().replace("below min_confidence", ""))
    with pytest.raises(ValueError, match=r"^worklist: expected images below min_confidence in .*, got none in 4 rows"):
        read_worklist(predictions)


def test_only_the_worklist_is_asked_for(predictions, studies, tmp_path):
    chain = QuietChain(tmp_path)
    found = WorklistSession(chain, studies, [*read_worklist(predictions), "gone.png"], label_budget=3)
    assert (sorted(found.items), found.missing, found.label_budget) == (["=a.png", "c/d.png"], 1, 3)
    counts = {"total": 2, "labeled": 0, "unlabeled": 2}
    assert counts.items() <= found.state()["images"].items()
    found.put_label("=a.png", "ill")
    assert [one.id for one in found.next(count=9)] == ["c/d.png"]
    found.refresh()
    assert sorted(found.items) == ["=a.png", "c/d.png"]


def test_labels_of_other_images_still_count(predictions, studies, tmp_path):
    chain = QuietChain(tmp_path)
    chain.output_dir.mkdir(exist_ok=True)
    first = WorklistSession(chain, studies, ["b.png"])
    first.put_label("b.png", "ill")
    second = WorklistSession(chain, studies, read_worklist(predictions))
    assert second.labels == {"b.png": "ill"}
    assert sorted(second.items) == ["=a.png", "b.png", "c/d.png"]


def test_a_worklist_of_another_folder_is_refused(studies, tmp_path):
    with pytest.raises(ValueError, match=r"worklist: expected images of .*, got none of 2. Pass the folder that was"):
        WorklistSession(QuietChain(tmp_path), studies, ["x.png", "y.png"])
