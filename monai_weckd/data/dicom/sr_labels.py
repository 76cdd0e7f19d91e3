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

"""Write labels that people gave as DICOM structured reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from monai_weckd.data.dicom.errors import named_errors
from monai_weckd.data.dicom.sr_document import (
    Origin,
    Source,
    build_report,
    check_study,
    checked_classes,
    first_name,
    highdicom_package,
    image_headers,
    own_run,
    private_code,
    source_images,
    tracking,
)
from monai_weckd.data.dicom.sr_series import ReportRun

if TYPE_CHECKING:
    import highdicom

__all__ = ["LabelSRWriter", "check_verified"]

Label: TypeAlias = str | Mapping[str, int]

_PROGRAM = "monai_weckd label"
_LONGEST = 64  # characters of a name, and of an organization


class LabelSRWriter:
    """Write the labels that a person gave to images as a DICOM structured report: Comprehensive SR after TID 1500.

    It has a measurement group for each image. Its finding and qualitative evaluation "Labeled class" is the class;
    where the image has findings, each that is known has an evaluation of its own: present or absent.
    Its observer is the person. It is preliminary and unverified, unless somebody verifies it. Needs ``highdicom``.

    Args:
        person: name of the person, default "": unknown; then the program is the observer.
        verified: name, as ``Family^Given``, and organization of the person who verifies the report; default None:
            nobody does.

    Raises:
        ImportError: When highdicom is not installed.
        ValueError: When DICOM cannot hold name or organization.

    """

    def __init__(self, person: str = "", *, verified: tuple[str, str] | None = None) -> None:
        highdicom_package()
        if verified is not None:
            check_verified(*verified)
        self.person, self.verified = person, verified

    def build(
        self, images: Sequence[tuple[Label, Source]], *, run: ReportRun | None = None, number: int = 1
    ) -> Dataset:
        """Return the report of images of one study.

        Args:
            images: the class of each, or whether each known finding is present, by its name; and the image: a DICOM
                file, a folder with one series, or the files of a series.
            run: the series of the run that the report is part of, default None: it gets a series of its own.
            number: its InstanceNumber, default 1.

        Raises:
            ValueError: When a class name cannot be the meaning of a DICOM code, or images are of several studies.
            DicomReadError: When an image is not DICOM, or its header does not say to what study it belongs.

        """
        for label, _ in images:
            checked_classes([label] if isinstance(label, str) else list(label))
        rows = [(label, image_headers(source)) for label, source in images]
        headers = [header for _, own in rows for header in own]
        check_study(headers)
        first = images[0][1]
        run = own_run(first) if run is None else run
        with named_errors(first_name(first)):
            groups = [_group(label, own) for label, own in rows]
            return build_report(groups, headers, origin=self._origin(), run=run, number=number)

    def _origin(self) -> Origin:
        hd = highdicom_package()
        observer: dict[str, Any]
        if self.person:
            person = hd.sr.PersonObserverIdentifyingAttributes(_person_name(self.person))
            observer = {"observer_person_context": hd.sr.ObserverContext(codes.DCM.Person, person)}
        else:
            device = hd.sr.DeviceObserverIdentifyingAttributes(uid=generate_uid(entropy_srcs=[_PROGRAM]), name=_PROGRAM)
            observer = {"observer_device_context": hd.sr.ObserverContext(codes.DCM.Device, device)}
        return Origin(
            hd.sr.ObservationContext(**observer),
            description="Labels by people",
            model=_PROGRAM,
            verified=self.verified,
        )


def check_verified(person: str, organization: str) -> None:
    """Refuse what DICOM cannot hold as the name and organization of the person who verifies a report.

    Args:
        person: the name, ``Family^Given``.
        organization: the organization.

    Raises:
        ValueError: When it cannot.

    """
    if "^" not in person or not _is_plain(person) or "=" in person:
        raise ValueError(
            f"verified_by: expected Family^Given of at most {_LONGEST} characters without backslash, got {person!r}. "
            "Correct it."
        )
    if not _is_plain(organization):
        raise ValueError(
            f"organization: expected 1 to {_LONGEST} characters without backslash, got {organization!r}. "
            "Name that of the person who verifies."
        )


def _is_plain(text: str) -> bool:
    return 0 < len(text.strip()) <= len(text) <= _LONGEST and text.isprintable() and "\\" not in text


def _person_name(text: str) -> str:
    """Return a name of any form as far as an element for names can hold it."""
    shown = "".join(letter if letter.isprintable() and letter not in "\\=" else " " for letter in text)
    return shown.strip()[:_LONGEST]


def _group(label: Label, headers: Sequence[Dataset]) -> highdicom.sr.MeasurementsAndQualitativeEvaluations:
    """Return the measurement group about an image."""
    hd = highdicom_package()
    if isinstance(label, str):
        told = {private_code("Labeled class"): private_code(label)}
    else:
        values = codes.cid240.Absent, codes.cid240.Present
        told = {private_code(name): values[present] for name, present in label.items()}
    return hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking(),
        finding_type=private_code(label) if isinstance(label, str) else None,
        qualitative_evaluations=[hd.sr.QualitativeEvaluation(*pair) for pair in told.items()],
        source_images=source_images(headers),
    )
