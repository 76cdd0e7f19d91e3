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
from hypothesis import given, settings
from hypothesis import strategies as st

from monai_weckd.pacs.journal import Journal
from monai_weckd.utils.tables import read_table

COLUMNS = ["name", "size"]
ROWS = [{"name": "a", "size": "1"}, {"name": "=b,\n'c", "size": "2"}, {"name": "d", "size": "3"}]


def test_another_table_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("file,label\nx,y\n")
    with pytest.raises(ValueError, match=r"a\.csv: expected the column 'name', got none"):
        Journal(path, COLUMNS)


def test_rows_are_added_to_those_that_are_there(tmp_path):
    path = tmp_path / "a.csv"
    assert Journal(path, COLUMNS).rows == []
    assert not path.exists()
    for row in ROWS:
        Journal(path, COLUMNS).add(row)
    assert Journal(path, COLUMNS).rows == ROWS == read_table(path.read_bytes().decode())
    journal = Journal(path, COLUMNS)
    journal.replace(ROWS[:1])
    assert journal.rows == Journal(path, COLUMNS).rows == ROWS[:1]


@settings(max_examples=40)
@given(cut=st.integers(0, 60))
def test_a_row_that_was_cut_off_is_not_there(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "a.csv"
    journal = Journal(path, COLUMNS)
    for number in range(4):
        journal.add({"name": f"row{number}", "size": number})
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    found = Journal(path, COLUMNS)
    assert found.rows == journal.rows[: len(found.rows)]
    assert len(found.rows) == max(0, whole[:cut].count(b"\n") - 1)
    found.add({"name": "new", "size": 9})
    assert [row["name"] for row in Journal(path, COLUMNS).rows] == [row["name"] for row in found.rows]
