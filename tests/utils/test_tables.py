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

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_weckd.utils.tables import read_table, table_text

FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1"]
# what utf-8 can hold; csv knows no NUL
TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"^expected the column 'id', got none\. Write the file again\.$"),
        ("file,label\n", r"^expected the column 'id', got none\. Write"),
        ("id,label\na\n", r"^row 2: expected 2 values, got 1\. Write the file again\.$"),
        ("id,label\na,b\nc,d,e\n", r"^row 3: expected 2 values, got 3\. Write"),
        ("id\n" + "a" * 200_000, r"^expected comma-separated values, got field larger .*\. Write the file again\.$"),
    ],
)
def test_what_is_no_table_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_table(text, ["id"])


@pytest.mark.parametrize("text", FORMULAS)
def test_a_formula_gets_an_apostrophe(text):
    ((header,), (cell,)) = csv.reader(io.StringIO(table_text([text], [{text: text}]), newline=""))
    assert header == cell == f"'{text}"


def test_other_cells_are_written_as_they_are():
    text = table_text(["a", "b", "c"], [{"a": "ear = 1.png", "b": -0.5, "c": None}])
    assert list(csv.reader(io.StringIO(text, newline=""))) == [["a", "b", "c"], ["ear = 1.png", "-0.5", ""]]


@given(st.lists(st.tuples(TEXT | st.sampled_from(FORMULAS), TEXT), max_size=5))
def test_what_was_written_is_read(pairs):
    rows = [{"id": one, "label": other} for one, other in pairs]
    text = table_text(["id", "label"], rows)
    assert read_table(text) == rows
    for row in csv.reader(io.StringIO(text, newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) for cell in row)


@pytest.mark.parametrize("text", ["a;=1+1", ";=cmd()", "a;b", "a\t=1+1", "x;+1", 'a";=1', "a,;=1"])
def test_no_part_of_a_cell_is_a_cell_where_others_separate(text):
    line = table_text(["id"], [{"id": text}]).split("\r\n")[1]
    for separator in ",;\t":
        assert next(csv.reader([line], delimiter=separator)) == [text]
    assert read_table(table_text(["id"], [{"id": text}])) == [{"id": text}]


@pytest.mark.parametrize("value", ["", None, "a", "ä", 0.5, 1])
def test_a_table_of_one_column_keeps_its_rows(value):
    assert read_table(table_text(["id"], [{"id": value}])) == [{"id": "" if value is None else str(value)}]
