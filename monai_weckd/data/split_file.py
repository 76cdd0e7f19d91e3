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

"""Read a JSON file that assigns each item to a split or to a fold."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai_weckd.data.names import clean_text, plain_key
from monai_weckd.plan.splits import SPLITS
from monai_weckd.utils.messages import nearest

__all__ = ["holds_folds", "read_folds", "split_name", "with_splits"]

_SPELLINGS = {
    "train": re.compile(r"(train|training|trains)(set|data|dataset|split)?"),
    "val": re.compile(r"(val|valid|validation|validate)(set|data|dataset|split)?"),
    "test": re.compile(r"(test|testing|tests)(set|data|dataset|split)?"),
}


def split_name(text: str) -> str | None:
    """Return the split that a text means, in upper or lower case, or None.

    Args:
        text: "train", "training", "val", "valid", "validation", "test" or "testing", also followed by "set" or "data".

    Example::

        >>> split_name("Training"), split_name("valid"), split_name("TEST_SET"), split_name("control")
        ('train', 'val', 'test', None)

    """
    return next((name for name, spelling in _SPELLINGS.items() if spelling.fullmatch(plain_key(text))), None)


def with_splits(items: Sequence[Mapping[str, Any]], split_file: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return items with the splits from a file, which replace any splits that they have.

    Args:
        items: dictionaries with ``id``.
        split_file: a JSON file with an object that maps each item id to "train", "val" or "test".

    Raises:
        ValueError: When the file is missing or holds no such object, when it names an unknown item or split, or when it
            leaves an item out.

    """
    given = {key: _known_split(key, split) for key, split in _read(Path(split_file)).items()}
    splits = _by_id(items, given, what="split")
    return [{**item, "split": splits[item["id"]]} for item in items]


def holds_folds(split_file: str | os.PathLike[str]) -> bool:
    """Return whether a split file assigns items to numbered folds instead of splits.

    Args:
        split_file: a JSON file.

    Raises:
        ValueError: When the file is missing or holds no object.

    """
    return any(type(value) is int for value in _read(Path(split_file)).values())


def read_folds(items: Sequence[Mapping[str, Any]], split_file: str | os.PathLike[str]) -> dict[str, str]:
    """Return the fold of each item from a file.

    Args:
        items: dictionaries with ``id``.
        split_file: a JSON file with an object that maps each item id to the number of a fold.

    Raises:
        ValueError: When the file is missing or holds no such object, or names an unknown item, or leaves one out.

    """
    content = _read(Path(split_file))
    for key, fold in content.items():
        if type(fold) is not int:
            raise ValueError(
                f"split_file: expected the number of a fold for {key!r}, as for others, got {fold!r}. "
                "Name folds alone, or splits alone."
            )
    return _by_id(items, {key: str(fold) for key, fold in content.items()}, what="fold")


def _by_id(items: Sequence[Mapping[str, Any]], given: Mapping[str, str], *, what: str) -> dict[str, str]:
    """Return what a file says of each item, by the item's id."""
    # names that a Mac has written may have another Unicode form
    ids = {clean_text(item["id"]): item["id"] for item in items}
    exact = set(ids.values())
    found: dict[str, str] = {}
    for key, value in given.items():
        name = key if key in exact else ids.get(clean_text(key))
        if name is None:
            raise ValueError(
                f"split_file: expected ids of the {len(ids)} items, got {key!r}. "
                "An id is the path of the image, relative to the folder."
            )
        if found.setdefault(name, value) != value:
            raise ValueError(
                f"split_file: expected one {what} for {name!a}, got {found[name]!r} and {value!r}. Remove one."
            )
    absent = [item["id"] for item in items if item["id"] not in found]
    if absent:
        raise ValueError(
            f"split_file: expected a {what} for each of {len(items)} items, got none for {len(absent)}, "
            f"first {absent[0]!r}. Add it."
        )
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ValueError(
            f"split_file: expected a readable file, got {str(path)!r} ({error.strerror}). Correct the path."
        ) from error
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8
        raise ValueError(f"split_file: expected JSON, got {str(path)!r} ({error}). Write the file again.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"split_file: expected an object of split by item id, got {type(content).__name__}. Write the file again."
        )
    return content


def _known_split(key: str, split: Any) -> str:
    found = split_name(split) if isinstance(split, str) else None
    if found is None:
        raise ValueError(
            f"split_file: expected one of {SPLITS} for {key!r}, got {split!r}. {nearest(str(split), SPLITS)}"
        )
    return found
