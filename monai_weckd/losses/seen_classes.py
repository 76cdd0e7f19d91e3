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


"""Cross entropy among the classes that occur, where others were learned elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

__all__ = ["SeenCrossEntropy"]


class SeenCrossEntropy(torch.nn.Module):
    """Cross entropy of a softmax over some classes, so that labels do not unlearn the others.

    Labels of classes a and b say about an image of a that it is not b. That it is no c either is true, and still makes
    a network forget c where no image of c answers back. So the loss leaves the logits of such classes alone, as Caccia
    et al. do for classes of earlier tasks (arXiv 2104.05025); a teacher says the rest.

    Args:
        seen: whether labels of a class occur, C booleans.

    Raises:
        ValueError: When no class occurs.

    Example::

        >>> logits, target = torch.tensor([[1.0, 0.0, 9.0]]), torch.tensor([0])
        >>> SeenCrossEntropy([True, True, False])(logits, target)
        tensor(0.3133)

    """

    unseen: torch.Tensor

    def __init__(self, seen: Sequence[bool]) -> None:
        super().__init__()
        if not any(seen):
            raise ValueError(f"seen: expected a class that occurs, got {list(seen)}. Pass True for those with labels.")
        self.register_buffer("unseen", ~torch.tensor(list(seen)), persistent=False)

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the mean loss.

        Args:
            logits: (B, C).
            target: classes that occur, (B,) or (B, 1).

        """
        among = logits.masked_fill(self.unseen.to(logits.device), -torch.inf)
        return F.cross_entropy(among, target.flatten().long())
