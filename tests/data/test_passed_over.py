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

from collections import Counter

from monai_weckd.data.passed_over import PassedOver


def test_everything_was_used():
    assert PassedOver().text() == ""


def test_all_kinds_are_told_in_one_line_the_most_frequent_first():
    found = PassedOver(["a\nb"], Counter({".txt": 1, ".gif": 3}), Counter({"label 'nan'": 2}), notes=["look"])
    assert found.text() == (
        r"columns not used: 'a\nb'; files passed over: 4 (.gif 3, .txt 1); read as missing: 2 (label 'nan' 2); look"
    )


def test_from_ten_on_the_others_are_counted():
    names = [f"column {number}" for number in range(10)]
    assert PassedOver(names[:9]).text().endswith("column 7, column 8")
    assert PassedOver(names).text().endswith("column 7, and 2 more")


def test_a_name_that_is_written_as_it_is_read_is_not_counted():
    found = PassedOver()
    assert found.joined("label", "ill", "ill") == "ill"
    assert found.text() == ""
    assert [found.joined("group", name, "ill") for name in ("ILL", "ILL", "Ill")] == ["ill"] * 3
    assert found.text() == "spellings joined: 3 (group 'ILL' as 'ill' 2, group 'Ill' as 'ill' 1)"
