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

"""The memory that all decoders of a process may take together: claimed before it is allocated, and given back."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from threading import Condition, Lock, local
from typing import ParamSpec, TypeVar

from monai_weckd.utils.system import available_memory

__all__ = ["VARIABLE", "BudgetError", "CountedBytes", "CountedFile", "borrowed", "budgeted", "claim", "memory_budget"]

VARIABLE = "MONAI_WECKD_MEMORY"

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?) ?([kmgt]?)(?:i?b)?", re.IGNORECASE)
# what a parser keeps of a read beside its bytes: an element, or the item of a sequence, with their dictionaries
_OBJECT = 1500
_LUMP = 2**20

_read = io.BufferedReader.read

P = ParamSpec("P")
T = TypeVar("T")


class BudgetError(ValueError):
    """What is to be decoded would take more memory than the budget."""


class _NotNowError(BaseException):
    """Other threads hold the room. A BaseException, so that code that handles errors of decoders does not catch it."""

    def __init__(self, wanted: int) -> None:
        super().__init__(wanted)
        self.wanted = wanted


class _Room(local):
    """What the decoding of this thread has claimed, and how much of the budget is kept for it; None outside of one."""

    claimed = 0
    kept: int | None = None


class _Shared:
    """What is kept for all threads."""

    def __init__(self) -> None:
        self._door, self._change, self._used = Lock(), Condition(), 0

    def keep(self, wanted: int) -> None:
        """Wait until there is room, in the order of coming."""
        if not wanted and not self._door.locked():
            return
        with self._door, self._change:
            self._change.wait_for(lambda: not self._used or self._used + wanted <= memory_budget())
            self._used += wanted

    def grow(self, more: int, budget: int) -> bool:
        """Return whether there was room at once."""
        with self._change:
            fits = self._used + more <= budget
            self._used += more if fits else 0
            return fits

    def give_back(self, kept: int) -> None:
        if not kept:
            return
        with self._change:
            self._used -= kept
            self._change.notify_all()


_room, _shared = _Room(), _Shared()


def _forget() -> None:
    """Reset in a forked process, which has none of the threads that claimed memory in the parent."""
    global _room, _shared
    _room, _shared = _Room(), _Shared()


if hasattr(os, "register_at_fork"):  # on POSIX systems
    os.register_at_fork(after_in_child=_forget)


def memory_budget() -> int:
    """Return how many bytes the decoders of this process may take together.

    The environment variable ``MONAI_WECKD_MEMORY`` says how many, such as ``8G``. Its default is half of the memory
    that the process may use. The worker processes of a data loader share it.

    Raises:
        ValueError: When the variable is no number of bytes.

    """
    data = sys.modules.get("torch.utils.data")  # without it, there are no worker processes
    worker = data.get_worker_info() if data is not None else None
    text = os.environ.get(VARIABLE, "")
    return (_bytes_of(text) if text else _default()) // (1 if worker is None else worker.num_workers)


@cache
def _default() -> int:
    return available_memory() // 2


@cache
def _bytes_of(text: str) -> int:
    found = _NUMBER.fullmatch(text.strip())
    count = int(float(found[1]) * _UNITS[found[2].lower()]) if found else 0
    if not count:
        raise ValueError(f"{VARIABLE}: expected a number of bytes such as 8G, got {text!r}. Correct it.")
    return count


def budgeted(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that decodes within the budget: what it claims is kept for it until it returns.

    If other threads hold the memory that a call claims, the call is abandoned, and started again when there is room. So
    a thread that waits holds no memory, and threads cannot wait for each other. A call within another such call counts
    as part of it.

    Args:
        function: calls :py:func:`claim` before it allocates.

    """

    @wraps(function)
    def within(*args: P.args, **kwargs: P.kwargs) -> T:
        if _room.kept is not None:
            return function(*args, **kwargs)
        wanted = 0
        while True:
            _shared.keep(wanted)
            _room.claimed, _room.kept = 0, wanted
            try:
                return function(*args, **kwargs)
            except _NotNowError as later:
                wanted = later.wanted
            finally:
                kept, _room.kept = _room.kept, None
                _shared.give_back(kept)

    return within


def claim(count: int, *, name: str = "") -> None:
    """Claim memory for what the budgeted function around this call allocates next, until that returns.

    Outside of such a function, only the size is checked.

    Args:
        count: bytes; a negative number counts as 0.
        name: what is decoded, for the error; default "": the caller names it.

    Raises:
        BudgetError: When the function would have claimed more than the budget.

    """
    total, budget = (0 if _room.kept is None else _room.claimed) + max(0, count), memory_budget()
    if total > budget:
        raise BudgetError(
            f"{name}: " * bool(name) + f"expected what decodes within {budget:,} bytes of memory, got {total:,}. "
            f"Make it smaller, or raise {VARIABLE}."
        )
    if _room.kept is None:
        return
    if total > _room.kept:
        if not _shared.grow(total - _room.kept, budget):
            raise _NotNowError(total)
        _room.kept = total
    _room.claimed = total


@contextmanager
def borrowed() -> Iterator[None]:
    """Give back at the end of the body what it has claimed: it was freed by then."""
    before = _room.claimed
    try:
        yield
    finally:
        _room.claimed = before


class _Counted:
    """Claims what is read, and what a parser makes of it, in lumps."""

    _owed = 0
    _refusal: BaseException | None = None

    def check(self) -> None:
        """Raise what a read has raised: there are parsers that catch it."""
        if self._refusal is not None:
            raise self._refusal

    def _settle(self) -> None:
        owed, self._owed = self._owed, 0
        try:
            claim(owed)
        except BaseException as error:
            self._refusal = error
            raise


class CountedFile(_Counted, io.BufferedReader):
    """A file whose reads are claimed before they happen: a parser keeps them, and may read a place again and again.

    Args:
        path: the file.

    Attributes:
        size: its number of bytes.

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes; no more are allocated than there are, whatever a header claims.

        Args:
            size: how many, default -1: all.

        """
        if size is None or size < 0 or size > _LUMP:
            left = max(0, self.size - self.tell())
            size = left if size is None or size < 0 else min(size, left)
        self._owed += size + _OBJECT  # here, since headers are read in hundreds of pieces
        if self._owed > _LUMP:
            self._settle()
        return _read(self, size)


class CountedBytes(_Counted, io.BytesIO):
    """Bytes in memory whose reads are claimed as those of :py:class:`CountedFile`; the caller claims the bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes.

        Args:
            size: how many, default -1: all.

        """
        left = max(0, self.getbuffer().nbytes - self.tell())
        size = left if size is None or size < 0 else min(size, left)
        self._owed += size + _OBJECT  # here, since headers are read in hundreds of pieces
        if self._owed > _LUMP:
            self._settle()
        return super().read(size)
