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

"""Give series of reports numbers that are free on a server, before they are sent."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydicom import dcmread

from monai_weckd.data.dicom.codestream import open_dicom
from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.errors import named_errors
from monai_weckd.data.dicom.header import claim_sequences
from monai_weckd.data.dicom.sr_document import MANUFACTURER
from monai_weckd.data.dicom.sr_series import free_number, series_number
from monai_weckd.pacs.server import DicomwebServer
from monai_weckd.utils.budget import budgeted
from monai_weckd.utils.files import write_atomically

__all__ = ["renumber_series"]


def renumber_series(server: DicomwebServer, reports: Iterable[Path]) -> int:
    """Change the SeriesNumber of reports that another series of their study has on a server; return of how many series.

    A series that the server has in part keeps the number that it has there. Reports that this package has not written
    are left alone.

    Args:
        server: the server.
        reports: their files, which are written anew where their number changes.

    Raises:
        DicomwebError: When the server cannot be reached, or denies access.

    """
    studies: dict[str, dict[str, list[tuple[Path, int | None]]]] = defaultdict(lambda: defaultdict(list))
    for file in reports:
        maker, study, uid, text = read_header(
            file, "Manufacturer", "StudyInstanceUID", "SeriesInstanceUID", "SeriesNumber"
        )
        if maker == MANUFACTURER:
            studies[study][uid].append((file, series_number(text)))
    changed = 0
    for study, series in studies.items():
        known = server.series_numbers(study)
        for uid, files in series.items():
            number = known[uid] = _number(known, uid, [number for _, number in files])
            others = [file for file, own in files if own != number]
            for file in others:
                _renumber(file, number)
            changed += bool(others)
    return changed


def _number(known: dict[str, int], uid: str, own: Sequence[int | None]) -> int:
    """Return the number of a series: the one that it has on the server, else its own if that is free."""
    if uid in known:
        return known[uid]
    taken = set(known.values())
    # after an interruption, reports of a series may have the old number and the new one
    free = [number for number in own if number is not None and number not in taken]
    return free[0] if free else free_number(taken)


@budgeted
def _renumber(file: Path, number: int) -> None:
    content = io.BytesIO()
    with named_errors(str(file)):
        with open_dicom(file) as stream:
            dataset = dcmread(stream)
            claim_sequences(dataset)
        dataset.SeriesNumber = number
        dataset.save_as(content, enforce_file_format=True)
    write_atomically(file, content.getvalue())
