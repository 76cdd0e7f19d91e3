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
from sklearn.metrics import cohen_kappa_score

from monai_weckd.metrics import agreement, cohen_kappa, fleiss_kappa


def fleiss_by_hand(counts):
    """Fleiss (1971), equations 1 to 7, one term after the other."""
    items, categories = len(counts), len(counts[0])
    raters = sum(counts[0])
    shares = [sum(row[j] for row in counts) / (items * raters) for j in range(categories)]
    alike = [sum(n * (n - 1) for n in row) / (raters * (raters - 1)) for row in counts]
    observed, expected = sum(alike) / items, sum(share**2 for share in shares)
    return (observed - expected) / (1 - expected)


# Fleiss' kappa of this table is .210: Wikipedia, "Fleiss' kappa", worked example of 14 raters and 10 subjects
TABLE = [
    [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
    [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
]  # fmt: skip


def test_fleiss_kappa_of_a_published_table():
    assert fleiss_kappa(np.array(TABLE))[0] == pytest.approx(0.210, abs=5e-4)
    assert fleiss_kappa(np.array(TABLE))[0] == pytest.approx(fleiss_by_hand(TABLE), abs=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_kappas_are_those_of_others(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(4, size=30)
    second = np.where(rng.random(30) < 0.6, first, rng.integers(4, size=30))
    assert cohen_kappa(first, second)[0] == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    counts = np.stack([np.bincount(pair, minlength=4) for pair in zip(first, second, strict=True)])
    assert fleiss_kappa(counts)[0] == pytest.approx(fleiss_by_hand(counts.tolist()), abs=1e-12)
    # a weight is as many copies
    weights = rng.integers(1, 4, size=(3, 30))
    for row, value, other in zip(
        weights, cohen_kappa(first, second, weights), fleiss_kappa(counts, weights), strict=True
    ):
        assert value == pytest.approx(cohen_kappa_score(first.repeat(row), second.repeat(row)), abs=1e-12)
        assert other == pytest.approx(fleiss_by_hand(counts.repeat(row, axis=0).tolist()), abs=1e-12)


def test_kappa_is_undefined_where_everything_is_the_same():
    same = np.ones(5, dtype=int)
    assert np.isnan(cohen_kappa(same, same)).all()
    assert np.isnan(fleiss_kappa(np.array([[0, 2]] * 5))).all()
    found = agreement([{"a": "x", "b": "x"}] * 5, list("vwxyz"))
    assert (found["agree"], found["fleiss"]) == (1.0, {"kappa": None, "low": None, "high": None})


@pytest.mark.parametrize("counts", [[[2, 0], [1, 2]], [[1, 0]], np.zeros((0, 2), int)])
def test_refuses_items_with_other_numbers_of_readings(counts):
    with pytest.raises(ValueError, match=r"counts: expected as many readings of each item, two or more, got"):
        fleiss_kappa(np.array(counts))


def test_pairs_of_readers_and_intervals_over_groups():
    rng = np.random.default_rng(0)
    readings, groups = [], []
    for number in range(120):
        truth = "ill" if rng.random() < 0.5 else "well"
        pair = ["Ada", "Cy"] if number % 3 else ["Béla", "Ada"]
        readings.append({name: truth if rng.random() < 0.85 else "cannot tell" for name in pair} | {"later": "ill"})
        groups.append(f"g{number // 4}")
    found = agreement(readings, groups)
    assert found["images"] == 120
    assert [(one["readers"], one["images"]) for one in found["cohen"]] == [(["Ada", "Béla"], 40), (["Ada", "Cy"], 80)]
    for one in found["cohen"]:
        rows = [row for row in readings if set(one["readers"]) <= row.keys()]
        first, second = ([row[name] for row in rows] for name in one["readers"])
        assert one["kappa"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
        assert one["low"] < one["kappa"] < one["high"]
    assert found["fleiss"]["low"] < found["fleiss"]["kappa"] < found["fleiss"]["high"]
    assert found == agreement(readings, groups)
    # groups that repeat themselves tell less
    alone = agreement(readings, [str(number) for number in range(120)])["fleiss"]
    copied = agreement(readings * 3, [str(number) for number in range(120)] * 3)["fleiss"]
    assert copied["high"] - copied["low"] == pytest.approx(alone["high"] - alone["low"], rel=0.3)
    one_group = agreement(readings, ["g"] * 120)["fleiss"]
    assert (one_group["low"], one_group["high"]) == (None, None)


def test_nothing_was_read_twice():
    undefined = {"kappa": None, "low": None, "high": None}
    assert agreement([], []) == {"images": 0, "agree": None, "fleiss": undefined, "cohen": []}
