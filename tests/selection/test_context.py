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

import dataclasses
import inspect

import numpy as np
import pytest

from monai_weckd.selection import SelectionContext, select_items


def context(**changes):
    """Return four items that anybody may ask for."""
    settings = {
        "features": np.arange(12, dtype=np.float32).reshape(4, 3),
        "probabilities": np.full((4, 2), 0.5, dtype=np.float32),
        "groups": ["a", "b", "c", "d"],
        "labeled": np.zeros(4, dtype=bool),
        "askable": np.ones(4, dtype=bool),
        "seed": 0,
        "stage": 2,
    }
    return SelectionContext(**{**settings, **changes})


def broken(value):
    features = np.zeros((4, 3), dtype=np.float32)
    features[2, 1] = value
    return features


@pytest.mark.parametrize(
    ("strategy", "changes", "message"),
    [
        ("typicl", {}, r"^selection: expected a known strategy, got 'typicl'. Did you mean 'typical'\?$"),
        ("x", {}, r"^selection: expected a known strategy, got 'x'. Valid: 'herding', 'random', 'typical', 'margin', "),
        (
            "random",
            {"features": np.zeros(4)},
            r"^features: expected an array \(items, features\), got shape \(4,\). Fl",
        ),
        (
            "random",
            {"features": broken(np.nan)},
            r"^features: expected finite numbers, got others in 1 of 4 rows, f.* 2",
        ),
        ("random", {"features": broken(-np.inf)}, r"^features: expected finite numbers, got others in 1 of 4 rows"),
        ("random", {"groups": ["a"]}, r"^groups: expected one for each of 4 rows of features, got 1. Pass all in the "),
        ("random", {"labeled": np.zeros(3, bool)}, r"^labeled: expected one for each of 4 rows of features, got 3. "),
        ("random", {"askable": np.zeros(5, bool)}, r"^askable: expected one for each of 4 rows of features, got 5. "),
        ("random", {"askable": np.arange(4)}, r"^askable: expected an array of bool, got int64. Pass a mask.$"),
        ("margin", {"probabilities": None}, r"^probabilities: expected a teacher's for selection='margin', got None. "),
        (
            "badge",
            {"probabilities": None},
            r"^probabilities: expected a teacher's for selection='badge', got None. Pas",
        ),
        (
            "margin",
            {"probabilities": np.ones(4)},
            r"^probabilities: expected an array \(4, classes\), got shape \(4,\)",
        ),
        (
            "herding",
            {"probabilities": np.ones((3, 2))},
            r"^probabilities: expected an array \(4, classes\), got shape \(3",
        ),
        (
            "herding",
            {"probabilities": np.ones((4, 0))},
            r"^probabilities: expected an array \(4, classes\), got shape \(4",
        ),
        (
            "herding",
            {"probabilities": broken(np.nan)},
            r"^probabilities: expected finite numbers, got others in 1 of 4 r",
        ),
        ("random", {"seed": -1}, r"^seed: expected a number of at least 0, got -1. Pass another.$"),
        ("random", {"stage": 0}, r"^stage: expected a number from 1, got 0. The first stage is 1.$"),
        ("random", {"labeled": np.arange(4) < 3}, r"^count: expected from 1 to the 1 items that can be asked for, go"),
        ("random", {"askable": np.zeros(4, bool)}, r"^count: expected from 1 to the 0 items that can be asked for, go"),
    ],
)
def test_validation(strategy, changes, message):
    with pytest.raises(ValueError, match=message):
        select_items(strategy, context(**changes), count=2)


@pytest.mark.parametrize("count", [-1, 0, 5])
def test_count_validation(count):
    with pytest.raises(
        ValueError, match=rf"^count: expected from 1 to the 4 items that can be asked for, got {count}. "
    ):
        select_items("random", context(), count=count)


def test_a_large_feature_is_a_finite_one():
    largest = np.finfo(np.float32).max
    assert len(select_items("random", context(features=np.full((4, 3), largest, dtype=np.float32)), count=2)) == 2


def test_candidates():
    masks = {"labeled": np.array([True, True, False, False]), "askable": np.array([True, False, True, False])}
    assert context(**masks).candidates.tolist() == [2]


def test_there_is_no_door_for_labels():
    fields = {field.name for field in dataclasses.fields(SelectionContext)}
    known = {"features", "probabilities", "groups", "labeled", "askable", "seed", "stage", "findings", "projected"}
    assert fields == known
    assert context().findings is False  # whether the probabilities are of findings, and not which there are
    assert context().projected is False  # whether features are projected, and not by what
    assert context().labeled.dtype == bool  # whether, not what: any other type is refused above
    assert list(inspect.signature(select_items).parameters) == ["strategy", "context", "count"]
