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

import json

import pytest

from monai_weckd.compare.store import RunStore
from monai_weckd.engines.label_task import task_of
from monai_weckd.plan.label_kind import LabelKind


def test_a_damaged_result_is_told(tmp_path):
    store = RunStore(tmp_path)
    store.path("chain", (0, 0, 0)).parent.mkdir()
    store.path("chain", (0, 0, 0)).write_text("{")
    with pytest.raises(ValueError, match=r"0-0-0.json: expected JSON, got .* Remove the file"):
        store.read("chain", (0, 0, 0), digest="d")


def test_results_come_back_as_they_were_written(tmp_path):
    store = RunStore(tmp_path)
    rows = [
        {
            "id": "ä\udcff.png",
            "group": "g",
            "label": "b",
            "predicted": "a",
            "probability_a": 0.75,
            "probability_b": 0.25,
        }
    ]
    store.write("chain", (1, 2, 3), {"digest": "d"}, rows=rows, plan="{}")
    assert store.read("chain", (1, 2, 3), digest="d") == {"digest": "d"}
    assert store.read("chain", (1, 2, 3), digest="e") is None
    assert store.read("chain", (1, 2, 4), digest="d") is None
    found = store.predictions("chain", (1, 2, 3), task_of(LabelKind(("a", "b"))))
    assert found.cell == (1, 2, 3)
    assert found.ids == ["ä\udcff.png"]
    assert found.labels.tolist() == [1]
    assert found.probabilities.tolist() == [[0.75, 0.25]]
    assert sorted(path.name for path in (tmp_path / "chain").iterdir()) == [
        "1-2-3.csv",
        "1-2-3.json",
        "1-2-3.plan.json",
    ]
    assert json.loads(store.path("chain", (1, 2, 3)).read_text()).keys() == {"digest", "predictions", "seal"}


def test_findings_come_back_with_what_is_unknown_and_with_their_thresholds(tmp_path):
    store = RunStore(tmp_path)
    row = {"id": "a", "group": "g", "label_ill": 1, "label_old": "", "probability_ill": 0.75, "probability_old": 0.5}
    store.write("chain", (0, 0, 0), {"digest": "d", "thresholds": [0.25, None]}, rows=[row])
    found = store.predictions("chain", (0, 0, 0), task_of(LabelKind(("ill", "old"), findings=True)))
    assert (found.labels.tolist(), found.probabilities.tolist()) == ([[1, -1]], [[0.75, 0.5]])
    assert found.thresholds == [0.25, None]
