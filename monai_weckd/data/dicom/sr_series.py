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

"""Give the structured reports of one run one series for each study, with a number that is free there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from pydicom.uid import generate_uid

from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.errors import DicomReadError

__all__ = ["ReportRun", "ReportSeries", "free_number", "series_number", "series_numbers"]

_FIRST = 9001  # scanners count from 1, and add some hundreds or thousands for what they derive
_LAST = 2**31 - 1  # the largest value of a SeriesNumber


class ReportSeries(NamedTuple):
    """A series of reports.

    Args:
        uid: its SeriesInstanceUID.
        number: its SeriesNumber.

    """

    uid: str
    number: int


class ReportRun:
    """The series of the reports of one run: one for each study.

    Args:
        taken: numbers of the series that a study is known to have, by its UID; default none.

    Example::

        >>> run = ReportRun({"1.2": {3, 9001}})
        >>> run.series("1.2", "4711").number, run.series("1.3", "4711").number
        (9002, 9001)
        >>> run.series("1.2", "4711") == run.series("1.2", "4711")
        True

    """

    def __init__(self, taken: Mapping[str, Iterable[int]] | None = None) -> None:
        self._taken = defaultdict(set, {study: set(numbers) for study, numbers in (taken or {}).items()})
        self._series: dict[tuple[str, str], ReportSeries] = {}

    def series(self, study: str, patient: str) -> ReportSeries:
        """Return the series for the reports of a study.

        Args:
            study: its StudyInstanceUID.
            patient: its PatientID: where files disagree about the patient of a study, they get no common series.

        """
        found = self._series.get((study, patient))
        if found is None:
            found = ReportSeries(generate_uid(prefix=None), free_number(self._taken[study]))
            self._keep(study, patient, found)
        return found

    def go_on(self, reports: Iterable[Path]) -> None:
        """Take over the series of reports that an interrupted run has written.

        Args:
            reports: their files.

        """
        for path in reports:
            patient, study, uid, number = read_header(
                path, "PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"
            )
            self._keep(study, patient, ReportSeries(uid, series_number(number) or free_number(self._taken[study])))

    def _keep(self, study: str, patient: str, series: ReportSeries) -> None:
        self._series[study, patient] = series
        self._taken[study].add(series.number)


def free_number(taken: Iterable[int]) -> int:
    """Return the first SeriesNumber from 9001 on that no series of a study has.

    Args:
        taken: the numbers of its series.

    """
    used = set(taken)
    return next(number for number in range(_FIRST, _LAST) if number not in used)


def series_number(text: str) -> int | None:
    """Return the SeriesNumber in a text; None where it is not a whole number.

    Args:
        text: such as the value of an element.

    """
    try:
        return int(text)
    except ValueError:
        return None


def series_numbers(files: Iterable[str]) -> dict[str, set[int]]:
    """Return the numbers of the series of each study, by its UID, as the headers of files say.

    Args:
        files: paths; what is not DICOM, or has a damaged header, is passed over.

    """
    found: dict[str, set[int]] = defaultdict(set)
    for file in files:
        try:
            study, text = read_header(Path(file), "StudyInstanceUID", "SeriesNumber")
        except DicomReadError:
            continue
        number = series_number(text)
        if number is not None:
            found[study].add(number)
    return dict(found)
