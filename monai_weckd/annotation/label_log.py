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

"""An append-only log of what people did in a labeling session, one line of JSON for each act."""

from __future__ import annotations

import json
import os
import time
from itertools import accumulate, islice
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from monai_weckd.data.item_level import ITEM_LEVELS
from monai_weckd.utils.files import sync_folder, write_error
from monai_weckd.utils.records import parse_json

__all__ = ["LabelLog", "Line", "check_level", "damaged", "new_event"]


class Line(NamedTuple):
    """A line of a log.

    Args:
        event: who did what when: at least ``what``, and ``id`` of an image if it is about one.
        end: number of bytes up to the end of this line.

    """

    event: dict[str, Any]
    end: int


class LabelLog:
    """Lines of JSON that are only ever added, each on the disk before it counts.

    A line that was cut off, because its process ended while it was written, was never given: the next line replaces it.
    Several processes may add lines.

    Args:
        labels: ``labels.json``; the log is beside it.

    """

    def __init__(self, labels: Path) -> None:
        self.path = labels.with_suffix(".log")
        self.size = 0  # bytes of the lines that this object has read or written
        self._lock = FileLock(self.path.with_name(f"{self.path.name}.lock"))

    def read(self) -> list[Line]:
        """Return the lines that have come since the last call, or since an own line.

        Raises:
            ValueError: When a line is damaged.

        """
        if not self.path.is_file():
            return []
        with self.path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == self.size:
                return []
            file.seek(self.size)
            *lines, _ = file.read().split(b"\n")
        found, end = [], self.size
        for line in lines:
            end += len(line) + 1
            found.append(Line(self._checked(line), end))
        self.size = end
        return found

    def append(self, *events: dict[str, Any]) -> list[Line]:
        """Add lines, and return them after those that another process has added.

        Args:
            events: what each line holds.

        Raises:
            OSError: When they cannot be written; then none of them is.
            ValueError: When the line of another process is damaged.

        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            others, begin = self.read(), self.size
            lines = [f"{json.dumps(event)}\n".encode() for event in events]
            self._write(b"".join(lines))
            self.size += sum(map(len, lines))
        ends = accumulate(map(len, lines), initial=begin)
        return [*others, *map(Line, events, islice(ends, 1, None))]

    def _write(self, content: bytes) -> None:
        try:
            with self.path.open("ab") as file:
                file.truncate(self.size)  # what was cut off
                try:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    file.truncate(self.size)
                    raise
            if not self.size:
                sync_folder(self.path.parent)
        except OSError as error:
            raise write_error(self.path, error, size=len(content)) from None

    def _checked(self, line: bytes) -> dict[str, Any]:
        try:
            event = parse_json(line, where="content")
        except ValueError as error:
            raise ValueError(damaged(self.path, str(error))) from None
        if not isinstance(event, dict) or not isinstance(event.get("what"), str):
            raise ValueError(damaged(self.path, "a line that says not what was done"))
        names = event.get("names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(damaged(self.path, "a line whose names are no list of texts"))
        if event["what"] == "items":
            check_level(self.path, event.get("level"), event.get("spatial_dims"))
        for name in ("id", "label"):
            if not isinstance(event.get(name, ""), str):
                raise ValueError(damaged(self.path, f"a line whose {name} is no text"))
        return event


def new_event(what: str, who: str | None, details: dict[str, Any]) -> dict[str, Any]:
    """Return what a line holds: who does what, now.

    Args:
        what: such as "label".
        who: the person, None: unknown.
        details: further JSON-compatible values.

    """
    return {"ts": int(time.time()), "who": who, "what": what, **details}


def check_level(path: Path, level: Any, spatial_dims: Any) -> None:
    """Refuse a file that says of its items what none can be.

    Args:
        path: the file.
        level: what has a label.
        spatial_dims: spatial dimensions of an image.

    Raises:
        ValueError: When there is no such level, or an image has other dimensions.

    """
    if level not in ITEM_LEVELS or spatial_dims not in (2, 3):
        raise ValueError(damaged(path, f"items of the level {level!r} with images of {spatial_dims!r} dimensions"))


def damaged(path: Path, got: str) -> str:
    """Return the error for a damaged file.

    Args:
        path: the file.
        got: what was found in it.

    """
    remedy = "Restore the file from a copy, or repair it."
    return f"{path}: expected the labels that `label` has stored, got {got.rstrip('.')}. {remedy}"
