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

"""Data lists, datasets and readers: from files on disk to the batches of a stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_weckd.utils.lazy import lazy_names

from .datalist import Datalist, load_datalist, plan_datalist
from .item_level import group_images
from .verify import read_datalist, verify_images

if TYPE_CHECKING:
    from .byte_cache import ByteCacheDataset
    from .dicom.errors import DicomReadError
    from .dicom.reader import DicomReader
    from .dicom.sr import ClassificationSRWriter
    from .dicom.sr_reading import ClassificationReport, read_classification_sr
    from .embedding import EmbeddingDataset
    from .stage import StageBatchSampler, StageDataset

__all__ = [
    "ByteCacheDataset",
    "ClassificationReport",
    "ClassificationSRWriter",
    "Datalist",
    "DicomReadError",
    "DicomReader",
    "EmbeddingDataset",
    "StageBatchSampler",
    "StageDataset",
    "group_images",
    "load_datalist",
    "plan_datalist",
    "read_classification_sr",
    "read_datalist",
    "verify_images",
]

_HOMES = {
    "ByteCacheDataset": "byte_cache",
    "ClassificationReport": "dicom.sr_reading",
    "ClassificationSRWriter": "dicom.sr",
    "DicomReadError": "dicom.errors",
    "DicomReader": "dicom.reader",
    "EmbeddingDataset": "embedding",
    "StageBatchSampler": "stage",
    "StageDataset": "stage",
    "phantoms": "phantoms",
    "read_classification_sr": "dicom.sr_reading",
}

# modules that need torch: reading a data list does not
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
