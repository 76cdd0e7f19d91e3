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

"""Label images while a chain learns from them: the session, its labels, the chain and the next images to label."""

from __future__ import annotations

from monai_weckd.annotation.chain import AnnotatedChain
from monai_weckd.annotation.images import find_items
from monai_weckd.annotation.labels_in import take_labels
from monai_weckd.annotation.order import Suggestion
from monai_weckd.annotation.pictures import describe_image, image_png
from monai_weckd.annotation.session import AnnotationSession
from monai_weckd.annotation.status import NoStageError, StageRunningError, StageStoppedError, UnknownImageError
from monai_weckd.annotation.store import LabelStore, class_of
from monai_weckd.annotation.training import AnnotatedBundle, ImagePredictor

__all__ = [
    "AnnotatedBundle",
    "AnnotatedChain",
    "AnnotationSession",
    "ImagePredictor",
    "LabelStore",
    "NoStageError",
    "StageRunningError",
    "StageStoppedError",
    "Suggestion",
    "UnknownImageError",
    "class_of",
    "describe_image",
    "find_items",
    "image_png",
    "take_labels",
]
