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

"""Write what a model says about images as DICOM structured reports."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from monai.config import PathLike
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from monai_weckd.data.dicom.errors import named_errors
from monai_weckd.data.dicom.sr_document import (
    PROBABILITY,
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
from monai_weckd.metrics.findings import finding_answers

if TYPE_CHECKING:
    import highdicom

__all__ = ["ClassificationSRWriter"]


class ClassificationSRWriter:
    """Write classes or findings of images as a DICOM structured report: Comprehensive SR after TID 1500.

    The report belongs to the patient and study of its images and refers to them. It is preliminary and unverified: no
    person has looked at it. It has a measurement group for each image, with the probability of each class as a
    measurement, and name, version, bundle and classes of the model as its algorithm. Where an image has one class, that
    is the finding and a qualitative evaluation; where it has findings, each with a threshold has a qualitative
    evaluation, present or absent. Needs ``highdicom``.

    Args:
        classes: names of the classes, or of the findings, in the order of their indices.
        model: name of the model.
        version: version of the model.
        bundle: name of the bundle that it is from.
        thresholds: from which probability on each finding counts as present, None for one that never does; default
            None: an image has one class.
        min_confidence: answers about findings that are less probable are left out, default 0: none.

    Raises:
        ImportError: When highdicom is not installed.
        ValueError: When a name is empty, or a class name cannot be the meaning of a DICOM code.

    Example::

        >>> from monai_weckd.data import ClassificationSRWriter
        >>> writer = ClassificationSRWriter(["ill", "well"], model="Otoscopy", version="1", bundle="otoscopy")
        >>> writer.write("report.dcm", [0.2, 0.8], source="image.dcm")  # doctest: +SKIP

    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        model: str,
        version: str,
        bundle: str,
        thresholds: Sequence[float | None] | None = None,
        min_confidence: float = 0.0,
    ) -> None:
        highdicom_package()
        self.classes = checked_classes(classes)
        self.model, self.version, self.bundle = model, version, bundle
        self.thresholds = None if thresholds is None else list(thresholds)
        self.min_confidence = min_confidence
        for name, value in (("model", model), ("version", version), ("bundle", bundle)):
            if not value:
                raise ValueError(f"{name}: expected at least one character, got none. Name it.")
        if self.thresholds is not None and len(self.thresholds) != len(self.classes):
            raise ValueError(
                f"thresholds: expected {len(self.classes)}, got {len(self.thresholds)}. Pass one for each."
            )

    def write(self, path: PathLike, probabilities: Sequence[float], *, source: Source) -> None:
        """Write the report of one image, as a series of its own.

        Args:
            path: the file to write.
            probabilities: one for each class.
            source: the image: a DICOM file, a folder with one series, or the files of a series.

        Raises:
            ValueError: When these are not as many finite probabilities as classes.
            DicomReadError: When the image is not DICOM, or its header does not say to what study it belongs.

        """
        content = io.BytesIO()
        report = self.build([(probabilities, source)])
        with named_errors(first_name(source)):  # an error here is in the header of the image, not in ``path``
            report.save_as(content, enforce_file_format=True)
        Path(path).write_bytes(content.getvalue())

    def build(
        self, images: Sequence[tuple[Sequence[float], Source]], *, run: ReportRun | None = None, number: int = 1
    ) -> Dataset:
        """Return the report of images of one study.

        Args:
            images: the probabilities of each, and the image itself, as for :py:meth:`write`.
            run: the series of the run that the report is part of, default None: it gets a series of its own.
            number: its InstanceNumber, default 1.

        Raises:
            ValueError: When these are not as many finite probabilities as classes, or images are of several studies.
            DicomReadError: When an image is not DICOM, or its header does not say to what study it belongs.

        """
        rows = [(self._checked(values), image_headers(source)) for values, source in images]
        headers = [header for _, own in rows for header in own]
        check_study(headers)
        first = images[0][1]
        run = own_run(first) if run is None else run
        with named_errors(first_name(first)):
            groups = [self._group(values, own) for values, own in rows]
            return build_report(groups, headers, origin=self._origin(), run=run, number=number)

    def _checked(self, probabilities: Sequence[float]) -> list[float]:
        values = [float(value) for value in probabilities]
        if len(values) != len(self.classes) or not all(0 <= value <= 1 for value in values):
            raise ValueError(f"probabilities: expected {len(self.classes)} from 0 to 1, got {values}. Apply a softmax.")
        return values

    def _origin(self) -> Origin:
        hd = highdicom_package()
        device = hd.sr.DeviceObserverIdentifyingAttributes(
            uid=generate_uid(entropy_srcs=[self.model, self.version, self.bundle]), name=self.model
        )
        observer = hd.sr.ObserverContext(codes.DCM.Device, device)
        what = "Classes" if self.thresholds is None else "Findings"
        return Origin(
            hd.sr.ObservationContext(observer_device_context=observer),
            description=f"{what} by {self.model}",
            model=self.model,
            versions=(self.version,),
        )

    def _group(
        self, values: Sequence[float], headers: Sequence[Dataset]
    ) -> highdicom.sr.MeasurementsAndQualitativeEvaluations:
        """Return the measurement group about an image."""
        hd = highdicom_package()
        return hd.sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking(),
            algorithm_id=hd.sr.AlgorithmIdentification(self.model, self.version, parameters=self._parameters()),
            measurements=[
                hd.sr.Measurement(private_code(PROBABILITY + name), value, codes.UCUM.NoUnits)
                for name, value in zip(self.classes, values, strict=True)
            ],
            **self._verdict(values),
            source_images=source_images(headers),
        )

    def _parameters(self) -> list[str]:
        found = [f"bundle: {self.bundle}", f"classes: {json.dumps(self.classes, ensure_ascii=False)}"]
        return found if self.thresholds is None else [*found, f"thresholds: {json.dumps(self.thresholds)}"]

    def _verdict(self, values: Sequence[float]) -> dict[str, Any]:
        """Return the class of an image, or which findings it has."""
        evaluation = highdicom_package().sr.QualitativeEvaluation
        if self.thresholds is None:
            predicted = private_code(self.classes[values.index(max(values))])
            # not an evaluation named "Finding", which highdicom would not return on reading
            return {
                "finding_type": predicted,
                "qualitative_evaluations": [evaluation(private_code("Predicted class"), predicted)],
            }
        answers = finding_answers(values, self.thresholds, self.min_confidence)
        told = zip(self.classes, answers, self.thresholds, strict=True)
        return {
            "qualitative_evaluations": [
                evaluation(private_code(name), codes.cid240.Present if answer else codes.cid240.Absent)
                for name, answer, limit in told
                if limit is not None and answer is not None
            ]
        }
