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

"""Read the structured reports that this package writes."""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

from monai.config import PathLike
from pydicom import dcmread
from pydicom.sr.codedict import codes

from monai_weckd.data.dicom.codestream import open_dicom
from monai_weckd.data.dicom.errors import DicomReadError, named_errors
from monai_weckd.data.dicom.header import claim_sequences
from monai_weckd.data.dicom.sr_document import PROBABILITY, SCHEME, highdicom_package
from monai_weckd.utils.budget import budgeted

__all__ = ["ClassificationReport", "read_classification_sr"]


class ClassificationReport(NamedTuple):
    """What a structured report says about an image.

    Args:
        predicted: the class; empty where an image has findings.
        present: whether each finding with a threshold is present, by its name; empty where an image has one class.
        probabilities: probability of each class or finding, by its name, in the order of their indices.
        model: name of the model; empty, as version and bundle, where a person gave the class.
        version: its version.
        bundle: name of its bundle.
        images: SOP instance UIDs of the image, one or those of a series.
        verified: whether a person has verified the report.
        person: who gave the class, empty for a model and where nobody is named.

    """

    predicted: str
    present: dict[str, bool]
    probabilities: dict[str, float]
    model: str
    version: str
    bundle: str
    images: tuple[str, ...]
    verified: bool
    person: str = ""


@budgeted
def read_classification_sr(path: PathLike) -> list[ClassificationReport]:
    """Read a report of ``predict`` or ``label_sr``: what it says about each of its images. Needs ``highdicom``.

    Args:
        path: the file.

    Raises:
        ImportError: When highdicom is not installed.
        DicomReadError: When it is not such a report.

    """
    hd = highdicom_package()
    with named_errors(os.fspath(path)), open_dicom(path) as file:
        dataset = dcmread(file)
        claim_sequences(dataset)
        if dataset.get("Modality") != "SR":
            raise DicomReadError("expected a structured report, got another object. Leave it out.")
        report = hd.sr.ComprehensiveSR.from_dataset(dataset, copy=False)
        verified = report.VerificationFlag == "VERIFIED"
        found = [group for group in report.content.get_image_measurement_groups() if _is_ours(group)]
        if not found:
            raise DicomReadError("expected the classification of an image, got none. Read it with highdicom.")
        people = report.content.get_observer_contexts(observer_type=codes.DCM.Person)
        person = str(people[0].observer_identifying_attributes.name) if people else ""
        return [_read(group, verified=verified, person=person) for group in found]


def _read(group: Any, *, verified: bool, person: str) -> ClassificationReport:
    texts: dict[str, list[str]] = {}
    for item in group[0].ContentSequence:
        if item.ValueType == "TEXT":
            texts.setdefault(item.name.value, []).append(item.value)
    parameters = dict(text.split(": ", 1) for text in texts.get(codes.DCM.AlgorithmParameters.value, ()))
    values = {item.name.meaning.removeprefix(PROBABILITY): item.value for item in group.get_measurements()}
    names = json.loads(parameters.get("classes", "[]"))
    verdict = {item.name.meaning: item.value for item in group.get_qualitative_evaluations()}
    return ClassificationReport(
        predicted="" if group.finding_type is None else group.finding_type.meaning,
        # a person's report names no classes: its evaluations are the findings
        present={name: verdict[name] == codes.cid240.Present for name in names or verdict if name in verdict}
        if group.finding_type is None
        else {},
        probabilities={name: float(values[name]) for name in names},
        model="".join(texts.get(codes.DCM.AlgorithmName.value, ())),
        version="".join(texts.get(codes.DCM.AlgorithmVersion.value, ())),
        bundle=parameters.get("bundle", ""),
        images=tuple(str(image.referenced_sop_instance_uid) for image in group.source_images),
        verified=verified,
        person=person,
    )


def _is_ours(group: Any) -> bool:
    items = [*group.get_measurements(), *group.get_qualitative_evaluations()]
    return any(item.name.scheme_designator == SCHEME for item in items)
