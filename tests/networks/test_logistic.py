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
from sklearn.metrics import log_loss

from monai_weckd.networks.logistic import Problem, SharedProblem

SHARES = torch.tensor([[1, 0, 0], [0.5, 0.5, 0], [0, 1, 0], [0, 1 / 3, 2 / 3], [0, 0, 1]], dtype=torch.float64)


def test_a_point_is_known_where_all_its_classes_have_labels_elsewhere():
    problem = SharedProblem(torch.eye(5, dtype=torch.float64), SHARES)
    kept = torch.tensor([[False, False, True, True, True], [True, True, True, False, False]])
    assert problem.known(kept, torch.tensor([0, 0, 1, 1, 1])).tolist() == [False, False, True, False, False]


def test_the_loss_of_held_out_shares_is_that_of_repeated_points():
    problem = SharedProblem(torch.eye(5, dtype=torch.float64), SHARES)
    logs = torch.log_softmax(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double(), dim=1)
    known = torch.tensor([True, True, False, True, True])
    rows, classes = SHARES[known].numpy().nonzero()
    weights = (SHARES[known] / SHARES[known].sum(dim=0)).numpy()[rows, classes]
    expected = log_loss(classes, logs[known].exp().numpy()[rows], sample_weight=weights, normalize=False)
    np.testing.assert_allclose(problem.held_out_loss(logs, known), expected)


def test_whole_shares_are_labels():
    labels, points = (
        torch.tensor([0, 1, 1, 2, 0]),
        torch.randn(5, 4, generator=torch.Generator().manual_seed(1)).double(),
    )
    one, other = Problem(points, labels, 3), SharedProblem(points, torch.nn.functional.one_hot(labels, 3).double())
    kept = torch.tensor([[True] * 5, [True, True, True, False, True]])
    place, logs = torch.tensor([0, 0, 0, 1, 1]), torch.log_softmax(points[:, :3], dim=1)
    known = one.known(kept, place)
    assert known.tolist() == other.known(kept, place).tolist() == [True, True, True, False, True]
    np.testing.assert_allclose(one.held_out_loss(logs, known), other.held_out_loss(logs, known))
    solved = [problem.solve(kept, 1.0, tolerance=1e-9) for problem in (one, other)]
    np.testing.assert_allclose(solved[0], solved[1], atol=1e-7)
