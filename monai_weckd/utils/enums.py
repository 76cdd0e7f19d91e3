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

"""Keys of batches and outputs, and the label of an unlabeled item."""

from __future__ import annotations

__all__ = ["IMAGES", "INDEX", "SHARES", "UNLABELED", "VIEW", "DistillationKeys"]

# the label of an item whose label has not been revealed
UNLABELED = -1

# key of an item of several images: their paths, in place of the path of one under "image"
IMAGES = "images"

# key of an item whose readers differ: the share of each class in what they say
SHARES = "shares"

# keys of a batch: the indices of its items, and the seeds of their views
INDEX, VIEW = "index", "view"


class DistillationKeys:
    """Keys that distillation adds to ``engine.state.output``, and the one of the teacher's own view in a batch."""

    TEACHER_IMAGE = "teacher_image"
    TEACHER_PRED = "teacher_pred"
    TASK_LOSS = "task_loss"
    DISTILLATION_LOSS = "distillation_loss"
    ATTENTION_LOSS = "attention_loss"
