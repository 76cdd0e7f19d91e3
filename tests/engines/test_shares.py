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

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from monai_weckd.engines.shares import in_parts, shared_target
from monai_weckd.engines.solver import solve_layer


def test_labels_without_shares_stay_as_they_are():
    target = torch.tensor([2, 0])
    assert shared_target(target, [{}, {}], 3) is target
    places, classes, shares = in_parts(target)
    assert (places.tolist(), classes.tolist(), shares.tolist()) == ([0, 1], [2, 0], [1, 1])


def test_an_item_without_shares_has_its_class_as_a_whole():
    found = shared_target(torch.tensor([2, 0]), [{}, {"shares": [0.25, 0.75, 0.0]}], 3)
    assert found.tolist() == [[0, 0, 1], [0.25, 0.75, 0]]


def test_shares_calibrate_a_head_as_weighted_repetitions_do():
    random = torch.Generator().manual_seed(0)
    shares = torch.rand(40, 3, generator=random, dtype=torch.float64) ** 4
    shares = shares / shares.sum(dim=1, keepdim=True)
    inputs = torch.randn(40, 6, generator=random) + 2 * torch.nn.functional.pad(shares, (0, 3)).float()
    layer = torch.nn.Linear(6, 3)
    scaling = inputs.mean(dim=0), inputs.std(dim=0)
    head, temperature = solve_layer(layer, inputs, shares, [f"g{place // 2}" for place in range(40)], scaling)
    logs = head.out_of_fold.numpy()

    def loss(value):
        return -(shares.numpy() * log_softmax(logs / value, axis=1)).sum()

    expected = minimize_scalar(loss, bounds=(0.5, 10), method="bounded", options={"xatol": 1e-9}).x
    np.testing.assert_allclose(temperature, expected, rtol=1e-4)
    torch.testing.assert_close(layer.weight, (head.weight / temperature).float())
