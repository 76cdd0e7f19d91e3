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

"""Send structured reports to a DICOMweb server, and record each outcome in a ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from pydicom import dcmread
from pydicom.dataset import Dataset

from monai_weckd.data.dicom.codestream import open_dicom
from monai_weckd.data.dicom.elements import read_header
from monai_weckd.data.dicom.errors import named_errors
from monai_weckd.data.dicom.header import claim_sequences
from monai_weckd.data.image_files import image_files
from monai_weckd.pacs.errors import DicomwebObjectError
from monai_weckd.pacs.journal import Journal
from monai_weckd.pacs.server import DicomwebServer, is_uid
from monai_weckd.utils.budget import budgeted, claim

__all__ = ["Sent", "list_reports", "send_reports"]


class Sent(NamedTuple):
    """A row of the ledger ``sent.csv``: the outcome of sending a report.

    Args:
        time: time of sending, in UTC.
        url: URL of the service.
        file: name of its file.
        instance: its SOP instance UID.
        digest: SHA-256 of the file.
        outcome: ``"stored"``, ``"there already"`` or ``"refused"``.
        reason: why it was refused.
    """

    time: str
    url: str
    file: str
    instance: str
    digest: str
    outcome: str
    reason: str


def list_reports(path: Path) -> dict[str, Path]:
    """Return the structured reports at a path by their UIDs, sorted by name.

    Args:
        path: a report, or a folder that is searched with its subfolders.

    Raises:
        FileNotFoundError: When there is nothing at the path.
        ValueError: When there is no report, a file is something else, or two have the same UID.

    """
    if not path.exists():
        raise FileNotFoundError(f"input: expected a file or folder, got nothing at {path}. Correct the path.")
    reports: dict[str, Path] = {}
    for file in map(Path, image_files(path)) if path.is_dir() else [path]:
        modality, study, uid = read_header(file, "Modality", "StudyInstanceUID", "SOPInstanceUID")
        if modality != "SR" or not is_uid(study) or not is_uid(uid):
            raise ValueError(f"{file}: expected a structured report with valid UIDs, got another. Leave it out.")
        if uid in reports:
            raise ValueError(f"{file}: expected a distinct UID, got that of {reports[uid]}. Remove one of the files.")
        reports[uid] = file
    if not reports:
        raise ValueError(f"input: expected structured reports below {path}, got none.")
    return reports


def send_reports(server: DicomwebServer, reports: dict[str, Path], ledger: Path) -> Iterator[Sent]:
    """Store reports that the server does not have, and yield each outcome after adding it to the ledger.

    Args:
        server: the server; a query for each report precedes the upload.
        reports: files by UID.
        ledger: CSV of the outcomes.

    Raises:
        DicomwebError: When the server cannot be reached, or denies access.

    """
    journal = Journal(ledger, Sent._fields)
    for uid, file in reports.items():
        dataset, digest = _read(file)
        try:
            outcome, reason = server.store(dataset), ""
        except DicomwebObjectError as fault:
            outcome, reason = "refused", str(fault)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        sent = Sent(now, server.url, file.name, uid, digest, outcome, reason)
        journal.add(sent._asdict())
        yield sent


@budgeted
def _read(file: Path) -> tuple[Dataset, str]:
    """Return a report and the digest of its file."""
    with named_errors(str(file)), open_dicom(file) as content:
        dataset = dcmread(content)
        claim_sequences(dataset)
        claim(file.stat().st_size)
    return dataset, hashlib.sha256(file.read_bytes()).hexdigest()
