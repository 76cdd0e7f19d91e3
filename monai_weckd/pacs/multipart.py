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

"""Stream the single part of a ``multipart/related`` message."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from email.message import Message

__all__ = ["boundary_of", "single_part"]


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that separates the parts of a multipart message.

    Args:
        content_type: value of the message's header ``Content-Type``.

    Raises:
        ValueError: When the message is not ``multipart/related``, or its header has no boundary.

    Example::

        >>> boundary_of('multipart/related; type="application/dicom"; boundary="a b"')
        b'a b'

    """
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/related" or not boundary:
        raise ValueError("expected multipart/related with a boundary, got another type. Pass the URL of DICOMweb.")
    return boundary.encode("ascii", errors="replace")


def single_part(pieces: Iterable[bytes], boundary: bytes) -> Iterator[bytes]:
    r"""Yield the content of a multipart message's only part, piece by piece, with little more than a piece in memory.

    Args:
        pieces: the message, cut anywhere.
        boundary: the boundary between its parts.

    Raises:
        EOFError: When the message ends before its last boundary.
        ValueError: When it has several parts.

    Example::

        >>> list(single_part([b"--b\r\nContent-Type: text/plain\r\n\r\nA", b"B\r\n--b--"], b"b"))
        [b'AB']

    """
    # no line break precedes the first boundary if it is the message's first line
    rest = _Rest(pieces, b"\r\n")
    delimiter = b"\r\n--" + boundary
    for marker in (delimiter, b"\r\n\r\n"):
        for _ in rest.until(marker):
            pass
    yield from rest.until(delimiter)
    if rest.take(2) != b"--":
        raise ValueError("expected one object, got several parts. Ask who runs the server.")


class _Rest:
    """The unread rest of a message."""

    def __init__(self, pieces: Iterable[bytes], start: bytes) -> None:
        self.pieces, self.buffer = iter(pieces), bytearray(start)

    def until(self, marker: bytes) -> Iterator[bytes]:
        """Yield the bytes before a marker, and skip the marker."""
        while (found := self.buffer.find(marker)) < 0:
            # the marker may begin in this piece and end in the next one
            whole = len(self.buffer) - len(marker) + 1
            if whole > 0:
                yield self.take(whole)
            self._read()
        if found:
            yield self.take(found)
        self.take(len(marker))

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        while len(self.buffer) < count:
            self._read()
        taken = bytes(self.buffer[:count])
        del self.buffer[:count]
        return taken

    def _read(self) -> None:
        piece = next(self.pieces, None)
        if piece is None:
            raise EOFError("the message ends before its last boundary")
        self.buffer += piece
