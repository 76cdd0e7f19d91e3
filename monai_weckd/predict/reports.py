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
from pathlib import Path

from monai.data.image_reader import is_dicom_path

from monai_weckd.data import ClassificationSRWriter, DicomReadError
from monai_weckd.predict.images import Prediction
from monai_weckd.predict.model import PredictionBundle

__all__ = ["ReportFolder"]


class ReportFolder:
    """Write a DICOM structured report for each classified DICOM image; the table's row number is the file name.

    Args:
        folder: an empty folder, or one to create.
        bundle: the model; the reports contain its name.
        resume: take the reports that are there for those of the rows that are kept, default False.

    Raises:
        FileExistsError: When the folder is not empty.
        ImportError: When highdicom is not installed.

    """

    def __init__(self, folder: Path, bundle: PredictionBundle, *, resume: bool = False) -> None:
        if not resume and folder.exists() and any(folder.iterdir()):
            raise FileExistsError(f"write_sr: expected an empty folder, got {folder} with files. Pass another one.")
        weights = hashlib.sha256(bundle.checkpoint.read_bytes()).hexdigest()
        name = bundle.root.resolve().name
        self.writer = ClassificationSRWriter(
            bundle.classes,
            model=bundle.metadata.get("name", name),
            version=f"{bundle.metadata['version']}, weights {weights[:12]}",
            bundle=name,
        )
        self.folder = folder

    @property
    def count(self) -> int:
        """Number of reports in the folder."""
        return len(list(self.folder.glob("*.dcm")))

    def write(self, prediction: Prediction, row: int) -> str:
        """Write the report of a DICOM image; return why that failed, or an empty text.

        Args:
            prediction: prediction for an image; images other than DICOM are ignored.
            row: its row in the table, from 1.

        """
        if prediction.probabilities is None or not is_dicom_path(prediction.path):
            return ""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{row:06}.dcm"
        try:
            self.writer.write(path, prediction.probabilities.tolist(), source=prediction.path)
        except DicomReadError as error:
            return f"no report: {error}"
        return ""
