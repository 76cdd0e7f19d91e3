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

"""The table ``index.csv`` of fetched series, with sizes and digests to detect damage."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from monai_weckd.data.dicom.patients import DicomKeys, completed_keys, pseudonyms, read_keys
from monai_weckd.pacs.journal import Journal
from monai_weckd.pacs.server import is_uid

__all__ = ["IndexedSeries", "SeriesIndex", "instance_files"]

_PIECE = 2**20


class IndexedSeries(NamedTuple):
    """The entry of a series in the index.

    Args:
        series: its UID, which is also the name of its folder.
        group: pseudonym of the patient.
        instances: number of its files.
        bytes: total size of its files.
        digest: SHA-256 of sorted lines ``<UID> <SHA-256 of the file>``, one for each file.
    """

    series: str
    group: str
    instances: int
    bytes: int
    digest: str


class SeriesIndex:
    """The table ``index.csv`` of the complete series in a folder: each subfolder that is named by a UID is a series.

    Opening the index adds series that are missing in the table, and removes those without a folder.

    Args:
        root: the folder.

    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._journal = Journal(root / "index.csv", IndexedSeries._fields)
        self._patients: dict[tuple[str, ...], str] | None = None
        folders = sorted(path.name for path in root.iterdir() if is_uid(path.name) and instance_files(path))
        kept = [row for row in self._journal.rows if row["series"] in folders]
        if len(kept) < len(self._journal.rows):
            self._journal.replace(kept)
        self.rows = {row["series"]: _typed(row) for row in kept}
        for name in folders:
            if name not in self.rows:
                self.add(self.describe(root / name))

    def describe(self, folder: Path) -> IndexedSeries:
        """Return the index entry of a series.

        Args:
            folder: folder of its files, which need not be in its final place yet.

        """
        files = instance_files(folder)
        lines = "".join(f"{path.stem} {_digest(path)}\n" for path in files)
        return IndexedSeries(
            folder.name,
            self._group(files[0]),
            len(files),
            sum(path.stat().st_size for path in files),
            hashlib.sha256(lines.encode("ascii")).hexdigest(),
        )

    def add(self, row: IndexedSeries) -> None:
        """Add a series.

        Args:
            row: result of :py:meth:`describe`.

        """
        self._journal.add(row._asdict())
        self.rows[row.series] = row

    def drop(self, series: str) -> None:
        """Remove a series.

        Args:
            series: its UID.

        """
        self.rows.pop(series, None)
        self._journal.replace(row._asdict() for row in self.rows.values())

    def join_patients(self) -> int:
        """Give series one group where all headers together tell that they are of one patient; return how many changed.

        These are series without the number of the patient, or without its issuer, beside others of the same study or
        number. They get the group of the first of them.
        """
        keys = {name: _keys(instance_files(self.root / name)[0]) for name in self.rows}
        groups: dict[tuple[str, ...], str] = {}
        changed = {}
        for name, found in completed_keys(keys).items():
            row = self.rows[name]
            group = groups.setdefault(found.unit or (name,), row.group)
            if row.group != group:
                changed[name] = row._replace(group=group)
        if changed:
            self.rows.update(changed)
            self._journal.replace(row._asdict() for row in self.rows.values())
        return len(changed)

    def is_whole(self, series: str, instances: Collection[str]) -> bool:
        """Return whether a series is complete and undamaged.

        Args:
            series: its UID.
            instances: UIDs of its instances.

        """
        names = {path.stem for path in instance_files(self.root / series)}
        return series in self.rows and names.issuperset(instances) and not self.is_damaged(series)

    def is_damaged(self, series: str) -> bool:
        """Return whether the number or the total size of a series' files has changed, or the series has no entry.

        Args:
            series: its UID.

        """
        row = self.rows.get(series)  # a folder without files is not a series and has no entry
        sizes = [path.stat().st_size for path in instance_files(self.root / series)]
        return row is None or (len(sizes), sum(sizes)) != (row.instances, row.bytes)

    def _group(self, file: Path) -> str:
        """Return the pseudonym of a file's patient, which stays the same here even if the key of pseudonyms changes."""
        if self._patients is None:
            self._patients = {}
            for row in self.rows.values():
                self._patients.setdefault(_keys(instance_files(self.root / row.series)[0]).unit, row.group)
        keys = _keys(file)
        return self._patients.setdefault(keys.unit, next(iter(pseudonyms(keys).values()), file.parent.name))


def instance_files(folder: Path) -> list[Path]:
    """Return the sorted files of a series; an empty list without a folder.

    Args:
        folder: folder of the series.

    """
    return sorted(folder.glob("*.dcm"))


def _typed(row: dict[str, str]) -> IndexedSeries:
    return IndexedSeries(row["series"], row["group"], int(row["instances"]), int(row["bytes"]), row["digest"])


def _keys(file: Path) -> DicomKeys:
    """Return the keys of a file; the number of the patient stays in memory and is never written."""
    return read_keys(file) or DicomKeys(("", ""), "", "")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
