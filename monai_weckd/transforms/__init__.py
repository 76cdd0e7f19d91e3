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

"""Transforms for loading, correcting and augmenting medical images."""

from __future__ import annotations

from .batch import BatchAugment, BatchTransform
from .batch_intensity import (
    BatchRandCoarseDropout,
    BatchRandGaussianNoise,
    BatchRandScaleIntensity,
    BatchRandShiftIntensity,
)
from .batch_spatial import BatchRandAffine, BatchRandFlip
from .bias_field import BiasFieldCorrection, BiasFieldCorrectionD, BiasFieldCorrectiond, BiasFieldCorrectionDict
from .load import LoadMedicalImage, LoadMedicalImageD, LoadMedicalImaged, LoadMedicalImageDict
from .weak_strong_views import WeakStrongViewsD, WeakStrongViewsd, WeakStrongViewsDict
from .withhold_label import WithholdLabelD, WithholdLabeld, WithholdLabelDict

__all__ = [
    "BatchAugment",
    "BatchRandAffine",
    "BatchRandCoarseDropout",
    "BatchRandFlip",
    "BatchRandGaussianNoise",
    "BatchRandScaleIntensity",
    "BatchRandShiftIntensity",
    "BatchTransform",
    "BiasFieldCorrection",
    "BiasFieldCorrectionD",
    "BiasFieldCorrectionDict",
    "BiasFieldCorrectiond",
    "LoadMedicalImage",
    "LoadMedicalImageD",
    "LoadMedicalImageDict",
    "LoadMedicalImaged",
    "WeakStrongViewsD",
    "WeakStrongViewsDict",
    "WeakStrongViewsd",
    "WithholdLabelD",
    "WithholdLabelDict",
    "WithholdLabeld",
]
