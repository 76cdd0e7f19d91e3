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
import torch.nn.functional as F

from monai_weckd.losses import DistillationLoss, SeenCrossEntropy


def test_the_softmax_is_over_the_classes_that_occur():
    logits, target = torch.randn(6, 4), torch.tensor([0, 2, 3, 3, 0, 2])
    among = F.cross_entropy(logits[:, [0, 2, 3]], torch.tensor([0, 1, 2, 2, 0, 1]))
    torch.testing.assert_close(SeenCrossEntropy([True, False, True, True])(logits, target), among)


def test_other_classes_have_no_gradient():
    logits = torch.randn(3, 3, requires_grad=True)
    SeenCrossEntropy([True, True, False])(logits, torch.tensor([[0], [1], [1]])).backward()
    assert logits.grad[:, 2].abs().max() == 0
    assert logits.grad[:, :2].abs().min() > 0


def test_a_distillation_loss_takes_it():
    logits, target = torch.randn(3, 3), torch.tensor([0, -1, 1])
    loss = DistillationLoss(task_loss=SeenCrossEntropy([True, True, False]))
    expected = F.cross_entropy(logits[[0, 2], :2], torch.tensor([0, 1]))
    torch.testing.assert_close(loss.components(logits, target)["task_loss"], expected)


def test_no_class_at_all_is_refused():
    with pytest.raises(ValueError, match=r"seen: expected a class that occurs, got \[False, False\]\. Pass True for"):
        SeenCrossEntropy([False, False])
