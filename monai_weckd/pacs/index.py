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

from monai_weckd.pacs.header import read_header
from monai_weckd.pacs.journal import Journal
from monai_weckd.pacs.server import is_uid

__all__ = ["IndexedSeries", "SeriesIndex", "instance_files"]

_PIECE = 2**20


class IndexedSeries(NamedTuple):
    """What the index says of a series.

    Args:
        series: its UID, and the name of its folder.
        group: the patient, as the UID of the first series that came of him or her.
        instances: number of its files.
        bytes: their size together.
        digest: SHA-256 of a line ``<UID> <SHA-256 of the file>`` for each, sorted.
    """

    series: str
    group: str
    instances: int
    bytes: int
    digest: str


class SeriesIndex:
    """The table ``index.csv`` of the whole series in a folder, one for each sub-folder that is named by a UID.

    Series that are missing in the table are entered, those that have no folder are taken out.

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
        """Return what the index will say of a series.

        Args:
            folder: its files, not yet where they are going to be.

        """
        files = instance_files(folder)
        lines = "".join(f"{path.stem} {_digest(path)}\n" for path in files)
        return IndexedSeries(
            folder.name,
            self._group(files[0], folder.name),
            len(files),
            sum(path.stat().st_size for path in files),
            hashlib.sha256(lines.encode("ascii")).hexdigest(),
        )

    def add(self, row: IndexedSeries) -> None:
        """Enter a series.

        Args:
            row: what :py:meth:`describe` returned.

        """
        self._journal.add(row._asdict())
        self.rows[row.series] = row

    def drop(self, series: str) -> None:
        """Take a series out.

        Args:
            series: its UID.

        """
        self.rows.pop(series, None)
        self._journal.replace(row._asdict() for row in self.rows.values())

    def is_whole(self, series: str, instances: Collection[str]) -> bool:
        """Return whether all instances of a series are there, undamaged.

        Args:
            series: its UID.
            instances: UIDs of its instances.

        """
        names = {path.stem for path in instance_files(self.root / series)}
        return series in self.rows and names.issuperset(instances) and not self.is_damaged(series)

    def is_damaged(self, series: str) -> bool:
        """Return whether the files of a series have another size than they had, or another number, or are all gone.

        Args:
            series: its UID.

        """
        row = self.rows.get(series)  # none of a folder without a file, which is no series
        sizes = [path.stat().st_size for path in instance_files(self.root / series)]
        return row is None or (len(sizes), sum(sizes)) != (row.instances, row.bytes)

    def _group(self, file: Path, series: str) -> str:
        """Return the patient of a file, by the first of the series that have the same."""
        if self._patients is None:
            self._patients = {}
            for row in self.rows.values():
                self._patients.setdefault(_patient(instance_files(self.root / row.series)[0]), row.group)
        return self._patients.setdefault(_patient(file), series)


def instance_files(folder: Path) -> list[Path]:
    """Return the files of a series, sorted; none where there is no folder.

    Args:
        folder: its folder.

    """
    return sorted(folder.glob("*.dcm"))


def _typed(row: dict[str, str]) -> IndexedSeries:
    return IndexedSeries(row["series"], row["group"], int(row["instances"]), int(row["bytes"]), row["digest"])


def _patient(file: Path) -> tuple[str, ...]:
    """Return who the patient is, for comparison only: it is kept in memory."""
    patient, issuer, study = read_header(file, "PatientID", "IssuerOfPatientID", "StudyInstanceUID")
    return (patient, issuer) if patient else ("", "", study)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()
