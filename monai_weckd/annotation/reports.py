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

"""Export the labels of a session as DICOM structured reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.data.image_reader import is_dicom_path

from monai_weckd.annotation.export import labeled_items
from monai_weckd.annotation.label_files import labeled_findings, labeled_level
from monai_weckd.annotation.label_words import known_findings
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.dicom.sr_document import source_files
from monai_weckd.data.dicom.sr_folder import DocumentFolder
from monai_weckd.data.dicom.sr_labels import LabelSRWriter
from monai_weckd.data.dicom.sr_series import series_numbers
from monai_weckd.data.image_files import image_files
from monai_weckd.data.item_level import PLURALS, images_in

__all__ = ["label_reports", "person_of"]


def label_reports(
    dataset_dir: Path, labels: Path, folder: Path, *, per: str = "image", verified: tuple[str, str] | None = None
) -> tuple[Counter[str], list[str]]:
    """Write structured reports of the labels given so far, and return counts and why some could not be written.

    Args:
        dataset_dir: folder of the images.
        labels: ``labels.json`` of :py:class:`~monai_weckd.annotation.AnnotationSession`.
        folder: an empty folder, or one to create.
        per: "image" for a report of each, "study" for one of all images of a study that one person labeled.
        verified: name and organization of the person who verifies them, default None: nobody does.

    Returns:
        The number of labels that are "reported", "of images that are gone", "of images other than DICOM", and "without
        a class": what somebody said in place of one, or readings that nobody has settled; a line for each report that
        could not be written.

    Raises:
        ValueError: When there are no labels, or no images, or patients have the labels.
        FileExistsError: When the folder is not empty.
        ImportError: When highdicom is not installed.

    """
    level = labeled_level(labels)[0] if labels.is_file() else "image"
    if level == "patient":
        raise ValueError(
            "write_sr: expected labels of images, series or studies, got those of patients. A report is about one "
            "study; write their manifest with `manifest --labels`."
        )
    plural = PLURALS[level]
    writers: dict[str, LabelSRWriter] = {"": LabelSRWriter(verified=verified)}
    items, given = labeled_items(dataset_dir, labels)
    findings = labeled_findings(labels)
    documents = DocumentFolder(folder, per=per, taken=series_numbers(image_files(dataset_dir)))
    counts, faults = Counter({"reported": 0}), []
    for number, item in enumerate(items, start=1):
        entry = given.pop(item["id"], None)
        if entry is None:
            continue
        if entry.get("answer") or not entry.get("label"):
            counts["without a class"] += 1
            continue
        paths = [path for path in images_in(item) if is_dicom_path(folder_of(path))]
        if not paths:
            counts[f"of {plural} other than DICOM"] += 1
            continue
        source = paths[0] if len(paths) == 1 else [file for path in paths for file in source_files(path)]
        person = person_of(entry)
        writer = writers.setdefault(person, LabelSRWriter(person, verified=verified))
        fault = documents.add(
            writer, known_findings(entry["label"]) if findings else entry["label"], source=source, number=number
        )
        counts["reported"] += not fault
        faults += [fault] if fault else []
    faults += documents.finish()
    counts[f"of {plural} that are gone"] = len(given)
    return counts, faults


def person_of(entry: Mapping[str, Any]) -> str:
    """Return who gave a label, empty where nobody is named.

    Args:
        entry: the entry of the label in ``labels.json``.

    """
    return str(entry.get("who") or "")
