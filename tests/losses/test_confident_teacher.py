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

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax

from monai_weckd.losses import DistillationLoss, distillation_loss


def logits(*shape, seed=0):
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fixmatch(student, teacher, threshold):
    """The loss on unlabeled images of arXiv 2001.07685, equation 4, for each item."""
    p = softmax(teacher.numpy(), axis=1)
    cross_entropy = -log_softmax(student.numpy(), axis=1)[np.arange(len(p)), p.argmax(axis=1)]
    return cross_entropy * (p.max(axis=1) >= threshold)


@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.95])
def test_hard_labels_above_a_threshold_are_fixmatch(threshold):
    student, teacher = logits(32, 4), logits(32, 4, seed=1)
    expected = fixmatch(student, teacher, threshold)
    assert threshold == 0 or 0 < (expected == 0).sum() < 32
    options = {"temperature": 3.0, "threshold": threshold, "hard_labels": True}
    found = distillation_loss(student, teacher, reduction="none", **options)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)
    assert distillation_loss(student, teacher, **options).item() == pytest.approx(expected.mean(), rel=1e-5)
    assert distillation_loss(student, teacher, reduction="sum", **options).item() == pytest.approx(
        expected.sum(), rel=1e-5
    )


def test_a_threshold_alone_leaves_out_whom_the_teacher_does_not_know():
    student, teacher = logits(32, 4), logits(32, 4, seed=1)
    sure = teacher.softmax(dim=1).amax(dim=1) >= 0.7
    plain = distillation_loss(student, teacher, temperature=2.0, reduction="none")
    found = distillation_loss(student, teacher, temperature=2.0, threshold=0.7, reduction="none")
    torch.testing.assert_close(found, plain * sure)
    assert 0 < sure.sum() < 32


def test_no_gradient_flows_into_the_teacher_or_from_an_unsure_item():
    student, teacher = logits(8, 3).requires_grad_(), logits(8, 3, seed=1).requires_grad_()
    distillation_loss(student, teacher, threshold=0.8, hard_labels=True).backward()
    unsure = teacher.softmax(dim=1).amax(dim=1) < 0.8
    assert teacher.grad is None
    assert 0 < unsure.sum() < 8
    assert student.grad[unsure].abs().max() == 0
    assert student.grad[~unsure].abs().amin(dim=0).max() > 0


def test_the_combined_loss_hands_both_on():
    student, teacher, target = logits(6, 3), logits(6, 3, seed=1), torch.tensor([0, 1, 2, -1, -1, -1])
    loss_function = DistillationLoss(threshold=0.7, hard_labels=True)
    found = loss_function.components(student, target, teacher)["distillation_loss"]
    assert found == distillation_loss(student, teacher, temperature=4.0, threshold=0.7, hard_labels=True)
