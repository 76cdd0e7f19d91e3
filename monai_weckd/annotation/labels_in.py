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

"""Take the labels of a manifest into a labeling session, at its start or while it runs."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from monai_weckd.annotation.label_words import agreed
from monai_weckd.annotation.session import AnnotationSession
from monai_weckd.data.dicom.patients import image_id
from monai_weckd.data.findings import read_findings
from monai_weckd.data.item_level import images_in
from monai_weckd.data.manifest import FileFinder, read_manifest
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.utils.enums import UNLABELED

__all__ = ["IncomingLabels", "read_incoming", "read_upload", "take_incoming", "take_labels"]


@dataclass(frozen=True)
class IncomingLabels:
    """The labels of a manifest, beside those of a session.

    Args:
        source: the manifest's name.
        new: label by id of each image without one.
        same: number of images that have this label.
        conflicts: id, label in the session and label in the manifest of each image that has another one, which stays.
        missing: one line for each file that is not in the folder.

    """

    source: str
    new: dict[str, str]
    same: int
    conflicts: tuple[tuple[str, str | None, str], ...]
    missing: tuple[str, ...]

    def summary(self, session: AnnotationSession) -> dict[str, Any]:
        """Return counts and what differs, as JSON-compatible data.

        Args:
            session: the session.

        """
        words = session.store.words
        counts = Counter(
            name
            for label in self.new.values()
            for name in ([label] if label in session.answers else words.outcomes(label))
        )
        names = ("id", "has", "manifest")
        return {
            "source": self.source,
            "new": len(self.new),
            "counts": {name: counts[name] for name in (*words.kind.outcomes, *session.answers) if counts[name]},
            "same": self.same,
            "conflicts": [dict(zip(names, one, strict=True)) for one in self.conflicts],
            "missing": list(self.missing),
        }


def take_labels(session: AnnotationSession, manifest: str | os.PathLike[str]) -> tuple[int, int]:
    """Label images as a manifest says; images that have a label keep it.

    Either all labels are taken or none. They carry the manifest's name as ``source``, and no person.

    Args:
        session: the session.
        manifest: CSV with the columns ``file``, a path in the folder of the images, and ``label``, or columns of
            findings (see :py:func:`monai_weckd.data.findings.read_findings`); rows without a label are passed over.

    Returns:
        How many labels were taken, and how many images had a label.

    Raises:
        ValueError: When the manifest is damaged, or names an unknown class or image, or an image twice.

    """
    found = read_incoming(session, manifest)
    if found.missing:
        raise ValueError(found.missing[0])
    take_incoming(session, found)
    return len(found.new), found.same + len(found.conflicts)


def take_incoming(session: AnnotationSession, found: IncomingLabels, *, who: str | None = None) -> None:
    """Label the images that have no label, all or none of them.

    Args:
        session: the session.
        found: the labels.
        who: the person who brings them, default None: unknown.

    """
    session.put_labels(found.new, who=who, info={"source": found.source})


def read_upload(session: AnnotationSession, name: str, content: bytes) -> IncomingLabels:
    """Return the labels of a manifest that somebody has sent.

    Args:
        session: the session.
        name: its name.
        content: the CSV.

    Raises:
        ValueError: As :py:func:`read_incoming`; the message names the manifest alone.

    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, Path(name).name or "manifest.csv")
        path.write_bytes(content)
        try:
            found = read_incoming(session, path)
        except ValueError as error:
            raise ValueError(str(error).replace(f"{folder}{os.sep}", "")) from None
    return replace(found, missing=tuple(line.replace(f"{folder}{os.sep}", "") for line in found.missing))


def read_incoming(session: AnnotationSession, manifest: str | os.PathLike[str]) -> IncomingLabels:
    """Return the labels of a manifest, without taking them.

    Args:
        session: the session.
        manifest: see :py:func:`take_labels`.

    Raises:
        ValueError: When the manifest is damaged, or names an unknown class, or an image twice with different labels.

    """
    finder, labels, missing = FileFinder(str(session.studies)), dict[str, str](), []
    root = session.studies.absolute()
    # an image stands for its item, and so does the item's own name
    item_of = {image_id(path, root): key for key, item in session.items.items() for path in images_in(item)}
    findings = () if session.level == "image" else session.store.findings
    for place, file, label in _rows(session, os.fspath(manifest)):
        key = item_of.get(finder.find(file), file)
        if key not in session.items:
            missing.append(
                f"{place}: expected an image in {session.studies.name!r}, got {file!r}.{finder.near(file)} "
                "Correct the manifest."
            )
            continue
        try:
            label = session.store.words.spelled(label)
        except ValueError as error:
            raise ValueError(f"{place}: {str(error).removeprefix('label: ')}") from None
        both = agreed([labels.get(key, label), label], findings)
        if both is None:
            raise ValueError(f"{place}: expected one label for {key!r}, got {label!r} and {labels[key]!r}.")
        labels[key] = both
    entries = session.store.entries
    known = {key: entries[key]["label"] for key in labels if key in entries}
    differ = tuple((key, has, labels[key]) for key, has in known.items() if has != labels[key])
    new = {key: label for key, label in labels.items() if key not in entries}
    return IncomingLabels(Path(manifest).name, new, len(known) - len(differ), differ, tuple(missing))


def _rows(session: AnnotationSession, manifest: str) -> Iterator[tuple[str, str, Any]]:
    """Yield place, file and label of each row that has a label."""
    findings = session.store.findings
    rows = read_manifest(manifest, PassedOver(), classes=session.classes, labels=not findings)
    if not findings:
        yield from ((row.place, row.file, row.label) for row in rows if row.label)
        return
    names, values = read_findings(manifest, PassedOver())
    for row, told in zip(rows, values, strict=True):
        known = {name: int(value) for name, value in zip(names, told, strict=True) if value != UNLABELED}
        if known:
            yield row.place, row.file, known
