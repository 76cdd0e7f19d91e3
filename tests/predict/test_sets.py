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

from monai_weckd.predict.sets import ConformalSets


@pytest.fixture
def model(tmp_path):
    return untrained_model(tmp_path, labeled=30)


def test_the_limit_is_a_quantile_over_patients(model):
    # patient k has the probability k / 10 for the true class, so the scores are 0.1, 0.2, ..., 1
    write_held_out(model, [(f"p{number}", CLASSES[1], number / 10) for number in range(10) for _ in range(3)])
    sets = ConformalSets(model, CLASSES, 0.5)
    assert sets.limit == pytest.approx(0.6)  # the sixth of eleven, of which one is infinite
    assert sets.text() == "coverage 0.5: each class of probability 0.4 or more, by 30 held out labels of 10 patients"
    assert sets.names(np.array([0.1, 0.45, 0.05, 0.4], np.float32)) == f"{CLASSES[1]}|{CLASSES[3]}"
    assert sets.names(np.array([0.4, 0.35, 0.05, 0.2])) == CLASSES[0]
    assert sets.names(np.array([0.3, 0.35, 0.15, 0.2])) == CLASSES[1]
    assert sets.names(None) == ""


def test_with_few_patients_every_class_is_in_the_set(model):
    write_held_out(model, [(f"p{number % 8}", "normal", 0.99) for number in range(30)])
    sets = ConformalSets(model, CLASSES, 0.9)
    assert sets.names(np.array([0.97, 0.01, 0.01, 0.01])).split("|") == CLASSES
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
