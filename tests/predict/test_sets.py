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
from prediction_models import CLASSES, untrained_model, write_held_out

from monai_weckd.predict.sets import ConformalFindings, ConformalSets
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import table_text


@pytest.fixture
def model(tmp_path):
    return untrained_model(tmp_path, labeled=30)


def test_the_limit_is_a_quantile_over_patients(model):
    # patient k has the probability k / 10 for the true class, so the scores are 0.1, 0.2, ..., 1
    write_held_out(model, [(f"p{number}", CLASSES[1], number / 10) for number in range(10) for _ in range(3)])
    sets = ConformalSets(model, CLASSES, 0.5)
    assert sets.limit == pytest.approx(0.6)  # the sixth of eleven, of which one is infinite
    assert sets.text() == "coverage 0.5: each class of probability 0.4 or more, by 30 held out labels of 10 patients"
    assert sets.cells(np.array([0.1, 0.45, 0.05, 0.4], np.float32))["set"] == f"{CLASSES[1]}|{CLASSES[3]}"
    assert sets.cells(np.array([0.4, 0.35, 0.05, 0.2]))["set"] == CLASSES[0]
    assert sets.cells(np.array([0.3, 0.35, 0.15, 0.2]))["set"] == CLASSES[1]
    assert sets.cells(None)["set"] == ""


def test_with_few_patients_every_class_is_in_the_set(model):
    write_held_out(model, [(f"p{number % 8}", "normal", 0.99) for number in range(30)])
    sets = ConformalSets(model, CLASSES, 0.9)
    assert sets.cells(np.array([0.97, 0.01, 0.01, 0.01]))["set"].split("|") == CLASSES
    assert sets.text() == (
        "all classes for each image: coverage 0.9 takes labels of 9 patients, got 30 held out labels of 8 patients"
    )


def test_a_label_that_was_never_held_out_counts_as_missed(model):
    write_held_out(model, [(f"p{number}", "normal", None if number < 6 else 0.99) for number in range(30)])
    assert ConformalSets(model, CLASSES, 0.9).limit == 1
    assert ConformalSets(model, CLASSES, 0.7).limit == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"out_of_fold.csv: expected the 30 labels of the chain.json beside it, got 0\. Keep the files"),
        ([("p", "other", 0.5)], r"out_of_fold.csv: expected labels of \[.*\], got 'other'\. Keep the files of a run"),
        ([("p", "normal", 1.5)], r"out_of_fold.csv: expected probabilities, got 1.5\. Keep the files of a run"),
        ([("p", "normal", float("nan"))], r"out_of_fold.csv: expected probabilities, got nan\. Keep"),
    ],
)
def test_the_labels_of_another_run_are_refused(model, rows, message):
    write_held_out(model, rows)
    with pytest.raises(ValueError, match=message):
        ConformalSets(model, CLASSES, 0.9)


def test_without_held_out_labels_there_are_no_sets(model):
    with pytest.raises(ValueError, match=r"coverage: expected out_of_fold.csv beside .*, got none\. Train with solved"):
        ConformalSets(model, CLASSES, 0.9)
    model.with_name("out_of_fold.csv").write_text("group,label\na,b\n")
    with pytest.raises(ValueError, match=r"out_of_fold.csv: expected the column 'probability_chronic_otitis_media'"):
        ConformalSets(model, CLASSES, 0.9)


def write_findings(model, rows):
    """Write out-of-fold labels of two findings: group, then label and probability of each."""
    columns = ["id", "group", "label_ill", "probability_ill", "label_old", "probability_old"]
    told = [dict(zip(columns, (str(n), *row), strict=True)) for n, row in enumerate(rows)]
    write_atomically(model.with_name("out_of_fold.csv"), table_text(columns, told))


def test_findings_have_a_limit_for_each_answer(model):
    # present in patients 0 to 9 with the probabilities 0, 0.1, ..., absent in patients 10 to 19 with 0.05 each
    shown = [(f"p{n}", 1, n / 10, "", "") for n in range(10)]
    absent = [(f"p{n}", 0, 0.05, 1, 0.9) for n in range(10, 30)]
    write_findings(model, shown + absent)
    sets = ConformalFindings(model, ["ill", "old"], 0.5)
    # of eleven scores, of which one is infinite, the sixth
    assert sets.limits[0] == pytest.approx([0.05, 0.6])
    assert sets.limits[1] == pytest.approx([np.inf, 0.1])  # nobody lacks it
    cells = sets.cells(np.array([0.45, 0.95]))
    assert cells == {"set_ill": "absent|present", "set_old": "present|absent"}  # the more probable first, and always
    assert sets.cells(np.array([0.04, 0.5]))["set_ill"] == "absent"
    assert sets.cells(np.array([0.6, 0.5]))["set_ill"] == "present"
    assert sets.cells(None) == {"set_ill": "", "set_old": ""}
    told = "fewer than 1 patients with and without it, so partly open: old"
    assert sets.text() == f"coverage 0.5 for images with each finding, and for those without it; {told}"


def test_the_sets_of_findings_cover_new_patients_with_and_without_a_finding(model):
    """Simulated: the share of covered answers, over draws of patients with two images each."""
    rng, covered = np.random.default_rng(0), {0: [], 1: []}
    for _ in range(40):
        truth = rng.integers(0, 2, 80)
        scores = 1 / (1 + np.exp(-rng.normal(size=(80, 2)) - 1.5 * (2 * truth[:, None] - 1) - rng.normal(size=(80, 1))))
        rows = [(f"p{n}", truth[n], scores[n, k], "", "") for n in range(15, 80) for k in range(2)]
        model = untrained_model(model.parent, labeled=len(rows))
        write_findings(model, rows)
        sets = ConformalFindings(model, ["ill", "old"], 0.8)
        for n in range(15):
            answer = ("absent", "present")[truth[n]]
            covered[truth[n]] += [answer in sets.cells(np.array([p, 0.5]))["set_ill"].split("|") for p in scores[n]]
    for found in covered.values():
        assert np.mean(found) == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize("value", ["1.5", "nan", "x"])
def test_a_damaged_table_of_findings_is_refused(model, value):
    write_findings(model, [("p", 1, value, 0, 0.5)] * 30)
    with pytest.raises(ValueError, match=r"out_of_fold.csv: "):
        ConformalFindings(model, ["ill", "old"], 0.9)
