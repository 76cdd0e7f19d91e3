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
from sklearn.metrics import roc_auc_score

from monai_weckd.utils.records import label_columns, probability_columns
from monai_weckd.utils.tables import table_text
from monai_weckd.visualize.findings import finding_errors, read_findings
from monai_weckd.visualize.findings import tested_findings as figures_of

NAMES = ("mass", "edema")


@pytest.fixture(scope="module")
def rows():
    """Return the rows of forty images of twenty groups, some labels of which are unknown."""
    rng = np.random.default_rng(0)
    found = []
    for place in range(40):
        labels = rng.integers(0, 2, 2)
        probabilities = (0.3 * labels + 0.7 * rng.uniform(size=2)).round(6)
        told = [str(label) if rng.uniform() > 0.2 else "" for label in labels]
        row = {"id": f"{place}.png", "split": "test", "group": f"g{place // 2}"}
        row |= dict(zip(label_columns(NAMES), told, strict=True))
        found.append(row | dict(zip(probability_columns(NAMES), map(str, probabilities), strict=True)))
    return found


def areas(rows):
    """Return the area under the curve of each finding, over the images that have its label."""
    found = []
    for label, probability in zip(label_columns(NAMES), probability_columns(NAMES), strict=True):
        known = [row for row in rows if row[label]]
        found.append(roc_auc_score([int(row[label]) for row in known], [float(row[probability]) for row in known]))
    return found


def chain_of(macro_auc):
    test = None if macro_auc is None else {"macro_auc": macro_auc}
    return {"classes": list(NAMES), "final": {"test": test, "thresholds": [0.5, 0.5]}}


def test_the_figures_are_those_of_the_known_labels(rows):
    expected = areas(rows)
    found = figures_of(rows, chain_of(np.mean(expected)))
    assert (found["count"], found["groups"]) == (40, 20)
    assert found["metrics"]["macro_auc"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert [part["name"] for part in found["findings"]] == list(NAMES)
    assert [part["auc"] for part in found["findings"]] == pytest.approx(expected, abs=1e-6)


def test_an_image_without_a_group_is_one(rows):
    alone = [{**row, "group": ""} for row in rows]
    assert figures_of(alone, chain_of(np.mean(areas(rows))))["groups"] == 40


def test_without_test_images_there_are_no_figures():
    assert figures_of([], chain_of(None)) is None


def test_rows_of_another_run_are_refused(rows):
    for given, macro_auc in (([], 0.8), (rows, None)):
        with pytest.raises(ValueError, match=r"predictions\.csv: expected the test items, got others\. Keep the files"):
            figures_of(given, chain_of(macro_auc))
    with pytest.raises(ValueError, match=r"expected the final macro AUC of chain\.json, 0\.123, got 0\..* Keep"):
        figures_of(rows, chain_of(0.123))
    broken = [{**rows[0], probability_columns(NAMES)[0]: "x"}, *rows[1:]]
    with pytest.raises(ValueError, match=r"predictions\.csv: could not convert"):
        figures_of(broken, chain_of(0.8))


def test_a_table_is_read_as_text_or_refused(rows, tmp_path):
    path = tmp_path / "predictions.csv"
    path.write_text(table_text(list(rows[0]), rows))
    assert read_findings(path, NAMES) == rows
    with pytest.raises(ValueError, match=r"predictions\.csv: expected the column 'label_nodule', got none"):
        read_findings(path, ("mass", "nodule"))


def test_errors_about_a_finding_are_those_that_sorting_finds():
    rng = np.random.default_rng(0)
    names, limits = ["mass", "edema"], [0.3, 0.7]
    probabilities = rng.uniform(size=(40, 2)).round(2)
    labels = rng.choice([-1, 0, 1], (40, 2))
    rows = [
        {
            "split": "val" if place == 0 else "test",
            **{f"label_{name}": "" if value < 0 else str(value) for name, value in zip(names, label, strict=True)},
            **{f"probability_{name}": str(value) for name, value in zip(names, row, strict=True)},
        }
        for place, (label, row) in enumerate(zip(labels, probabilities, strict=True))
    ]
    found = finding_errors(rows, names, limits, limit=4)
    for place, limit in enumerate(limits):
        called = probabilities[:, place] >= limit
        wrong = (labels[:, place] >= 0) & (called != (labels[:, place] == 1)) & (np.arange(40) > 0)
        sure = np.where(called, probabilities[:, place], 1 - probabilities[:, place])
        expected = sorted(np.flatnonzero(wrong), key=lambda one: -sure[one])[:4]
        assert [position for position, finding in found if finding == place] == expected
