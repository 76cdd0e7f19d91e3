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

__all__ = ["explaining_error", "first_cause", "is_refusal", "raising_cause"]

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
