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

import copy

import numpy as np
import torch
from torch import nn

from monai_weckd.networks import TwoViews


def networks():
    torch.manual_seed(0)
    first, second = (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
        for _ in range(2)
    )
    return first, second


def softmax(logits):
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def test_the_probabilities_are_the_mean_of_both():
    solved, tuned = networks()
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        logits = TwoViews(solved, tuned).eval()(images)
        expected = (softmax(solved(images).numpy()) + softmax(tuned(images).numpy())) / 2
    # the logits are logarithms of probabilities, so they sum to one without a softmax, too
    np.testing.assert_allclose(np.exp(logits.numpy()), expected, atol=1e-6)


def test_the_probabilities_of_findings_are_the_means_of_both():
    solved, tuned = networks()
    images = torch.randn(5, 1, 8, 8)
    with torch.no_grad():
        logits = TwoViews(solved, tuned, multilabel=True).eval()(images).double().numpy()
        expected = [1 / (1 + np.exp(-network(images).double().numpy())) for network in (solved, tuned)]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), np.mean(expected, axis=0), atol=1e-6)


def test_certain_findings_give_finite_logits():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2) * 1e4)
        second.weight.copy_(torch.tensor([[1e4, 0.0], [-1e4, 1e4]]))
        logits = TwoViews(first, second, multilabel=True).eval()(torch.tensor([[1.0, -1.0]]))
    np.testing.assert_allclose(logits.numpy(), [[1e4, -1e4]], atol=1)


def test_certain_views_give_finite_logits():
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        first.weight.copy_(torch.eye(2) * 1e4)
        second.weight.copy_(-torch.eye(2) * 1e4)
        logits = TwoViews(first, second).eval()(torch.tensor([[1.0, 0.0]]))
    np.testing.assert_allclose(np.exp(logits.numpy()), [[0.5, 0.5]], atol=1e-6)


def test_a_step_moves_the_second_network_alone():
    network = TwoViews(*networks()).train()
    assert not any(weight.requires_grad for weight in network.solved.parameters())
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    logits = network(torch.randn(6, 1, 8, 8))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    optimizer.step()
    moved = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved
    assert all(name.startswith("tuned.") for name in moved)
    assert any("running_mean" in name for name in moved)
