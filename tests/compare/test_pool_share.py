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

from monai_weckd.compare.pool_share import PoolShare, read_pool_share
from monai_weckd.losses import DistillationLoss


def ask(loss, probabilities, target):
    """Compute the loss under a teacher that gives the first of two classes these probabilities."""
    p = torch.tensor(probabilities)
    logits = torch.stack([p, 1 - p], dim=1).log()
    return loss.components(torch.zeros(len(p), 2), torch.tensor(target), logits)


@pytest.mark.parametrize(
    ("threshold", "probabilities", "target", "share"),
    [
        (0.95, [0.99, 0.9, 0.5, 0.01], [-1, -1, -1, -1], 0.5),
        (0.95, [0.99, 0.9, 0.99, 0.99], [-1, -1, 0, 1], 0.5),
        (0.9999, [0.99, 0.9, 0.5, 0.01], [-1, -1, -1, -1], 0.0),
        (0.6, [0.7, 0.7, 0.55], [-1, -1, 1], 1.0),
        # no image of the pool, no teacher's threshold
        (0.95, [0.99, 0.9], [0, 1], None),
        (0.0, [0.99, 0.9], [-1, -1], None),
    ],
)
@pytest.mark.parametrize("hard_labels", [True, False])
def test_the_share_counts_images_of_the_pool_alone(tmp_path, threshold, probabilities, target, share, hard_labels):
    loss = DistillationLoss(threshold=threshold, hard_labels=hard_labels)
    plain = ask(DistillationLoss(threshold=threshold, hard_labels=hard_labels), probabilities, target)
    found = PoolShare(loss)
    for _ in range(2):
        assert ask(loss, probabilities, target) == plain
    found.write(tmp_path)
    assert read_pool_share(tmp_path) == share


def test_without_a_teacher_nothing_is_counted(tmp_path):
    loss = DistillationLoss(threshold=0.9)
    found = PoolShare(loss)
    loss.components(torch.zeros(3, 2), torch.tensor([0, -1, 1]))
    found.write(tmp_path)
    assert read_pool_share(tmp_path) is None
    assert read_pool_share(tmp_path / "nowhere") is None
