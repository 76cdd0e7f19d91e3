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

"""Text for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["check_item", "nearest", "printable"]


def check_item(name: str, number: int, item: Any) -> None:
    """Refuse an item that is not a dictionary, such as a pair of an image and its label.

    Args:
        name: name of the list, for the error.
        number: place of the item in it.
        item: the item.

    Raises:
        TypeError: When it is not a dictionary.

    """
    if not isinstance(item, Mapping):
        raise TypeError(
            f"{name}: expected dictionaries with 'image' and 'label', got {type(item).__name__} as item {number}. "
            "Name the parts of each item: {'image': ..., 'label': ...}."
        )


def nearest(key: str, valid: Collection[str], *, otherwise: str | None = None) -> str:
    """Return a hint with the valid key nearest to a mistyped one, or with all valid keys if none is near.

    Args:
        key: the mistyped key.
        valid: the valid keys.
        otherwise: the hint if none is near, where there are too many keys to name. Default None: all valid keys.

    Example::

        >>> nearest("disjont", ["disjoint", "cumulative"])
        "Did you mean 'disjoint'?"

    """
    match = difflib.get_close_matches(str(key), valid, n=1)
    if match:
        return f"Did you mean {match[0]!r}?"
    return f"Valid: {', '.join(map(repr, valid))}." if otherwise is None else otherwise


def printable(name: str) -> str:
    r"""Return a name as it is, or with escapes if it is empty or has a line break, lone surrogates or the like.

    Args:
        name: name of a file, a class or a group.

    Example::

        >>> printable("ear 1.png"), printable("ear" + chr(10))
        ('ear 1.png', "'ear\\n'")

    """
    return name if name and name.isprintable() else ascii(name)
