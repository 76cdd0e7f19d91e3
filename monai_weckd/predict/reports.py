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

"""Write DICOM structured reports for predictions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from monai.data.image_reader import is_dicom_path

from monai_weckd.data import ClassificationSRWriter
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.dicom.sr_document import source_files
from monai_weckd.data.dicom.sr_folder import DocumentFolder
from monai_weckd.predict.images import Prediction
from monai_weckd.predict.model import PredictionBundle

__all__ = ["ReportFolder"]


class ReportFolder(DocumentFolder):
    """Write DICOM structured reports for classified DICOM images; the table's row number is the file name.

    Args:
        folder: an empty folder, or one to create.
        bundle: the model; the reports contain its name.
        per: "image" for a report of each, "study" for one of all images of a study.
        taken: numbers of the series that each study is known to have, by its UID; default none.
        resume: take the reports that are there for those of the rows that are kept, default False.
        min_confidence: answers about findings that are less probable are left out, default 0: none.

    Raises:
        FileExistsError: When the folder is not empty.
        ImportError: When highdicom is not installed.

    """

    def __init__(
        self,
        folder: Path,
        bundle: PredictionBundle,
        *,
        per: str = "image",
        taken: Mapping[str, Iterable[int]] | None = None,
        resume: bool = False,
        min_confidence: float = 0.0,
    ) -> None:
        super().__init__(folder, per=per, taken=taken, resume=resume)
        weights = hashlib.sha256(bundle.checkpoint.read_bytes()).hexdigest()
        name = bundle.root.resolve().name
        self.writer = ClassificationSRWriter(
            bundle.classes,
            model=bundle.metadata.get("name", name),
            version=f"{bundle.metadata['version']}, weights {weights[:12]}",
            bundle=name,
            thresholds=bundle.thresholds,
            min_confidence=min_confidence,
        )

    def write(self, prediction: Prediction, row: int, *, paths: Sequence[str] | None = None) -> str:
        """Write the report of a DICOM image, or keep it for that of its study; return why that failed, or no text.

        Args:
            prediction: prediction for an image, or for an item; images other than DICOM are ignored.
            row: its row in the table, from 1.
            paths: the images of an item, which are of one study, default None: it is one image.

        """
        sources = [path for path in paths or [prediction.path] if is_dicom_path(folder_of(path))]
        if prediction.probabilities is None or not sources:
            return ""
        source = sources[0] if len(sources) == 1 else [file for path in sources for file in source_files(path)]
        return self.add(self.writer, prediction.probabilities.tolist(), source=source, number=row)
