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


"""Cross entropy where some classes have few labels or none, because others have learned them elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["BalancedCrossEntropy"]


class BalancedCrossEntropy(torch.nn.Module):
    """Cross entropy that takes the class frequencies of the labels out of the logits.

    With n[c] labels of class c, the loss of an image of class y is ``-log(n[y] exp(z[y]) / sum_c n[c] exp(z[c]))``. So
    the logits z learn what tells the classes apart, and the factors how frequent they are here: the balanced softmax
    of Ren et al. (arXiv 2007.10740), by which federated sites with different frequencies agree (Zhang et al., arXiv
    2209.00189). A class without a label has no term. Labels thus do not unlearn it, as in Caccia et al. (arXiv
    2104.05025); a teacher says the rest.

    Args:
        labels: number of labels of each class, (C,), 0 or more.

    Raises:
        ValueError: When a number is negative, or no class has a label.

    Example::

        >>> logits, target = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([0])
        >>> BalancedCrossEntropy([5, 5, 0])(logits, target)
        tensor(0.3133)
        >>> BalancedCrossEntropy([50, 5, 0])(logits, target)
        tensor(0.0361)

    """

    shift: torch.Tensor

    def __init__(self, labels: Sequence[int]) -> None:
        super().__init__()
        if min(labels) < 0 or not any(labels):
            raise ValueError(
                f"labels: expected a number of labels of each class, one of them above 0, got {list(labels)}. "
                "Count the labels of the stage."
            )
        self.register_buffer("shift", torch.tensor(list(labels)).float().log(), persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss.

        Args:
            logits: (B, C).
            target: classes with a label, (B,) or (B, 1).

        """
        return F.cross_entropy(logits + self.shift.to(logits), target.flatten().long())
