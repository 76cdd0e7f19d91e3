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

"""Align a teacher's predictions on unlabeled images with the class frequencies of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

__all__ = ["DistributionAlignment"]


class DistributionAlignment:
    """Align a teacher's predictions on unlabeled images with the class frequencies of the labels.

    A weak teacher prefers some classes, and its student would prefer them even more. Each probability is multiplied by
    ``prior / running mean`` of its class, and the result is scaled to a sum of 1. This shifts the logits by the
    logarithm of that factor. After Berthelot et al., ReMixMatch, arXiv 1911.09785, section 3.1, with an exponential
    running mean.

    Args:
        counts: number of labels of each of C classes; one is added to each, so that a class without labels stays
            possible.
        momentum: momentum of the running mean, in [0, 1). Default 0.99.

    Example::

        >>> align = DistributionAlignment([9, 9])
        >>> logits = torch.log(torch.tensor([[0.8, 0.2]]))
        >>> align(logits, torch.tensor([True])).softmax(dim=1)
        tensor([[0.5000, 0.5000]])

    """

    def __init__(self, counts: Sequence[int], *, momentum: float = 0.99) -> None:
        smoothed = torch.as_tensor(counts, dtype=torch.float32) + 1
        self.prior = smoothed / smoothed.sum()
        self.momentum = momentum
        self.mean: torch.Tensor | None = None

    def __call__(self, logits: torch.Tensor, unlabeled: torch.Tensor) -> torch.Tensor:
        """Return the logits, aligned for the items without a label.

        Args:
            logits: the teacher's logits, (B, C).
            unlabeled: True for items without a label, (B,).

        """
        if not unlabeled.any():
            return logits
        batch = logits[unlabeled].float().softmax(dim=1).mean(dim=0)
        self.mean = batch if self.mean is None else self.momentum * self.mean + (1 - self.momentum) * batch
        shift = self.prior.to(logits.device).log() - self.mean.clamp_min(1e-6).log()
        return torch.where(unlabeled[:, None], logits + shift.to(logits.dtype), logits)

    def state_dict(self) -> dict[str, torch.Tensor | None]:
        """Return the running mean; the prior follows from the labels."""
        return {"mean": self.mean}

    def load_state_dict(
        self, state_dict: Mapping[str, torch.Tensor | None], *, device: torch.device | None = None
    ) -> None:
        """Restore a running mean.

        Args:
            state_dict: result of :py:meth:`state_dict`.
            device: device to move it to, default None: keep its device.

        """
        mean = state_dict["mean"]
        self.mean = None if mean is None else mean.to(device)
