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

"""What the lines of a log of labels add up to."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from monai_weckd.annotation.label_log import Line
from monai_weckd.annotation.readings import with_reading, without_reading

__all__ = ["CLASSES", "FINDINGS", "ITEMS", "OF_LABELS", "OWN_KEYS", "LabelSum"]

OWN_KEYS = ("label", "who", "ts", "answer", "readings", "settled")  # keys of an entry that no information can take
FINDINGS = "findings"  # a line that names them, before the first label and whenever one is added
CLASSES = "classes"  # a line that names all of them, whenever one is added
ITEMS = "items"  # a line with their level, before the first label, unless an item is an image
OF_LABELS = ("label", "correction", "undo", "reading", "settlement")


@dataclass
class LabelSum:
    """What the lines of a log add up to.

    Args:
        entries: label, person, time and further information of each image, in the order of the labels.
        earlier: the entries that corrections have replaced, of each image, the last one last.
        end: bytes of the log up to the last line that is about a label.
        findings: names of the findings; empty where an image has one class.
        item_level: what has a label, "image" or a level of :py:func:`monai_weckd.data.group_images`.
        spatial_dims: of the images of such a level, 2 or 3; in 3D, a folder with DICOM files is one.
        classes: names of the classes once somebody has added one, else empty.

    """

    entries: dict[str, dict[str, Any]] = field(default_factory=dict)
    earlier: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    end: int = 0
    findings: tuple[str, ...] = ()
    item_level: str = "image"
    spatial_dims: int = 2
    classes: tuple[str, ...] = ()

    def add(self, lines: Iterable[Line]) -> None:
        """Add lines.

        Args:
            lines: of the log, in their order.

        """
        for event, end in lines:
            if event["what"] in OF_LABELS and "id" in event:
                self._apply(event)
                self.end = end
            elif event["what"] in (FINDINGS, CLASSES):
                setattr(self, event["what"], tuple(event["names"]))
                self.end = end
            elif event["what"] == ITEMS:
                self.item_level, self.spatial_dims, self.end = event["level"], event["spatial_dims"], end

    def _apply(self, event: dict[str, Any]) -> None:
        if event["what"] == "reading" or event.get("reading"):
            self._read(event)
        elif "readings" in self.entries.get(event["id"], {}):
            self._settle(event)
        else:
            self._label(event)

    def _read(self, event: dict[str, Any]) -> None:
        """Add, change or withdraw what one of several readers says."""
        key, who = event["id"], event.get("who")
        entry = self.entries.pop(key, {})
        if entry and "readings" not in entry:  # labeled before images were read twice
            entry = with_reading({}, entry, findings=self.findings)
        if "label" in event:
            entry = with_reading(entry, _entry(event), findings=self.findings)
        else:
            entry = without_reading(entry, who, findings=self.findings)
        if entry:
            self.entries[key] = entry

    def _settle(self, event: dict[str, Any]) -> None:
        """Decide between several readers, or no longer."""
        entry = self.entries.pop(event["id"])
        readings = {"readings": entry["readings"]}
        if "label" in event:
            self.entries[event["id"]] = {**_entry(event), "settled": True, **readings}
        else:
            self.entries[event["id"]] = with_reading(readings, readings["readings"][-1], findings=self.findings)

    def _label(self, event: dict[str, Any]) -> None:
        key, label = event["id"], event.get("label")
        before = self.entries.get(key)
        same = before is not None and before["label"] == label
        entry = _entry(event)
        if event["what"] == "undo":
            replaced = self.earlier.get(key, [])
            while replaced and label is not None:
                if (last := replaced.pop())["label"] == label:
                    entry = last
                    break
        elif before is not None and not same:
            self.earlier.setdefault(key, []).append(before)
        if not same:  # a changed label moves to the end of the order
            self.entries.pop(key, None)
        if label is not None:
            self.entries[key] = entry

    def content(self) -> bytes:
        """Return what belongs into ``labels.json``."""
        named: dict[str, Any] = {name: names for name in (FINDINGS, CLASSES) if (names := getattr(self, name))}
        if self.item_level != "image":
            named |= {"item_level": self.item_level, "spatial_dims": self.spatial_dims}
        content = {"format": 2, "log": self.end, **named, "labels": self.entries}
        return f"{json.dumps(content, indent=1)}\n".encode()


def _entry(event: dict[str, Any]) -> dict[str, Any]:
    """Return the entry that a line gives an image."""
    info = {name: value for name, value in event.get("info", {}).items() if name not in OWN_KEYS}
    entry = {**info, "label": event.get("label"), "who": event.get("who"), "ts": event.get("ts")}
    return {**entry, **({"answer": True} if event.get("answer") else {})}
