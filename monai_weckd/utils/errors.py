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

"""Find the error that explains a failure behind the errors that wrap it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["explaining_error", "first_cause", "is_refusal", "plain_reason", "raising_cause"]

# what the errors of decoders, "<class>: <text>", mean for whoever has the file
_PLAIN = [
    (re.compile(pattern, re.IGNORECASE), meaning)
    for pattern, meaning in (
        (
            r"bytes of pixel data is less than expected \((\d+) vs (\d+)",
            r"it ends too early, after \1 of \2 bytes of pixels",
        ),
        (
            r"^MemoryError|out of memory|not enough memory|allocate memory|size calculation overflowed",
            "it does not fit into memory",
        ),
        (r"truncated|ended before|^EOFError|expected \d+ bytes, got|incomplete", "it ends too early"),
        (r"crc|checksum|data check", "its checksum is wrong"),
        (r"while decompressing|^BadGzipFile", "its compressed data are damaged"),
        (r"missing required element: (\(\w{4},\w{4}\))", r"its header lacks the element \1"),
        (r"exceptions were raised by all", "its compressed pixels are damaged, or of a kind that no decoder reads"),
        (r"^LinAlgError|singular matrix", "its voxel sizes or directions are zero or no numbers"),
        (
            r"^(UnidentifiedImage|ImageFile|HeaderData)Error|^BytesLength|^NotImplementedError|unsupported bmp"
            r"|missing dimensions",
            "its header is damaged or of an unknown kind",
        ),
    )
]
_REFUSAL = re.compile(r"[^\n]+: expected [^\n]+, got [^\n]+$")


def first_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain, which monai.bundle wraps in errors that name an expression.

    An error of this package that says what was expected takes precedence over its own causes.

    Args:
        error: the last error.

    """
    while error.__cause__ is not None and not is_refusal(error):
        error = error.__cause__
    return error


def is_refusal(error: BaseException) -> bool:
    """Return whether an error says in one line what was expected, and so needs no traceback.

    Args:
        error: the error.

    """
    return isinstance(error, (ValueError, TypeError, OSError, ImportError)) and bool(_REFUSAL.match(str(error)))


def explaining_error(error: BaseException) -> BaseException:
    """Return the error that explains why a file cannot be read.

    A reader wraps a decoder's error in one that says what is wrong, and MONAI wraps that in one that names a transform.

    Args:
        error: the last error.

    """
    while error.__cause__ is not None and not isinstance(error, (ValueError, OSError)):
        error = error.__cause__
    return error


def plain_reason(error: BaseException, otherwise: str = "its content is damaged") -> str:
    """Return why a file cannot be used, in words that need no knowledge of decoders.

    The words of a decoder may also quote the header, which names the patient.

    Args:
        error: what a decoder raised.
        otherwise: for errors of which nothing is known, default "its content is damaged".

    Example::

        >>> plain_reason(EOFError("Compressed file ended before the end-of-stream marker was reached"))
        'it ends too early'

    """
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    found = ((pattern.search(text), meaning) for pattern, meaning in _PLAIN)
    return next((match.expand(meaning) for match, meaning in found if match), otherwise)


@contextmanager
def raising_cause() -> Iterator[None]:
    """Raise the cause of MONAI's errors, which name a place in the configuration and not the cause."""
    try:
        yield
    except RuntimeError as error:
        cause = first_cause(error)
        if cause is error:
            raise
        raise cause from None
