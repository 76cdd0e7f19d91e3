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

"""Keep labels as the lines of a log and as the file that they add up to, and read a class from a label's JSON."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_weckd.annotation.label_files import labeled_level, read_file
from monai_weckd.annotation.label_log import LabelLog, new_event
from monai_weckd.annotation.label_sum import CLASSES, FINDINGS, ITEMS, OF_LABELS, OWN_KEYS, LabelSum
from monai_weckd.annotation.label_words import LabelWords
from monai_weckd.annotation.readings import readings_of
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.records import check_plain, parse_json

__all__ = ["ANSWERS", "LabelStore", "check_info", "class_of"]

logger = logging.getLogger(__name__)

# what somebody may say in place of a class
ANSWERS = ("cannot tell", "bad quality")

_MOST_INFO = 2**14
_SHORT = 2**16  # bytes of a file that is rewritten with each label: some hundred labels


class LabelStore:
    """Labels as lines of a log, each written before it counts.

    ``labels.log`` has a line of JSON for everything that people did: who, when, what. ``labels.json`` is what these
    lines add up to: the label of each image. A short one is rewritten with each label; a long one when the log has
    grown by as many bytes, so that what a label writes does not grow with their number.

    Args:
        path: ``labels.json``. Its log is beside it. A file that has no log begins one.
        classes: the class names.
        answers: what may be said in place of a class, default: nothing. An entry with such a label has ``answer``.
        findings: whether the classes are findings, of which an image may show several, default False. The log names
            them.
        item_level: what has a label, default "image". The log names another level of
            :py:func:`monai_weckd.data.group_images`, with the next argument.
        spatial_dims: spatial dimensions of an image, default 2.

    Raises:
        ValueError: When the log is damaged, or the file that has none, or a label is of an unknown class, or of another
            level.

    Example::

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     store = LabelStore(Path(folder, "labels.json"), ["ill", "well"])
        ...     _ = store.put("b.png", "well"), store.put("a.png", "well")
        ...     store.put("a.png", "ill", who="Ada"), LabelStore(store.path, store.classes).labels
        ('well', {'b.png': 'well', 'a.png': 'ill'})

    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        classes: Sequence[str],
        *,
        answers: Sequence[str] = (),
        findings: bool = False,
        item_level: str = "image",
        spatial_dims: int = 2,
    ) -> None:
        self.path = Path(path)
        self.words = LabelWords(LabelKind(tuple(classes), findings), tuple(answers))
        self._log = LabelLog(self.path)
        self._lock = threading.Lock()
        self._sum = LabelSum()
        self._written = _Written()
        self._sum.add(self._log.read())
        self._check_names()
        old = {} if self._sum.end or not self.path.is_file() else read_file(self.path)
        self._check_level(item_level, labeled_level(self.path)[0] if old else self._sum.item_level, old)
        self._spelled: dict[str, str] = {}
        for entry in [*self._sum.entries.values(), *old.values()]:
            for one in (entry, *entry.get("readings", ())):
                self._spell(one["label"])
        if self._sum.findings != self.findings:
            self._sum.add(self._log.append(new_event(FINDINGS, None, {"names": list(self.findings)})))
        level = {"level": item_level, "spatial_dims": spatial_dims}
        if self._sum.item_level != item_level:
            self._sum.add(self._log.append(new_event(ITEMS, None, level)))
        if old:
            self._sum.add(self._log.append(*map(_first_event, old.items())))
        if self._sum.end:
            self._write_file()

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, or of the findings."""
        return self.words.kind.names

    @property
    def answers(self) -> tuple[str, ...]:
        """What may be said in place of a class."""
        return self.words.answers

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings; empty where an image has one class."""
        return self.classes if self.words.kind.findings else ()

    def _check_names(self) -> None:
        """Refuse a log whose findings, or classes, are others."""
        for what, before, now in (
            ("findings", self._sum.findings, self.findings),
            ("classes", self._sum.classes, () if self.findings else self.classes),
        ):
            if before != now[: len(before)]:
                other = "classes" if self.findings == () else "findings"
                raise ValueError(
                    f"{self.path}: expected {what} {list(before)}, of which it has labels, got "
                    f"{list(now) or other}. Pass another folder, or those {what}; new ones come last."
                )

    def _check_level(self, wanted: str, level: str, old: Mapping[str, Any]) -> None:
        """Refuse labels of another level."""
        if level != wanted and (old or self._sum.entries or level != "image"):
            raise ValueError(
                f"{self.path}: expected the item_level {level!r}, of which it has labels, got {wanted!r}. Pass another "
                f"folder, or --set datalist#item_level={level}."
            )

    def _spell(self, label: str | None) -> str | None:
        """Return how a label that was kept is spelled now."""
        if label is None:  # readers differ
            return None
        try:
            return self._spelled.setdefault(label, self._spelled.get(label) or self.words.spelled(label))
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None

    @property
    def labels(self) -> dict[str, str]:
        """Class of each labeled image, in the order in which the labels were given; none where readers differ."""
        entries = dict(self._sum.entries).items()
        return {key: label for key, entry in entries if (label := self._spell(entry["label"])) is not None}

    @property
    def entries(self) -> dict[str, dict[str, Any]]:
        """All entries of ``labels.json``, with labels in the spelling of the classes; not to be changed."""
        entries = dict(self._sum.entries)
        if all(label == spelled for label, spelled in self._spelled.items()):
            return entries
        return {key: self._respelled(entry) for key, entry in entries.items()}

    def _respelled(self, entry: dict[str, Any]) -> dict[str, Any]:
        found = {**entry, "label": self._spell(entry["label"])}
        if "readings" in entry:
            found["readings"] = [{**one, "label": self._spell(one["label"])} for one in entry["readings"]]
        return found

    def info(self, image_id: str) -> dict[str, Any]:
        """Return the class, the person, the time and any further information of a label; empty without a label.

        Args:
            image_id: id of the image.

        """
        entry = self._sum.entries.get(image_id)
        return {} if entry is None else self._respelled(entry)

    def put(
        self,
        image_id: str,
        label: str | Mapping[str, Any],
        /,
        *,
        who: str | None = None,
        info: dict[str, Any] | None = None,
        undo: bool = False,
        reading: bool = False,
        settle: bool = False,
    ) -> str | None:
        """Label an image, and return its previous label if it had one. A changed label moves to the end of the order.

        Args:
            image_id: id of the image.
            label: the class, or findings: text, or 1, 0 or None by name.
            who: the person, default None: unknown.
            info: further JSON-compatible information to keep.
            undo: whether this takes back a correction, default False: the label is again that of who gave it first.
            reading: whether it is one of several readings, default False: the previous label is then that person's.
            settle: whether it decides between readings, default False.

        Raises:
            ValueError: When there is no such class, or the information is not JSON or is too long.

        """
        label = self.words.spelled(label)
        check_info(info or {}, where="params")
        with self._lock:
            entry = self.info(image_id)
            previous: str | None = readings_of(entry).get(who) if reading else entry.get("label")
            what = "undo" if undo else "label" if previous in (None, label) else "correction"
            what = what if undo or not (reading or settle) else "reading" if reading else "settlement"
            self._spelled[label] = label
            marks: dict[str, Any] = {"reading": True} if reading and undo else {}
            marks |= {**({"answer": True} if label in self.answers else {}), **({"info": info} if info else {})}
            self._write(what, who, {"id": image_id, "label": label, **marks})
            return previous

    def put_all(self, labels: Mapping[str, str], *, info: dict[str, Any], who: str | None = None) -> None:
        """Label images that have no label, all or none of them.

        Args:
            labels: class by id of the image.
            info: further JSON-compatible information to keep with each.
            who: the person, default None: unknown.

        Raises:
            ValueError: When there is no such class.

        """
        events = []
        for key, label in labels.items():
            label = self.words.spelled(label)
            answer = {"answer": True} if label in self.answers else {}
            events.append(new_event("label", who, {"id": key, "label": label, **answer, "info": info}))
        with self._lock:
            self._spelled.update((event["label"], event["label"]) for event in events)
            self._sum.add(self._log.append(*events) if events else ())
            if events:
                self._write_file()

    def add_name(self, name: str, *, who: str | None = None) -> None:
        """Log that somebody adds a class or finding; labels may have it once ``words`` do.

        Args:
            name: the name, which comes last.
            who: the person, default None: unknown.

        """
        self.note(FINDINGS if self.findings else CLASSES, who=who, names=[*self.classes, name])

    def remove(self, image_id: str, *, who: str | None = None) -> None:
        """Withdraw a label; of an image with several readings what settled it, or else a person's own reading.

        Args:
            image_id: id of the image.
            who: the person, default None: unknown.

        Raises:
            ValueError: When the image has no label, or no reading of that person.

        """
        with self._lock:
            entry = self.info(image_id)
            reading = "readings" in entry and not entry.get("settled")
            if not entry or (reading and who not in readings_of(entry)):
                raise ValueError(f"id: expected an image with a label, got {image_id!r} without. Label it first.")
            self._write("undo", who, {"id": image_id, **({"reading": True} if reading else {})})

    def note(self, what: str, *, who: str | None = None, **details: Any) -> None:
        """Log what somebody did that changes no label.

        Args:
            what: such as "skip" or "training".
            who: the person, default None: unknown.
            details: JSON-compatible values.

        """
        with self._lock:
            self._write(what, who, details)

    def _write(self, what: str, who: str | None, details: dict[str, Any]) -> None:
        """Write a line; then it counts."""
        self._sum.add(self._log.append(new_event(what, who, details)))
        if what in OF_LABELS and max(_SHORT, self._log.size - self._written.end) >= self._written.size:
            self._write_file()

    def _write_file(self) -> None:
        """Write what the log adds up to, which is on the disk already."""
        content = self._sum.content()
        try:
            if not self.path.is_file() or self.path.read_bytes() != content:
                write_atomically(self.path, content)
        except OSError as error:
            logger.warning("%s Its log has all labels.", error)
        self._written = _Written(len(content), self._sum.end)


@dataclass
class _Written:
    """How the file was written last: its bytes, and the bytes of the log that it adds up."""

    size: int = 0
    end: int = 0


def _first_event(item: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the line for an entry of a file without a log."""
    key, entry = item
    info = {name: value for name, value in entry.items() if name not in OWN_KEYS}
    event = {"ts": entry.get("ts"), "who": entry.get("who"), "what": "label", "id": key, "label": entry["label"]}
    return {**event, **({"answer": True} if entry.get("answer") else {}), **({"info": info} if info else {})}


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


def class_of(content: bytes, classes: tuple[str, ...]) -> str | dict[str, Any]:
    """Return the class in a label's JSON, or what it says about findings.

    Args:
        content: the JSON, ``{"label": name}``, ``{"label": {finding: 1 or 0}}`` or ``{"idx": number}``.
        classes: class names in the order of their indices.

    Raises:
        ValueError: When the content is not such JSON, or the index is out of range.

    Example::

        >>> class_of(b'{"idx": 0}', ("Background", "Disc"))
        'Background'

    """
    hint = 'Pass a file with {"label": name}.'
    found = parse_json(content, where="label")
    if isinstance(found, dict) and isinstance(label := found.get("label"), str | dict):
        return label
    index = found.get("idx") if isinstance(found, dict) else None
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < len(classes):
        raise ValueError(
            f"label: expected a class name, or an index below {len(classes)}, got {str(found)[:80]}. {hint}"
        )
    return classes[index]
