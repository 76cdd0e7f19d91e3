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

"""Write and read classification results as DICOM structured reports."""

from __future__ import annotations

import hashlib
import io
import json
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

from monai_weckd.data.dicom.codestream import open_dicom
from monai_weckd.data.dicom.errors import DicomReadError, named_errors
from monai_weckd.data.dicom.header import claim_sequences
from monai_weckd.data.dicom.quiet import quiet_warnings
from monai_weckd.data.dicom.series import read_series
from monai_weckd.utils.budget import budgeted

if TYPE_CHECKING:
    import highdicom

__all__ = ["ClassificationReport", "ClassificationSRWriter", "read_classification_sr"]

# a private coding scheme's name begins with 99; the digest of a meaning is its code
_SCHEME = "99WECKD"
_PROBABILITY = "Probability of "
_LONGEST = 64 - len(_PROBABILITY)  # a code's meaning has at most 64 characters
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
_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID", "SOPInstanceUID")


class ClassificationReport(NamedTuple):
    """The content of a structured report about an image.

    Args:
        predicted: the class.
        probabilities: probability of each class, by its name, in the order of their indices.
        model: name of the model.
        version: its version.
        bundle: name of its bundle.
        images: SOP instance UIDs of the images that were classified.
        verified: whether a person has verified the report.

    """

    predicted: str
    probabilities: dict[str, float]
    model: str
    version: str
    bundle: str
    images: tuple[str, ...]
    verified: bool


class ClassificationSRWriter:
    """Write the class of an image as a DICOM structured report: Comprehensive SR after TID 1500. Needs ``highdicom``.

    The report belongs to the patient and study of the image and refers to it. It is preliminary and unverified: no
    person has looked at it. Its one measurement group has the class as finding and as qualitative evaluation, the
    probability of each class as a measurement, and name, version, bundle and classes of the model as its algorithm.

    Args:
        classes: class names in the order of their indices.
        model: name of the model.
        version: version of the model.
        bundle: name of the bundle that it is from.

    Raises:
        ImportError: When highdicom is not installed.
        ValueError: When a name is empty, or a class name cannot be the meaning of a DICOM code.

    Example::

        >>> from monai_weckd.data import ClassificationSRWriter
        >>> writer = ClassificationSRWriter(["ill", "well"], model="Otoscopy", version="1", bundle="otoscopy")
        >>> writer.write("report.dcm", [0.2, 0.8], source="image.dcm")  # doctest: +SKIP

    """

    def __init__(self, classes: Sequence[str], *, model: str, version: str, bundle: str) -> None:
        _highdicom()
        self.classes = [_checked_class(name) for name in classes]
        self.model, self.version, self.bundle = model, version, bundle
        for name, value in (("classes", classes), ("model", model), ("version", version), ("bundle", bundle)):
            if not value:
                raise ValueError(f"{name}: expected at least one character or class, got none. Name it.")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes: expected different names, got {self.classes}. Rename one.")

    def write(self, path: PathLike, probabilities: Sequence[float], *, source: Sequence[PathLike] | PathLike) -> None:
        """Write the report of one image.

        Args:
            path: the file to write.
            probabilities: one for each class.
            source: the image: a DICOM file, a folder with one series, or the files of a series.

        Raises:
            ValueError: When these are not as many finite probabilities as classes.
            DicomReadError: When the image is not DICOM, or its header does not say to what study it belongs.

        """
        values = [float(value) for value in probabilities]
        if len(values) != len(self.classes) or not all(0 <= value <= 1 for value in values):
            raise ValueError(f"probabilities: expected {len(self.classes)} from 0 to 1, got {values}. Apply a softmax.")
        headers = _headers(source)
        with named_errors(os.fspath(ensure_tuple(source)[0])):
            content = io.BytesIO()  # an error here is in the header of the image, not in ``path``
            self._report(values, headers).save_as(content, enforce_file_format=True)
        Path(path).write_bytes(content.getvalue())

    def _report(self, values: Sequence[float], headers: Sequence[Dataset]) -> highdicom.sr.ComprehensiveSR:
        return _highdicom().sr.ComprehensiveSR(
            evidence=headers,
            content=self._content(values, headers),
            series_instance_uid=generate_uid(prefix=None),
            series_number=1,
            sop_instance_uid=generate_uid(prefix=None),
            instance_number=1,
            manufacturer="monai_weckd",
            is_complete=True,
            is_verified=False,
            specific_character_set=_UTF8,
        )

    def _content(self, values: Sequence[float], headers: Sequence[Dataset]) -> highdicom.sr.MeasurementReport:
        """Return the tree of the report."""
        hd = _highdicom()
        device = hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[self.model, self.version, self.bundle]), name=self.model
        )
        return hd.sr.MeasurementReport(
            observation_context=hd.sr.ObservationContext(
                observer_device_context=hd.sr.ObserverContext(codes.DCM.Device, device)
            ),
            procedure_reported=codes.SCT.ImagingProcedure,
            title=codes.DCM.ImagingMeasurementReport,
            imaging_measurements=[self._group(values, headers)],
        )

    def _group(
        self, values: Sequence[float], headers: Sequence[Dataset]
    ) -> highdicom.sr.MeasurementsAndQualitativeEvaluations:
        """Return the measurement group about the image."""
        hd = _highdicom()
        predicted = _code(self.classes[values.index(max(values))])
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=hd.sr.TrackingIdentifier(generate_uid(prefix=None), "Image classification"),
            # not an evaluation named "Finding", which highdicom would not return on reading
            finding_type=predicted,
            algorithm_id=hd.sr.AlgorithmIdentification(
                self.model,
                self.version,
                parameters=[
                    f"bundle: {self.bundle}",
                    f"classes: {json.dumps(self.classes, ensure_ascii=False)}",
                ],
            ),
            measurements=[
                hd.sr.Measurement(_code(_PROBABILITY + name), value, codes.UCUM.NoUnits)
                for name, value in zip(self.classes, values, strict=True)
            ],
            qualitative_evaluations=[hd.sr.QualitativeEvaluation(_code("Predicted class"), predicted)],
            source_images=[
                hd.sr.SourceImageForMeasurementGroup(header.SOPClassUID, header.SOPInstanceUID) for header in headers
            ],
        )


@budgeted
def read_classification_sr(path: PathLike) -> ClassificationReport:
    """Read a report of :py:class:`ClassificationSRWriter`. Needs ``highdicom``.

    Args:
        path: the file.

    Raises:
        ImportError: When highdicom is not installed.
        DicomReadError: When it is not such a report.

    """
    hd = _highdicom()
    with named_errors(os.fspath(path)), open_dicom(path) as file:
        dataset = dcmread(file)
        claim_sequences(dataset)
        if dataset.get("Modality") != "SR":
            raise DicomReadError("expected a structured report, got another object. Leave it out.")
        report = hd.sr.ComprehensiveSR.from_dataset(dataset, copy=False)
        found = [group for group in report.content.get_image_measurement_groups() if _is_ours(group)]
        if len(found) != 1:
            raise DicomReadError(f"expected the classification of one image, got {len(found)}. Read it with highdicom.")
        return _read(found[0], verified=report.VerificationFlag == "VERIFIED")


def _read(group: Any, *, verified: bool) -> ClassificationReport:
    texts: dict[str, list[str]] = {}
    for item in group[0].ContentSequence:
        if item.ValueType == "TEXT":
            texts.setdefault(item.name.value, []).append(item.value)
    parameters = dict(text.split(": ", 1) for text in texts[codes.DCM.AlgorithmParameters.value])
    values = {item.name.meaning.removeprefix(_PROBABILITY): item.value for item in group.get_measurements()}
    return ClassificationReport(
        predicted=group.finding_type.meaning,
        probabilities={name: float(values[name]) for name in json.loads(parameters["classes"])},
        model=texts[codes.DCM.AlgorithmName.value][0],
        version=texts[codes.DCM.AlgorithmVersion.value][0],
        bundle=parameters["bundle"],
        images=tuple(str(image.referenced_sop_instance_uid) for image in group.source_images),
        verified=verified,
    )


def _is_ours(group: Any) -> bool:
    return group.finding_type is not None and group.finding_type.scheme_designator == _SCHEME


def _headers(source: Sequence[PathLike] | PathLike) -> list[Dataset]:
    """Return the header elements that a report repeats, for each file of an image."""
    names = [os.fspath(name) for name in ensure_tuple(source)]
    if len(names) == 1 and Path(names[0]).is_dir():
        names = [name for name, _ in read_series(names)]
    return list(map(_header, names))


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
            setattr(header, keyword, found.get(keyword) or "")
    return header


def _code(meaning: str) -> highdicom.sr.CodedConcept:
    value = hashlib.sha256(meaning.encode()).hexdigest()[:16].upper()
    return _highdicom().sr.CodedConcept(value, _SCHEME, meaning)


def _checked_class(name: str) -> str:
    if not 0 < len(name) <= _LONGEST or "\\" in name or not name.isprintable() or name != name.strip():
        raise ValueError(
            f"classes: expected names of 1 to {_LONGEST} characters without backslash, line break or space around, "
            f"got {name!r}. Rename it."
        )
    return name


def _highdicom() -> Any:
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
