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

"""Write and read CSV tables that spreadsheets can open safely."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["read_table", "table_text"]

# a cell with one of these is quoted: if a spreadsheet separates cells by semicolons or tabs, the text after one would
# be a new cell, and may be a formula
_QUOTED = ";\t\r\n"
# first characters of a formula in a spreadsheet; and the apostrophe, so that an added one can be removed again
_GUARDED = ("=", "+", "-", "@", "\t", "\r", "\n", "'")


def table_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Return rows as CSV, in which a spreadsheet takes no text for a formula.

    File and class names come from whoever made the data. Text that begins with ``=``, ``+``, ``-``, ``@``, a tab, a
    line break or an apostrophe gets an apostrophe in front; text with a semicolon or a tab is quoted, as with a comma.
    Other text, and numbers, are written as they are.
    :py:func:`read_table` takes the apostrophe away again.

    Args:
        columns: the columns' names.
        rows: dictionaries with these keys.

    Example::

        >>> print(table_text(["id", "score"], [{"id": "=1+1", "score": -0.5}, {"id": "ear.png", "score": 1}]))
        id,score
        '=1+1,-0.5
        ear.png,1

    """
    lines = _Lines()
    writer = csv.DictWriter(lines, list(columns), lineterminator=_QUOTED)
    writer.writerow({name: _guarded(name) for name in columns})
    writer.writerows({name: _guarded(value) for name, value in row.items()} for row in rows)
    return "".join(lines.texts)


def read_table(text: str, columns: Iterable[str] = ()) -> list[dict[str, str]]:
    """Return the rows of a table from :py:func:`table_text`, with every value as text.

    Args:
        text: the CSV.
        columns: columns that there must be, default none.

    Raises:
        ValueError: When it is not CSV, a column is absent, or a row is shorter or longer than the first one.

    """
    try:
        lines = [[cell.removeprefix("'") for cell in line] for line in csv.reader(io.StringIO(text, newline=""))]
    except csv.Error as error:
        raise ValueError(f"expected comma-separated values, got {error}. Write the file again.") from error
    header = lines[0] if lines else []
    missing = [name for name in columns if name not in header]
    if missing:
        raise ValueError(f"expected the column {missing[0]!r}, got none. Write the file again.")
    for number, line in enumerate(lines, start=1):
        if len(line) != len(header):
            raise ValueError(f"row {number}: expected {len(header)} values, got {len(line)}. Write the file again.")
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


class _Lines:
    """Lines of a CSV; the writer quotes the characters of its line terminator, so that contains all those to quote."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def write(self, line: str) -> None:
        self.texts.append(f"{line.removesuffix(_QUOTED)}\r\n")


def _guarded(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and value.startswith(_GUARDED) else value
