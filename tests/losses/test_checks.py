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

from __future__ import annotations

import pytest
import torch

from monai_weckd.losses import DistillationLoss, distillation_loss


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (2, 3, 1)])
def test_refuses_different_shapes(shape):
    with pytest.raises(ValueError, match=r"^teacher_logits: expected the student's shape \(2, 3\), got \("):
        distillation_loss(torch.zeros(2, 3), torch.zeros(shape))


def test_refuses_logits_without_a_batch():
    with pytest.raises(ValueError, match=r"^student_logits: expected the shape \(B, C\[, spatial\]\), got \(3,\)"):
        distillation_loss(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize(
    ("multilabel", "shape", "expected"),
    [
        (False, (4, 2), r"\(4,\) or \(4, 1\) or \(4, 3\)"),
        (False, (3,), r"\(4,\) or \(4, 1\) or \(4, 3\)"),
        (True, (4,), r"\(4, 3\)"),
    ],
)
def test_refuses_a_target_of_another_shape(multilabel, shape, expected):
    with pytest.raises(ValueError, match=f"^target: expected the shape {expected} with multilabel={multilabel}, got"):
        DistillationLoss(multilabel=multilabel)(torch.zeros(4, 3), torch.zeros(shape))


def test_refuses_logits_of_a_segmentation():
    with pytest.raises(ValueError, match=r"^student_logits: expected the shape \(B, C\), got \(4, 3, 2, 2\)"):
        DistillationLoss()(torch.zeros(4, 3, 2, 2), torch.zeros(4))


@pytest.mark.parametrize("threshold", [-0.1, 1.0])
def test_a_threshold_that_is_no_probability_is_refused(threshold):
    with pytest.raises(ValueError, match=r"threshold: expected a probability from 0 to below 1, got"):
        DistillationLoss(threshold=threshold)
    with pytest.raises(ValueError, match=r"threshold: expected a probability from 0 to below 1, got"):
        distillation_loss(torch.zeros(2, 3), torch.zeros(2, 3), threshold=threshold)


@pytest.mark.parametrize("options", [{"threshold": 0.5}, {"hard_labels": True}])
def test_confidence_is_for_exactly_one_class(options):
    with pytest.raises(ValueError, match=r"threshold: expected 0, and hard_labels=False, for multilabel or spatial"):
        DistillationLoss(multilabel=True, **options)
    with pytest.raises(ValueError, match=r"threshold: expected 0, and hard_labels=False, for multilabel or spatial"):
        distillation_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), **options)


def test_refuses_softmax_of_a_single_class():
    with pytest.raises(ValueError, match=r"^student_logits: expected 2 classes or more, got 1\. Pass multilabel=True"):
        distillation_loss(torch.zeros(2, 1), torch.zeros(2, 1))
