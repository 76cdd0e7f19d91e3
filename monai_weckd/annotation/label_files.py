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

"""Read the labels that a session has kept, without the session."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from monai_weckd.annotation.label_log import LabelLog, Line, check_level, damaged, new_event
from monai_weckd.annotation.label_sum import LabelSum
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.records import parse_json

__all__ = ["known_names", "labeled_findings", "note_export", "read_file", "read_labels", "rebuild_labels"]


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of ``labels.json`` by the ids of their images, each with at least ``label``.

    What its log adds up to counts, if there is one beside it: the file may be older.

    Args:
        path: the file.

    Raises:
        ValueError: When the log, or a file without one, is damaged: people gave these labels, so they cannot be
            recovered.

    """
    lines = LabelLog(path).read()
    return _summed(lines).entries if lines else read_file(path)


def labeled_findings(path: Path) -> tuple[str, ...]:
    """Return the names of the findings that labels are about, empty where an image has one class.

    Args:
        path: ``labels.json``; its log counts, if there is one beside it.

    Raises:
        ValueError: When the log, or a file without one, is damaged.

    """
    return _told(path).findings


def labeled_level(path: Path) -> tuple[str, int]:
    """Return what has a label and, unless it is "image", the spatial dimensions of the images, 2 or 3.

    What has a label is "image", or a level of :py:func:`monai_weckd.data.group_images`.

    Args:
        path: ``labels.json``; its log counts, if there is one beside it.

    Raises:
        ValueError: When the log, or a file without one, is damaged.

    """
    found = _told(path)
    return found.item_level, found.spatial_dims


def known_names(path: Path, kind: LabelKind) -> tuple[str, ...]:
    """Return the names of classes or findings with those that people have added since, which come last.

    Args:
        path: ``labels.json``; its log counts.
        kind: the names that a session begins with.

    Returns:
        The names of the log if they begin with these, else these.

    Raises:
        ValueError: When the log is damaged.

    """
    found = _summed(LabelLog(path).read())
    later = found.findings if kind.findings else found.classes
    return later if later[: len(kind.names)] == kind.names else kind.names


def rebuild_labels(path: Path) -> bool:
    """Write ``labels.json`` from its log alone, and return whether the old file was what the log says, to the byte.

    Args:
        path: the file; it may be missing or damaged.

    Raises:
        ValueError: When there is no log, or a damaged one.

    """
    lines = LabelLog(path).read()
    if not lines:
        raise ValueError(f"labels: expected labels.log beside {path}, got none. Restore it from a copy.")
    content, old = _summed(lines).content(), path.read_bytes() if path.is_file() else b""
    end = _end_of(old)  # the file of a running server may be older than the last lines
    if old != content:
        write_atomically(path, content)
    return _summed(line for line in lines if line.end <= end).content() == old


def _end_of(old: bytes) -> int:
    """Return how many bytes of its log a file says that it adds up, 0 for a damaged file."""
    try:
        return int(json.loads(old)["log"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return 0


def _told(path: Path) -> LabelSum:
    """Return what the log says, or of a file without one what it says of its labels."""
    lines = LabelLog(path).read()
    if lines:
        return _summed(lines)
    content = _parsed(path, path.read_bytes().removeprefix(codecs.BOM_UTF8))
    level, spatial_dims = content.get("item_level", "image"), content.get("spatial_dims", 2)
    check_level(path, level, spatial_dims)
    return LabelSum(findings=tuple(content.get("findings", ())), item_level=level, spatial_dims=spatial_dims)


def _summed(lines: Iterable[Line]) -> LabelSum:
    found = LabelSum()
    found.add(lines)
    return found


def note_export(path: Path, **details: Any) -> None:
    """Log that labels were exported, if they have a log.

    Args:
        path: ``labels.json``.
        details: JSON-compatible values.

    """
    if (log := LabelLog(path)).path.is_file():
        log.append(new_event("export", None, details))


def read_file(path: Path) -> dict[str, dict[str, Any]]:
    """Return the entries of ``labels.json`` without regard to its log.

    Args:
        path: the file.

    Raises:
        ValueError: When it is damaged.

    """
    content = _parsed(path, path.read_bytes().removeprefix(codecs.BOM_UTF8))
    entries = content.get("labels")
    if not isinstance(entries, dict):
        raise ValueError(damaged(path, "no object with labels"))
    for key, entry in entries.items():
        if not isinstance(entry, dict) or "label" not in entry:
            raise ValueError(damaged(path, f"no label in the entry of {key!r}"))
    return entries


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        found = parse_json(content, where="content")
    except ValueError as error:
        raise ValueError(damaged(path, str(error))) from None
    if not isinstance(found, dict):
        raise ValueError(damaged(path, "no object with labels"))
    return found
