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

"""Write structured reports into a folder: one for each image, or one for each study."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydicom.dataset import Dataset

from monai_weckd.data.dicom.errors import DicomReadError, named_errors
from monai_weckd.data.dicom.sr_document import Source, first_name
from monai_weckd.data.dicom.sr_series import ReportRun
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.messages import nearest

__all__ = ["PER", "DocumentFolder", "ReportWriter", "check_per"]

PER = ("image", "study")


class ReportWriter(Protocol):
    """Build the report of images of one study, from what is to be said about each."""

    def build(self, images: Sequence[tuple[Any, Source]], *, run: ReportRun | None = None, number: int = 1) -> Dataset:
        """Return the report.

        Args:
            images: what is to be said about each, and the image.
            run: the series of the run that the report is part of.
            number: its InstanceNumber.

        """


class DocumentFolder:
    """Reports of one run, one for each image or for each study, in one series for each study.

    Args:
        folder: an empty folder, or one to create.
        per: "image" or "study".
        taken: numbers of the series that each study is known to have, by its UID; default none.
        resume: go on from the reports that are there, default False.

    Raises:
        FileExistsError: When the folder is not empty.

    """

    def __init__(
        self,
        folder: Path,
        *,
        per: str = "image",
        taken: Mapping[str, Iterable[int]] | None = None,
        resume: bool = False,
    ) -> None:
        check_per(per)
        if not resume and folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"write_sr: expected an empty folder, got {folder} with files. Pass another one.")
        self.folder, self.per = folder, per
        self.run = ReportRun(taken)
        self.run.go_on(sorted(folder.glob("*.dcm")))
        self._waiting: dict[tuple[ReportWriter, str, str], list[tuple[int, Any, Source]]] = defaultdict(list)
        self._referred: dict[tuple[ReportWriter, str, str], set[str]] = defaultdict(set)

    @property
    def count(self) -> int:
        """Number of reports in the folder."""
        return len(list(self.folder.glob("*.dcm")))

    def add(self, writer: ReportWriter, content: Any, *, source: Source, number: int) -> str:
        """Write the report of an image, or let it wait for the others of its study; return why it cannot be written.

        Args:
            writer: builds the report. Images of a study have one report for each writer.
            content: what it says about the image.
            source: the image.
            number: a number of the image, from 1; the first one of a report names its file, and is its InstanceNumber.

        """
        try:
            report = writer.build([(content, source)], run=self.run, number=number)
            if self.per == "image":
                self._save(report, number)
                return ""
            key = (writer, str(report.StudyInstanceUID), str(report.PatientID))
            self._refer(key, _instances(report), source)
            self._waiting[key].append((number, content, source))
        except DicomReadError as error:
            return f"no report: {error}"
        return ""

    def finish(self) -> list[str]:
        """Write the reports of studies, and return why some cannot be written."""
        faults = []
        while self._waiting:
            (writer, *_), images = self._waiting.popitem()
            first = images[0][0]
            try:
                rows = [(content, source) for _, content, source in images]
                self._save(writer.build(rows, run=self.run, number=first), first)
            except DicomReadError as error:
                faults.append(f"no report: {error}")
        return faults

    def _refer(self, key: tuple[ReportWriter, str, str], instances: set[str], source: Source) -> None:
        """Refuse an image that the report of its study refers to already, since it could say two things about it."""
        if not self._referred[key].isdisjoint(instances):
            raise DicomReadError(
                f"{first_name(source)}: expected an image with a SOPInstanceUID of its own, got that of another image "
                "of the study. Leave one of them out."
            )
        self._referred[key] |= instances

    def _save(self, report: Dataset, number: int) -> None:
        content = io.BytesIO()
        with named_errors(f"{number:06}.dcm"):
            report.save_as(content, enforce_file_format=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_atomically(self.folder / f"{number:06}.dcm", content.getvalue())


def _instances(report: Dataset) -> set[str]:
    """Return the UIDs of the images to which a report refers."""
    series = (
        one for study in report.CurrentRequestedProcedureEvidenceSequence for one in study.ReferencedSeriesSequence
    )
    return {str(image.ReferencedSOPInstanceUID) for one in series for image in one.ReferencedSOPSequence}


def check_per(per: str) -> None:
    """Refuse what is neither an image nor a study.

    Args:
        per: the value of an option ``sr_per``.

    Raises:
        ValueError: When it is another.

    """
    if per not in PER:
        raise ValueError(f"sr_per: expected one of {PER}, got {per!r}. {nearest(per, PER)}")
