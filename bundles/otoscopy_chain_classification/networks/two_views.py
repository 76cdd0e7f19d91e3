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

"""The mean of two networks, of which one is trained. This file needs torch alone: bundles have a copy."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["TwoViews"]


class TwoViews(nn.Module):
    """Average the probabilities of a finished network and of one that is trained beside it.

    A head on frozen features and a network that is fine-tuned as a whole make different errors, so their mean is
    usually better than either. In training, only the second one is called and trained; in evaluation, the logits are
    the logarithms of the mean probabilities, so that a softmax returns these. Of several findings, they are the logits
    of the mean probabilities, for a sigmoid.

    Args:
        solved: the finished network, such as a :py:class:`PooledClassifier`; it is frozen.
        tuned: the network to train, with as many logits.
        multilabel: whether an image may show several findings, each with its own logit, default False.

    Example::

        >>> solved, tuned = torch.nn.Linear(4, 3), torch.nn.Linear(4, 3)
        >>> network = TwoViews(solved, tuned).eval()
        >>> inputs = torch.randn(2, 4)
        >>> mean = (torch.softmax(solved(inputs), 1) + torch.softmax(tuned(inputs), 1)) / 2
        >>> torch.allclose(torch.softmax(network(inputs), 1), mean)
        True
        >>> torch.equal(network.train()(inputs), tuned(inputs))
        True

    """

    def __init__(self, solved: nn.Module, tuned: nn.Module, *, multilabel: bool = False) -> None:
        super().__init__()
        self.multilabel = multilabel
        self.solved = solved.requires_grad_(False)
        self.tuned = tuned

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        Args:
            image: (B, C, H, W) or (B, C, H, W, D).

        Returns:
            (B, number of classes or findings).

        """
        if self.training:
            return self.tuned(image)
        first, second = self.solved(image), self.tuned(image)
        if self.multilabel:
            present = torch.logaddexp(F.logsigmoid(first), F.logsigmoid(second))
            return present - torch.logaddexp(F.logsigmoid(-first), F.logsigmoid(-second))
        return torch.logaddexp(F.log_softmax(first, dim=1), F.log_softmax(second, dim=1)) - math.log(2)
