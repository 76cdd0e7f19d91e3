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

"""Build a DICOM structured report about images: Comprehensive SR after TID 1500."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monai.config import PathLike
from monai.utils import ensure_tuple
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import UID, generate_uid
from pydicom.valuerep import DA, TM

from monai_weckd import __version__
from monai_weckd.data.dicom.codestream import open_dicom
from monai_weckd.data.dicom.errors import DicomReadError, named_errors
from monai_weckd.data.dicom.quiet import quiet_warnings
from monai_weckd.data.dicom.series import read_series
from monai_weckd.data.dicom.sr_series import ReportRun, series_numbers
from monai_weckd.utils.budget import budgeted

if TYPE_CHECKING:
    import highdicom

__all__ = [
    "LONGEST_CLASS",
    "MANUFACTURER",
    "PROBABILITY",
    "SCHEME",
    "Origin",
    "Source",
    "build_report",
    "check_study",
    "checked_classes",
    "first_name",
    "highdicom_package",
    "image_headers",
    "own_run",
    "private_code",
    "source_files",
    "source_images",
    "tracking",
]

Source = Sequence[PathLike] | PathLike

MANUFACTURER = "monai_weckd"
# a private coding scheme's name begins with 99; the digest of a meaning is its code
SCHEME = "99WECKD"
PROBABILITY = "Probability of "
LONGEST_CLASS = 64 - len(PROBABILITY)  # a code's meaning has at most 64 characters
_LONG_STRING = 64  # characters of an element such as SeriesDescription
_UTF8 = "ISO_IR 192"
# elements of an image's header that a report repeats, empty if absent; other elements may be damaged and are ignored
_PATIENT_AND_STUDY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
# dates and times, with the mark that DICOM (PS3.5, 6.2) has readers accept in them
_MARKED = {"PatientBirthDate": (DA, "."), "StudyDate": (DA, "."), "StudyTime": (TM, ":")}
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


class Origin(NamedTuple):
    """What a report says about where its content is from.

    Args:
        observation: who observed: an observation context of highdicom.
        description: the SeriesDescription.
        model: name of the device that made it.
        versions: its version, and those of its parts.
        verified: name and organization of the person who verified the report; default None: nobody has.

    """

    observation: Any
    description: str
    model: str
    versions: tuple[str, ...] = ()
    verified: tuple[str, str] | None = None


def build_report(
    groups: Sequence[Any],
    headers: Sequence[Dataset],
    *,
    origin: Origin,
    run: ReportRun,
    number: int,
) -> highdicom.sr.ComprehensiveSR:
    """Return a report, which belongs to the patient and study of its images.

    Args:
        groups: its measurement groups.
        headers: :py:func:`image_headers` of all images to which they refer, of one study.
        origin: where its content is from.
        run: the series of the run that it is part of.
        number: its InstanceNumber.

    """
    hd = highdicom_package()
    first = headers[0]
    series = run.series(str(first.StudyInstanceUID), str(first.PatientID).strip())
    content = hd.sr.MeasurementReport(
        observation_context=origin.observation,
        procedure_reported=codes.SCT.ImagingProcedure,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=groups,
    )
    person, organization = origin.verified or (None, None)
    return hd.sr.ComprehensiveSR(
        evidence=headers,
        content=content,
        series_instance_uid=series.uid,
        series_number=series.number,
        series_description=_long_string(origin.description),
        sop_instance_uid=generate_uid(prefix=None),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=_long_string(origin.model),
        software_versions=tuple(map(_long_string, (*origin.versions, f"monai_weckd {__version__}"))),
        is_complete=True,
        is_final=origin.verified is not None,
        is_verified=origin.verified is not None,
        verifying_observer_name=person,
        verifying_organization=organization,
        specific_character_set=_UTF8,
    )


def own_run(source: Source) -> ReportRun:
    """Return the run of a single report, whose series has another number than that of its image.

    Args:
        source: the image.

    """
    return ReportRun(series_numbers(source_files(source)))


def image_headers(source: Source) -> list[Dataset]:
    """Return the header elements that a report repeats, for each file of an image.

    Args:
        source: the image: a DICOM file, a folder with one series, or the files of a series.

    Raises:
        DicomReadError: When a file is not DICOM, or its header does not say to what study it belongs.

    """
    return list(map(_header, source_files(source)))


def first_name(source: Source) -> str:
    """Return the path of an image, or that of the first of its files.

    Args:
        source: the image.

    """
    return os.fspath(ensure_tuple(source)[0])


def check_study(headers: Sequence[Dataset]) -> None:
    """Refuse a report about images of several studies.

    Args:
        headers: the headers of the images.

    Raises:
        ValueError: When there is no image, or they are of several studies.

    """
    studies = {str(header.StudyInstanceUID) for header in headers}
    if len(studies) != 1:
        raise ValueError(f"images: expected those of one study, got {len(studies)} studies. Write a report for each.")


def source_files(source: Source) -> list[str]:
    """Return the files of an image; those of a DICOM series are in the order of its slices.

    Args:
        source: the image: a DICOM file, a folder with one series, or the files of a series.

    """
    names = [os.fspath(name) for name in ensure_tuple(source)]
    if len(names) == 1 and not Path(names[0]).is_file():
        return [name for name, _ in read_series(names)]
    return names


@budgeted
def _header(name: str) -> Dataset:
    with named_errors(name), open_dicom(name) as file:
        found, header = dcmread(file, stop_before_pixels=True), Dataset()
        for keyword in _UIDS:
            uid = UID(found.get(keyword) or "")
            if not uid.is_valid:
                raise DicomReadError(f"expected a valid {keyword}, to refer to the image, got none. Repair the header.")
            setattr(header, keyword, uid)
        for keyword in _PATIENT_AND_STUDY:
            setattr(header, keyword, _repeated(found, keyword))
    return header


def _repeated(found: Dataset, keyword: str) -> Any:
    """Return an element that a report repeats, a date or time without the marks that were usual before DICOM."""
    value = found.get(keyword) or ""
    if keyword not in _MARKED or not value:
        return value
    kind, mark = _MARKED[keyword]
    try:
        return str(kind(str(value).strip().replace(mark, "")))
    except ValueError:
        text = f"expected a valid {keyword}, to refer to the image, got another. Repair the header."
        raise DicomReadError(text) from None


def source_images(headers: Sequence[Dataset]) -> list[Any]:
    """Return references to the files of an image, for its measurement group.

    Args:
        headers: their headers.

    """
    hd = highdicom_package()
    return [hd.sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in headers]


def tracking() -> highdicom.sr.TrackingIdentifier:
    """Return the identifier of a measurement group."""
    return highdicom_package().sr.TrackingIdentifier(generate_uid(prefix=None), "Image classification")


def private_code(meaning: str) -> highdicom.sr.CodedConcept:
    """Return the private code of a name: one name has one code in all reports.

    Args:
        meaning: the name, at most 64 characters.

    """
    value = hashlib.sha256(meaning.encode()).hexdigest()[:16].upper()
    return highdicom_package().sr.CodedConcept(value, SCHEME, meaning)


def checked_classes(classes: Sequence[str]) -> list[str]:
    """Return class names that can be the meaning of a code.

    Args:
        classes: the names.

    Raises:
        ValueError: When a name cannot be, there is none, or two are the same.

    """
    if not classes:
        raise ValueError("classes: expected at least one class, got none. Name it.")
    for name in classes:
        if not 0 < len(name) <= LONGEST_CLASS or "\\" in name or not name.isprintable() or name != name.strip():
            raise ValueError(
                f"classes: expected names of 1 to {LONGEST_CLASS} characters without backslash, line break or space "
                f"around, got {name!r}. Rename it."
            )
    if len(set(classes)) < len(classes):
        raise ValueError(f"classes: expected different names, got {list(classes)}. Rename one.")
    return list(classes)


def _long_string(text: str) -> str:
    """Return a text as far as an element of at most 64 characters can hold it."""
    shown = "".join(letter if letter.isprintable() and letter != "\\" else " " for letter in text)
    return shown.strip()[:_LONG_STRING].strip()


def highdicom_package() -> Any:
    """Import highdicom, which is optional.

    Raises:
        ImportError: When it is not installed.

    """
    try:
        import highdicom
        import highdicom.sr
        import highdicom.valuerep
    except ImportError as error:
        raise ImportError(
            "highdicom: expected to be installed, got none. Run pip install 'monai-weckd[sr]' or pip install highdicom."
        ) from error
    quiet_warnings(highdicom.valuerep)  # which quotes names of patients
    return highdicom
