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

"""Bound the body of a server's answer: its size as it is unpacked, and the time that it takes."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["ENCODINGS", "BoundedBody"]

ENCODINGS = "gzip, identity"  # what may be asked for

_PACKED = ("gzip", "x-gzip", "deflate")
_PIECE = 2**14  # so that compressed data become some megabytes at a time
_PATIENCE = 60.0  # seconds for any answer, and one more for each so many bytes
_SLOWEST = 2**13


class BoundedBody:
    """The body of an answer in the place of urllib3's, which unpacks any size and waits as long as a byte comes.

    Args:
        raw: urllib3's answer.
        most: bytes that it may have.
        refuse: returns the error for a text that says what was expected and what came.

    """

    def __init__(self, raw: Any, *, most: int, refuse: Callable[[str], Exception]) -> None:
        self._raw, self._most, self._refuse = raw, most, refuse

    def stream(self, amount: int = _PIECE, decode_content: bool | None = None) -> Iterator[bytes]:
        """Yield the unpacked body in pieces, as requests asks for it.

        Args:
            amount: not used, for pieces are small.
            decode_content: not used, for requests always unpacks.

        """
        began, total = time.monotonic(), 0
        for piece in self._unpacked():
            total += len(piece)
            if total > self._most:
                raise self._refuse(f"expected an answer of at most {self._most:,} bytes, got more.")
            if time.monotonic() - began > _PATIENCE + total / _SLOWEST:
                raise self._refuse(f"expected more than {_SLOWEST:,} bytes in a second, got fewer.")
            yield piece

    def _unpacked(self) -> Iterator[bytes]:
        """Yield what each read makes, also if it makes nothing: urllib3 would read on for as long as that is so."""
        encoding = str(self._raw.headers.get("Content-Encoding", "")).strip().lower()
        if encoding not in ("", "identity", *_PACKED):
            raise self._refuse("expected an answer in gzip or as it is, got another encoding.")
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 32) if encoding in _PACKED else None
        # before urllib3 2, there is no read that returns what has come
        read = getattr(self._raw, "read1", self._raw.read)
        while piece := read(_PIECE, decode_content=False):
            try:
                yield piece if unpacker is None else unpacker.decompress(piece)
            except zlib.error:
                raise self._refuse("expected an answer in gzip, got other bytes.") from None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)
