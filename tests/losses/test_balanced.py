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

from monai_weckd.losses import BalancedCrossEntropy, DistillationLoss


def test_the_loss_is_that_of_the_formula():
    logits, target, labels = torch.randn(6, 3), torch.tensor([0, 2, 1, 1, 0, 2]), torch.tensor([30.0, 1.0, 4.0])
    weighted = labels * logits.exp()
    expected = -(weighted.gather(1, target[:, None])[:, 0] / weighted.sum(dim=1)).log().mean()
    torch.testing.assert_close(BalancedCrossEntropy([30, 1, 4])(logits, target), expected)


def test_the_softmax_is_over_the_classes_that_occur():
    logits, target = torch.randn(6, 4), torch.tensor([0, 2, 3, 3, 0, 2])
    among = F.cross_entropy(logits[:, [0, 2, 3]], torch.tensor([0, 1, 2, 2, 0, 1]))
    torch.testing.assert_close(BalancedCrossEntropy([2, 0, 2, 2])(logits, target), among)


def test_other_classes_have_no_gradient():
    logits = torch.randn(3, 3, requires_grad=True)
    BalancedCrossEntropy([1, 2, 0])(logits, torch.tensor([[0], [1], [1]])).backward()
    assert logits.grad[:, 2].abs().max() == 0
    assert logits.grad[:, :2].abs().min() > 0


def test_the_best_logits_do_not_know_the_frequencies():
    # nothing tells these images apart: the best constant logits are equal, where those of cross entropy are the counts
    target = torch.tensor([0] * 90 + [1] * 10)
    logits = torch.zeros(2, requires_grad=True)
    BalancedCrossEntropy([90, 10])(logits.expand(100, 2), target).backward()
    torch.testing.assert_close(logits.grad, torch.zeros(2), atol=1e-6, rtol=0)


def test_a_distillation_loss_takes_it():
    logits, target = torch.randn(3, 3), torch.tensor([0, -1, 1])
    loss = DistillationLoss(task_loss=BalancedCrossEntropy([1, 1, 0]))
    expected = F.cross_entropy(logits[[0, 2], :2], torch.tensor([0, 1]))
    torch.testing.assert_close(loss.components(logits, target)["task_loss"], expected)


@pytest.mark.parametrize("labels", [[0, 0], [3, -1]])
def test_no_class_at_all_is_refused(labels):
    with pytest.raises(
        ValueError, match=r"labels: expected a number of labels of each class, one of them above 0, got"
    ):
        BalancedCrossEntropy(labels)
