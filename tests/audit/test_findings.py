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

from monai_weckd.audit.findings import Finding, finding_rows, label_name, spread

CLASSES = ("ill", "well")
ITEMS = [
    {"id": "a.png", "label": 0, "group": "patient 1"},
    {"id": "b.png", "label": 1, "group": "patient 2"},
    {"id": "c.png", "label": -1, "group": "patient 3"},
]


def test_a_row_has_both_files_and_each_kind_is_numbered():
    findings = [
        Finding("exact_duplicate", (0, 1), "same bytes", 1.0),
        Finding("label", (1,), "contradicted", 0.123456, "ill"),
        Finding("exact_duplicate", (1, 2), "same bytes"),
    ]
    first, second, third = finding_rows(findings, ITEMS, CLASSES)
    assert first == {
        "kind": "exact_duplicate",
        "number": 1,
        "file": "a.png",
        "label": "ill",
        "other_file": "b.png",
        "other_label": "well",
        "suggested_label": "",
        "score": 1.0,
        "text": "same bytes",
    }
    assert (second["number"], second["other_file"], second["other_label"]) == (1, "", "")
    assert (second["suggested_label"], second["score"]) == ("ill", 0.1235)
    assert (third["number"], third["other_label"], third["score"]) == (2, "", "")


def test_an_item_without_a_label_has_no_name_of_one():
    assert [label_name(item, CLASSES) for item in ITEMS] == ["ill", "well", ""]


def test_a_few_odd_values_do_not_change_the_spread():
    values = np.random.default_rng(0).normal(5, 2, 2000)
    median, deviation = spread(values)
    assert (median, deviation) == pytest.approx((5, 2), abs=0.15)
    values[:20] = 1e6
    assert spread(values) == pytest.approx((median, deviation), abs=0.1)
    assert spread(np.array([3.0])) == (3.0, 0.0)
