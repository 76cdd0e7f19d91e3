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

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from monai_weckd.data.medmnist import parse_reference

__all__ = ["RowStore", "content_key", "describe", "digest"]

_KEY_LENGTH = 40


class RowStore:
    """Arrays of one shape in a memory-mapped file, each under a key; several processes may add to it.

    ``rows.bin`` holds the arrays one after the other, ``keys.txt`` a line for each that is there as a whole: what an
    interrupted write leaves behind has no line, and is written over.

    Args:
        folder: where the two files are; made if need be.
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
        """Return the lock that every process which adds arrays holds meanwhile."""
        return FileLock(self.folder / "lock")

    def keys(self) -> dict[str, int]:
        """Return the row of each key."""
        path = self.folder / "keys.txt"
        text = path.read_text(encoding="ascii") if path.exists() else ""
        return {line: row for row, line in enumerate(text[: len(text) - len(text) % (_KEY_LENGTH + 1)].split())}

    def append(self, keys: Iterable[str], arrays: np.ndarray) -> None:
        """Add arrays; the caller holds the lock, and none of the keys is there.

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


def content_key(image: str | os.PathLike[str], memory: dict[str, str]) -> str:
    """Return a digest of the bytes of an image: of a file, of the files of a folder, or of an archive's reference.

    Args:
        image: path of a file or a folder, or ``<archive>.npz::<split>/<index>``.
        memory: digests of archives seen so far, which are read once.

    """
    reference = parse_reference(str(image))
    if reference is not None:
        if reference.archive not in memory:
            memory[reference.archive] = _file_digest(Path(reference.archive))
        return digest(memory[reference.archive], reference.split, str(reference.number))
    path = Path(image)
    if path.is_dir():
        return digest(*(_file_digest(file) for file in sorted(path.iterdir()) if file.is_file()))
    return _file_digest(path)


def describe(value: Any) -> Any:
    """Return what decides about a transform's results as JSON: classes, settings and code, without random states.

    Args:
        value: a transform, or anything that one is made of.

    Raises:
        TypeError: When a part cannot be described.

    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    if isinstance(value, (np.ndarray, torch.Tensor)):
        array = np.ascontiguousarray(value)
        return [str(array.dtype), list(array.shape), hashlib.blake2b(array.tobytes(), digest_size=20).hexdigest()]
    if isinstance(value, Mapping):
        return sorted(([describe(key), describe(item)] for key, item in value.items()), key=str)
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, map(describe, value)))
    return _describe_object(value)


def _describe_object(value: Any) -> Any:
    if isinstance(value, (type, torch.dtype, torch.device, np.dtype, np.generic)):
        return str(value)
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    if isinstance(value, FunctionType):  # its code, and what it has closed over
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        constants = [constant for constant in value.__code__.co_consts if not isinstance(constant, CodeType)]
        return [value.__module__, value.__qualname__, value.__code__.co_code.hex(), describe(constants + cells)]
    if isinstance(value, BuiltinFunctionType):
        return [value.__module__, value.__qualname__]
    if hasattr(value, "__dict__"):
        random = (np.random.RandomState, np.random.Generator)
        return [kind, describe({name: part for name, part in vars(value).items() if not isinstance(part, random)})]
    raise TypeError(f"transform: expected parts that can be described, got a {kind}. Pass cache_dir=None.")


def _file_digest(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest(*parts: str) -> str:
    """Return a digest of texts, of the length of a key.

    Args:
        parts: the texts.

    """
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=20).hexdigest()
