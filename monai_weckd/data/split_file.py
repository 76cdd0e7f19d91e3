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

"""Read a JSON file that assigns each item to a split."""

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

__all__ = ["split_name", "with_splits"]

_SPELLINGS = {
    "train": re.compile(r"(train|training|trains)(set|data|dataset|split)?"),
    "val": re.compile(r"(val|valid|validation|validate)(set|data|dataset|split)?"),
    "test": re.compile(r"(test|testing|tests)(set|data|dataset|split)?"),
}


def split_name(text: str) -> str | None:
    """Return the split that a text means, in any case, or None.

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
    given = _read(Path(split_file))
    # names that a Mac has written may have another Unicode form
    ids = {clean_text(item["id"]): item["id"] for item in items}
    exact = set(ids.values())
    splits: dict[str, str] = {}
    for key, split in given.items():
        name = key if key in exact else ids.get(clean_text(key))
        if name is None:
            raise ValueError(
                f"split_file: expected ids of the {len(ids)} items, got {key!r}. "
                "An id is the path of the image, relative to the folder."
            )
        if splits.setdefault(name, split) != split:
            raise ValueError(
                f"split_file: expected one split for {name!a}, got {splits[name]!r} and {split!r}. Remove one."
            )
    absent = [item["id"] for item in items if item["id"] not in splits]
    if absent:
        raise ValueError(
            f"split_file: expected a split for each of {len(items)} items, got none for {len(absent)}, "
            f"first {absent[0]!r}. Add it."
        )
    return [{**item, "split": splits[item["id"]]} for item in items]


def _read(path: Path) -> dict[str, str]:
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
    return {key: _known_split(key, split) for key, split in content.items()}


def _known_split(key: str, split: Any) -> str:
    found = split_name(split) if isinstance(split, str) else None
    if found is None:
        raise ValueError(
            f"split_file: expected one of {SPLITS} for {key!r}, got {split!r}. {nearest(str(split), SPLITS)}"
        )
    return found
