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

"""Keep labels in a JSON file, and read a class from a label's JSON."""

from __future__ import annotations

import codecs
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from monai_weckd.data.names import spelled_as
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.records import check_plain, parse_json

__all__ = ["LabelStore", "check_info", "class_of", "read_labels"]

_MOST_INFO = 2**14


class LabelStore:
    """Labels in a JSON file, which is rewritten atomically with each label.

    Args:
        path: the file; created with the first label.
        classes: the class names.

    Raises:
        ValueError: When the file holds a label of an unknown class.

    Example::

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     store = LabelStore(Path(folder, "labels.json"), ["ill", "well"])
        ...     _ = store.put("b.png", "well"), store.put("a.png", "well")
        ...     store.put("a.png", "ill"), LabelStore(store.path, store.classes).labels
        ('well', {'b.png': 'well', 'a.png': 'ill'})

    """

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str]) -> None:
        self.path = Path(path)
        self.classes = tuple(classes)
        self._lock = threading.Lock()
        self._entries: dict[str, dict[str, Any]] = {}
        if self.path.is_file():
            self._entries = read_labels(self.path)
        for entry in self._entries.values():
            entry["label"] = self._known(entry["label"])

    @property
    def labels(self) -> dict[str, str]:
        """Class of each labeled image, in the order in which the labels were given."""
        return {key: entry["label"] for key, entry in dict(self._entries).items()}

    def info(self, image_id: str) -> dict[str, Any]:
        """Return the class, the time and any further information of a label; empty without a label.

        Args:
            image_id: id of the image.

        """
        return dict(self._entries.get(image_id, {}))

    def put(self, image_id: str, label: str, /, **info: Any) -> str | None:
        """Label an image, and return its previous label if it had one. A changed label moves to the end of the order.

        Args:
            image_id: id of the image.
            label: the class.
            info: further JSON-compatible information to keep.

        Raises:
            ValueError: When there is no such class, or the information is not JSON or is too long.

        """
        label = self._known(label)
        check_info(info, where="params")
        with self._lock:
            entries = dict(self._entries)
            previous: str | None = entries.get(image_id, {}).get("label")
            if previous != label:
                entries.pop(image_id, None)
            entries[image_id] = {**info, "label": label, "ts": int(time.time())}
            self._write(entries)
            return previous

    def remove(self, image_id: str) -> None:
        """Withdraw a label.

        Args:
            image_id: id of the image.

        Raises:
            ValueError: When the image has no label.

        """
        with self._lock:
            if image_id not in self._entries:
                raise ValueError(f"id: expected an image with a label, got {image_id!r} without. Label it first.")
            self._write({key: entry for key, entry in self._entries.items() if key != image_id})

    def _write(self, entries: dict[str, dict[str, Any]]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps({"format": 1, "labels": entries}, indent=1) + "\n")
        self._entries = entries

    def _known(self, label: str) -> str:
        """Return a label in the spelling of its class."""
        label = spelled_as(label, self.classes) if isinstance(label, str) else label
        if label not in self.classes:
            raise ValueError(
                f"label: expected one of the {len(self.classes)} classes, got {label!r}. "
                f"{nearest(str(label), self.classes)}"
            )
        return label


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of ``labels.json`` by the ids of their images, each with at least ``label``.

    Args:
        path: the file.

    Raises:
        ValueError: When it is damaged: people gave these labels, so they cannot be recovered.

    """
    try:
        content = parse_json(path.read_bytes().removeprefix(codecs.BOM_UTF8), where="content")
        entries = content["labels"] if isinstance(content, dict) else None
    except (ValueError, KeyError) as error:
        raise ValueError(_damaged(path, str(error))) from None
    if not isinstance(entries, dict):
        raise ValueError(_damaged(path, "no object with labels"))
    for key, entry in entries.items():
        if not isinstance(entry, dict) or "label" not in entry:
            raise ValueError(_damaged(path, f"no label in the entry of {key!r}"))
    return entries


def _damaged(path: Path, got: str) -> str:
    return (
        f"{path}: expected the labels that `label` has stored, got {got}. Restore the file from a copy, or repair it."
    )


def check_info(info: Any, *, where: str) -> None:
    """Refuse information about an image or a label that cannot be stored and returned.

    Args:
        info: the information.
        where: its place, for the error.

    Raises:
        ValueError: When it is not a dictionary of plain JSON, or is longer than 16 KiB.

    """
    if not isinstance(info, dict):
        raise ValueError(
            f'{where}: expected an object such as {{"note": "sure"}}, got {type(info).__name__}. Pass one.'
        )
    check_plain(info, where=where)
    if (length := len(json.dumps(info))) > _MOST_INFO:
        raise ValueError(f"{where}: expected at most {_MOST_INFO:,} bytes of JSON, got {length:,}. Keep it elsewhere.")


def class_of(content: bytes, classes: tuple[str, ...]) -> str:
    """Return the class in a label's JSON.

    Args:
        content: the JSON, ``{"label": name}`` or ``{"idx": number}``.
        classes: class names in the order of their indices.

    Raises:
        ValueError: When the content is not such JSON, or the index is out of range.

    Example::

        >>> class_of(b'{"idx": 0}', ("Background", "Disc"))
        'Background'

    """
    hint = 'Pass a file with {"label": name}.'
    found = parse_json(content, where="label")
    if isinstance(found, dict) and isinstance(found.get("label"), str):
        return str(found["label"])
    index = found.get("idx") if isinstance(found, dict) else None
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(classes):
        raise ValueError(
            f"label: expected a class name, or an index below {len(classes)}, got {str(found)[:80]}. {hint}"
        )
    return classes[index]
