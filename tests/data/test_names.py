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

import pytest
from dataset_folders import listed

from monai_weckd.data.names import is_missing, join_spellings, plain_key, spelled_as

SPELLINGS = {
    "case": ("Normal", "normal", "'normal' as 'Normal'"),
    "white_space": ("no tumor", "no  tumor", "'no  tumor' as 'no tumor'"),
    "no_break_space": ("no tumor", "no\u00a0tumor", r"'no\xa0tumor' as 'no tumor'"),
    "zero_width": ("ill", "ill\u200b", r"'ill\u200b' as 'ill'"),
    "byte_order_mark": ("ill", "\ufeffill", r"'\ufeffill' as 'ill'"),
    "inside": ("dry ear", "dry\u2060 ear", r"'dry\u2060 ear' as 'dry ear'"),
    "number": ("1", "1.0", "'1.0' as '1'"),
    "large_number": ("-12", "-12.00", "'-12.00' as '-12'"),
    "hyphen": ("non-ill", "non\u2011ill", r"'non\u2011ill' as 'non-ill'"),
    "dash": ("non-ill", "non\u2013ill", r"'non\u2013ill' as 'non-ill'"),
    "underscore": ("no tumor", "no_tumor", "'no_tumor' as 'no tumor'"),
    "plus": ("1", "+1", "'+1' as '1'"),
    "point": ("1", "1.", "'1.' as '1'"),
    "digit": ("1", "\u0661", r"'\u0661' as '1'"),
    "turkish": ("ill", "\u0130ll", r"'\u0130ll' as 'ill'"),
    "apostrophe": ("l'oeil", "l\u2019oeil", "'l\\u2019oeil' as \"l'oeil\""),
    "direction": ("ill", "\u202eill\u202c", r"'\u202eill\u202c' as 'ill'"),
    "variation": ("ill", "ill\ufe0f", r"'ill\ufe0f' as 'ill'"),
    "full_width": ("ill", "\uff49\uff4c\uff4c", r"'\uff49\uff4c\uff4c' as 'ill'"),
    "look_alike": ("normal", "n\u043erm\u0430l", r"'n\u043erm\u0430l' as 'normal'"),
    "look_alike_capital": ("C1", "\u04211", r"'\u04211' as 'C1'"),
    "cyrillic_case": ("\u043d\u043e\u0441", "\u041d\u041e\u0421", r"'\u041d\u041e\u0421' as '\u043d\u043e\u0441'"),
    "compatible": ("grade 2", "grade \uff12", r"'grade \uff12' as 'grade 2'"),
}


@pytest.mark.parametrize(("usual", "other", "told"), SPELLINGS.values(), ids=SPELLINGS)
def test_spellings_of_a_label_or_group_are_joined_and_told(tmp_path, usual, other, told):
    found = listed(tmp_path, "file,label", *[f"{name}.png,{usual}" for name in "ab"], f"c.png,{other}", "d.png,well")
    assert set(found.classes) == {usual, "well"}
    assert found.passed_over.text() == f"spellings joined: 1 (label {told} 1)"
    found = listed(tmp_path, "file,label,group", f"a.png,x,{usual}", f"b.png,y,{usual}", f"c.png,x,{other}")
    assert {item["group"] for item in found.items} == {usual}
    assert found.passed_over.text() == f"spellings joined: 1 (group {told} 1)"


@pytest.mark.parametrize(("one", "other"), [("1", "1.5"), ("v1.0", "v1"), ("a-b", "ab"), ("7", "007"), ("\u0431", "b")])
def test_other_names_stay_apart(tmp_path, one, other):
    assert set(listed(tmp_path, "file,label", f"a.png,{one}", f"b.png,{other}").classes) == {one, other}


def test_the_first_of_equally_frequent_spellings_counts():
    assert join_spellings(["ILL", "ill", "well"]) == {"ILL": "ILL", "ill": "ILL", "well": "well"}
    assert join_spellings(["ILL", "ill", "ill"]) == {"ILL": "ill", "ill": "ill"}


def test_a_name_that_may_be_two_known_ones_stays():
    assert spelled_as("ILL", ["ill", "Ill"]) == "ILL"
    assert spelled_as("Ill", ["ill", "Ill"]) == "Ill"


def test_none_may_be_a_class():
    assert [is_missing(text) for text in ("none", "None", "n/a", "")] == [False, True, True, True]


def test_a_key_has_letters_and_digits_of_any_script_alone():
    assert plain_key("\u60a3\u8005 \uff29\uff24-\u0661") == "\u60a3\u8005id1"
