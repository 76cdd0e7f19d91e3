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

"""Keep labels in a JSON file and its log, and read a class from a label's JSON."""

from __future__ import annotations

import codecs
import json
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_weckd.data.names import spelled_as
from monai_weckd.utils.files import sync_folder, write_atomically, write_error
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.records import check_plain, parse_json

__all__ = ["LabelStore", "check_info", "class_of", "read_labels"]

_MOST_INFO = 2**14
_SHORT = 2**16  # bytes of a file that is rewritten with each label: some hundred labels


class LabelStore:
    """Labels in a JSON file, each written before it counts.

    A short file is rewritten atomically with each label. Beside a long one, labels are lines in a log, ``labels.log``,
    until they are as many bytes: then the file is written with all of them, and the log begins anew. So what a label
    writes does not grow with their number.

    Args:
        path: the file; created with the first label.
        classes: the class names.

    Raises:
        ValueError: When the file or its log is damaged, or holds a label of an unknown class.

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
        self._kept = _read(self.path) if self.path.is_file() or _log_of(self.path).is_file() else _Kept()
        try:
            for entry in self._kept.entries.values():
                entry["label"] = self._known(entry["label"])
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    @property
    def labels(self) -> dict[str, str]:
        """Class of each labeled image, in the order in which the labels were given."""
        return {key: entry["label"] for key, entry in dict(self._kept.entries).items()}

    def info(self, image_id: str) -> dict[str, Any]:
        """Return the class, the time and any further information of a label; empty without a label.

        Args:
            image_id: id of the image.

        """
        return dict(self._kept.entries.get(image_id, {}))

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
            previous: str | None = self.info(image_id).get("label")
            self._write(image_id, {**info, "label": label, "ts": int(time.time())})
            return previous

    def remove(self, image_id: str) -> None:
        """Withdraw a label.

        Args:
            image_id: id of the image.

        Raises:
            ValueError: When the image has no label.

        """
        with self._lock:
            if not self.info(image_id):
                raise ValueError(f"id: expected an image with a label, got {image_id!r} without. Label it first.")
            self._write(image_id, None)

    def _write(self, image_id: str, entry: dict[str, Any] | None) -> None:
        """Write that an image has a label, or none; then it counts."""
        kept = self._kept
        if max(_SHORT, kept.log_size) >= kept.size:
            self._kept = _rewritten(self.path, kept, image_id, entry)
        else:
            kept.log_size = _logged(self.path, kept, image_id, entry)
            _apply(kept.entries, image_id, entry)

    def _known(self, label: str) -> str:
        """Return a label in the spelling of its class."""
        label = spelled_as(label, self.classes) if isinstance(label, str) else label
        if label not in self.classes:
            raise ValueError(
                f"label: expected one of the {len(self.classes)} classes, got {label!r}. "
                f"{nearest(str(label), self.classes)}"
            )
        return label


@dataclass
class _Kept:
    """Labels as they are on the disk.

    Args:
        entries: label, time and further information of each image.
        generation: how often the file was written beside a log.
        size: bytes of the file.
        log_size: bytes of whole lines in the log that belongs to the file.

    """

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    generation: int = 0
    size: int = 0
    log_size: int = 0


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of ``labels.json``, and of its log, by the ids of their images, each with at least ``label``.

    Args:
        path: the file.

    Raises:
        ValueError: When the file or its log is damaged: people gave these labels, so they cannot be recovered.

    """
    return _read(path).entries


def _read(path: Path) -> _Kept:
    if not path.is_file():
        raise ValueError(_damaged(path, "none beside its log"))
    data = path.read_bytes()
    content = _parsed(path, data.removeprefix(codecs.BOM_UTF8))
    entries, generation = content.get("labels"), content.get("generation", 0)
    if not isinstance(entries, dict) or type(generation) is not int:
        raise ValueError(_damaged(path, "no object with labels"))
    for key, entry in entries.items():
        if not isinstance(entry, dict) or "label" not in entry:
            raise ValueError(_damaged(path, f"no label in the entry of {key!r}"))
    kept = _Kept(entries, generation, len(data))
    log = _log_of(path)
    if log.is_file():
        kept.log_size = _replay(log, kept)
    return kept


def _replay(log: Path, kept: _Kept) -> int:
    """Apply the lines of a log, and return how many bytes of it count."""
    *lines, rest = log.read_bytes().split(b"\n")  # the rest was being written when its process ended
    if not lines:
        return 0
    generation = _parsed(log, lines[0]).get("generation")
    if type(generation) is not int or generation > kept.generation:
        raise ValueError(_damaged(log, "lines that belong to a newer labels.json"))
    if generation < kept.generation:  # the file has them already
        return 0
    for line in lines[1:]:
        change = _parsed(log, line)
        key, entry = change.get("id"), change.get("entry", ...)
        if not isinstance(key, str) or not (entry is None or (isinstance(entry, dict) and "label" in entry)):
            raise ValueError(_damaged(log, "a line without id and label"))
        _apply(kept.entries, key, entry)
    return log.stat().st_size - len(rest)


def _apply(entries: dict[str, dict[str, Any]], image_id: str, entry: dict[str, Any] | None) -> None:
    """Let an image have an entry, or none; a changed label moves to the end of the order."""
    if entry is None or entries.get(image_id, {}).get("label") != entry["label"]:
        entries.pop(image_id, None)
    if entry is not None:
        entries[image_id] = entry


def _rewritten(path: Path, kept: _Kept, image_id: str, entry: dict[str, Any] | None) -> _Kept:
    """Write all labels into the file, so that its log is no longer needed."""
    entries, generation = dict(kept.entries), kept.generation + bool(kept.log_size)
    _apply(entries, image_id, entry)
    content = {"format": 1, **({"generation": generation} if generation else {}), "labels": entries}
    data = f"{json.dumps(content, indent=1)}\n".encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, data)
    if kept.log_size:
        _log_of(path).unlink()
    return _Kept(entries, generation, len(data))


def _logged(path: Path, kept: _Kept, image_id: str, entry: dict[str, Any] | None) -> int:
    """Add a line to the log of a file, and return how many bytes of it count then."""
    log = _log_of(path)
    head = "" if kept.log_size else f"{json.dumps({'generation': kept.generation})}\n"
    line = f"{head}{json.dumps({'id': image_id, 'entry': entry})}\n".encode()
    try:
        with log.open("ab") as file:
            file.truncate(kept.log_size)  # what was cut off, or is of an older file
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if head:
            sync_folder(log.parent)
    except OSError as error:
        raise write_error(log, error, size=len(line)) from None
    return kept.log_size + len(line)


def _log_of(path: Path) -> Path:
    return path.with_suffix(".log")


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        found = parse_json(content, where="content")
    except ValueError as error:
        raise ValueError(_damaged(path, str(error))) from None
    if not isinstance(found, dict):
        raise ValueError(_damaged(path, "no object with labels"))
    return found


def _damaged(path: Path, got: str) -> str:
    return (
        f"{path}: expected the labels that `label` has stored, got {got.rstrip('.')}. "
        "Restore the file from a copy, or repair it."
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
