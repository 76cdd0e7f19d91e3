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

"""A CSV to which rows are appended one by one. Written rows survive interruptions."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import read_table, table_text

__all__ = ["Journal"]


class Journal:
    """A CSV to which rows are added one by one; once :py:meth:`add` has returned, its row survives any interruption.

    Args:
        path: the CSV; it is created with its first row.
        columns: the columns' names.

    Attributes:
        rows: its rows, every value as text.

    Raises:
        ValueError: When there is a different table at the path.

    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path, self.columns = path, list(columns)
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # the last row may have been cut off
        try:
            self.rows = read_table(whole.decode("utf-8"), self.columns if whole else ())
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if path.exists() and (whole != text or not whole):
            self.replace(self.rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Add a row.

        Args:
            row: a value for each column.

        """
        self.rows.append({name: str(value) for name, value in row.items()})
        if not self.path.exists():
            self.replace(self.rows)
            return
        with self.path.open("ab") as file:
            line = table_text(self.columns, [row]).removeprefix(table_text(self.columns, []))
            file.write(line.encode("utf-8"))
            file.flush()
            os.fsync(file.fileno())

    def replace(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace all rows.

        Args:
            rows: the new rows, each with a value for each column.

        """
        self.rows = [{name: str(value) for name, value in row.items()} for row in rows]
        write_atomically(self.path, table_text(self.columns, self.rows))
