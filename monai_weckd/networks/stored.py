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

"""A teacher whose logits are stored in advance."""

from __future__ import annotations

import torch

__all__ = ["StoredLogits"]


class StoredLogits(torch.nn.Module):
    """The logits of a network on all items of a dataset, in place of the network.

    A large teacher, or one for images of another size, then runs once for each item, and the student sees its own
    augmented views. As the teacher of a chain's first stage it looks logits up by the ``index`` of each item in the
    batch.

    Args:
        logits: logits of all items, in the order of the dataset, (N, C).

    Raises:
        ValueError: When the logits are not a matrix of finite numbers.

    Example::

        >>> StoredLogits(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))(torch.tensor([1, 1])).tolist()
        [[0.0, 1.0], [0.0, 1.0]]

    """

    logits: torch.Tensor

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        if logits.ndim != 2 or not logits.isfinite().all():
            raise ValueError(
                f"logits: expected finite numbers of shape (N, C), got {tuple(logits.shape)}, "
                f"{int((~logits.isfinite()).sum())} of them not finite. Look at the network that made them."
            )
        self.register_buffer("logits", logits.detach().float())

    def forward(self, index: torch.Tensor) -> torch.Tensor:
        """Return the logits of items, (B, C).

        Args:
            index: places of the items in the dataset, (B,).

        """
        return self.logits[index.to(self.logits.device)]
