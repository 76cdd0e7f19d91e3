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

"""A writer of reports, and images to report on. This module needs highdicom."""

from __future__ import annotations

import numpy as np
from dicom_files import write_dicom
from pydicom.uid import CTImageStorage

from monai_weckd.data import ClassificationSRWriter

CLASSES = ["tumor", "=no tumor", 'Größe, "ß"']
PROBABILITIES = [0.12345678, 0.87654321, 1e-17]
NAMES = {"model": "Brain chain, no. 1", "version": "0.1.0, weights 0123", "bundle": "brain_mri_chain_classification"}
STUDY = {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.7", "AccessionNumber": "A1", "SOPClassUID": CTImageStorage}


def write_image(folder, **elements):
    return write_dicom(folder / "image.dcm", np.zeros((8, 9), dtype=np.uint16), **{**STUDY, **elements})


def writer(classes=CLASSES, **changes):
    return ClassificationSRWriter(classes, **{**NAMES, **changes})


def save(dataset, path):
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_study(folder):
    """Write images of one study, in two series."""
    folder.mkdir()
    keys, pixels = {"StudyInstanceUID": "1.2.3", "SOPClassUID": CTImageStorage}, np.zeros((8, 9), dtype=np.uint16)
    return [
        write_dicom(folder / f"{number}.dcm", pixels, **keys, SeriesInstanceUID=f"1.2.3.{number % 2 + 1}")
        for number in range(4)
    ]
