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
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from filelock import FileLock

__all__ = ["RowStore"]

_KEY_LENGTH = 40


class RowStore:
    """Store arrays of one shape in a memory-mapped file, each under a key; several processes may add to it.

    ``rows.bin`` holds the arrays one after the other. ``keys.txt`` has one line for each complete array. An array from
    an interrupted write has no line, and the next write replaces it.

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

    def keys(self) -> dict[str, int]:
        """Return the row of each key."""
        path = self.folder / "keys.txt"
        text = path.read_text(encoding="ascii") if path.exists() else ""
        return {line: row for row, line in enumerate(text[: len(text) - len(text) % (_KEY_LENGTH + 1)].split())}

    def append(self, keys: Iterable[str], arrays: np.ndarray) -> None:
        """Add arrays under new keys; the caller must hold the lock.

        Args:
            keys: one for each array.
            arrays: (number of arrays, *shape).

        """
        count = len(self.keys())
        with (self.folder / "rows.bin").open("ab") as file:
            file.truncate(count * self.dtype.itemsize * math.prod(self.shape))
            file.write(np.ascontiguousarray(arrays, dtype=self.dtype).data)
            file.flush()
            os.fsync(file.fileno())
        with (self.folder / "keys.txt").open("ab") as file:
            file.truncate(count * (_KEY_LENGTH + 1))
            file.write("".join(f"{key}\n" for key in keys).encode("ascii"))
            file.flush()
            os.fsync(file.fileno())

    def map(self) -> np.ndarray:
        """Return all arrays, (number of arrays, *shape), read from the file as they are needed."""
        return np.memmap(self.folder / "rows.bin", mode="r", dtype=self.dtype, shape=(len(self.keys()), *self.shape))
