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

"""A chain over several findings an image, solved or trained step by step, from plan to files."""

from __future__ import annotations

import pytest
import torch

from monai_weckd import plan_training
from monai_weckd.engines.label_task import Scalings, label_task


def test_scale_and_offset_of_each_finding_go_into_the_head():
    scaling = Scalings(torch.tensor([2.0, 0.5]), torch.tensor([1.0, -3.0]))
    torch.testing.assert_close(scaling.of_logits(torch.tensor([[1.0, 2.0]])), torch.tensor([[3.0, -2.0]]))
    network, images = torch.nn.Sequential(torch.nn.Linear(3, 2)), torch.randn(5, 3)
    expected = scaling.of_logits(network(images))
    scaling.of_head(network, None)
    torch.testing.assert_close(network(images), expected)
    assert scaling.temperature == pytest.approx(1.0)  # the geometric mean of a half and two


@pytest.mark.parametrize("findings", [False, True])
def test_calibration_lowers_the_loss_of_logits_that_are_off(findings):
    labels = [(n % 2, -1 if n == 3 else int(n < 4)) if findings else n % 2 for n in range(8)]
    items = [{"id": f"{n}", "image": "-", "label": label, "group": f"{n}"} for n, label in enumerate(labels)]
    task = label_task(plan_training(items, classes=["a", "b"], findings=findings, num_stages=1, shard_size=8))
    target, logits = task.target(labels), 9 * torch.randn(8, 2, generator=torch.Generator().manual_seed(0)) + 5
    calibrated = task.calibration(logits, target).of_logits(logits)
    assert task.loss(calibrated.float(), target) < task.loss(logits, target)
