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

"""A memory-mapped file of equally shaped arrays, which several processes can share."""

from __future__ import annotations

import json
import logging
import math
import os
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock

__all__ = ["RowStore"]

logger = logging.getLogger(__name__)

_KEY_LENGTH, _SUM_LENGTH = 40, 8
_LINE_LENGTH = _KEY_LENGTH + 1 + _SUM_LENGTH + 1


class RowStore:
    """Store arrays of one shape in a memory-mapped file, each under a key; several processes may add to it.

    ``rows.bin`` holds the arrays one after the other. ``sums.txt`` has one line for each complete array, with its key
    and its CRC-32. An array from an interrupted write has no line, and the next write replaces it. An array that was
    damaged later counts as missing.

    Args:
        folder: folder of the two files; created if necessary.
        shape: shape of an array.
        dtype: its type.

    Raises:
        ValueError: When the folder holds arrays of another shape or type.

    """

    def __init__(self, folder: str | os.PathLike[str], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.folder, self.shape, self.dtype = Path(folder), shape, np.dtype(dtype)
        self.folder.mkdir(parents=True, exist_ok=True)
        expected = {"shape": list(shape), "dtype": self.dtype.str}
        with self.lock():
            form = self.folder / "form.json"
            if not form.exists():
                form.write_text(json.dumps(expected), encoding="utf-8")
            found = json.loads(form.read_text(encoding="utf-8"))
        if found != expected:
            raise ValueError(f"cache_dir: expected arrays of {expected}, got {found} in {form}. Delete that folder.")

    def lock(self) -> FileLock:
        """Return the lock that a process must hold while it adds arrays."""
        return FileLock(self.folder / "lock")

    def find(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the row of each key that has an array; damaged arrays are left out.

        Args:
            keys: the keys.

        """
        lines = self._lines()
        row_of, rows = {key: row for row, (key, _) in enumerate(lines)}, self.map()
        wanted = [(key, row_of[key]) for key in dict.fromkeys(keys) if key in row_of]
        found = {key: row for key, row in wanted if row < len(rows) and _sum(rows[row]) == lines[row][1]}
        if len(found) < len(wanted):
            damaged = len(wanted) - len(found)
            logger.warning("%s: %d of %d arrays are damaged and made anew", self.folder, damaged, len(wanted))
        return found

    def append(self, keys: Sequence[str], arrays: np.ndarray) -> dict[str, int]:
        """Add arrays under keys, and return the row of each key; the caller must hold the lock.

        Args:
            keys: one for each array; for a key that exists, the new array replaces the old one.
            arrays: (number of arrays, *shape).

        """
        count, arrays = len(self._lines()), np.ascontiguousarray(arrays, dtype=self.dtype)
        with (self.folder / "rows.bin").open("ab") as file:
            file.truncate(count * self._row_bytes)
            file.write(arrays.data)
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / "sums.txt").open("ab") as file:
            file.truncate(count * _LINE_LENGTH)
            file.write("".join(f"{key} {_sum(row)}\n" for key, row in zip(keys, arrays, strict=True)).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
        return {key: count + place for place, key in enumerate(keys)}

    def map(self) -> np.ndarray:
        """Return all complete arrays, (number of arrays, *shape), read from the file as they are needed."""
        path = self.folder / "rows.bin"
        count = min(len(self._lines()), path.stat().st_size // self._row_bytes) if path.exists() else 0
        if not count:
            return np.empty((0, *self.shape), dtype=self.dtype)
        return np.memmap(path, mode="r", dtype=self.dtype, shape=(count, *self.shape))

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def _lines(self) -> list[tuple[str, str]]:
        """Return key and checksum of each complete array."""
        path = self.folder / "sums.txt"
        text = path.read_text(encoding="ascii", errors="replace") if path.exists() else ""
        starts = range(0, len(text) - len(text) % _LINE_LENGTH, _LINE_LENGTH)
        whole = (text[start : start + _LINE_LENGTH - 1] for start in starts)
        return [(line[:_KEY_LENGTH], line[_KEY_LENGTH + 1 :]) for line in whole]


def _sum(row: np.ndarray) -> str:
    return f"{zlib.crc32(row.data):0{_SUM_LENGTH}x}"
