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

import torch

from monai_weckd.engines.shares import in_parts, shared_target


def test_labels_without_shares_stay_as_they_are():
    target = torch.tensor([2, 0])
    assert shared_target(target, [{}, {}], 3) is target
    places, classes, shares = in_parts(target)
    assert (places.tolist(), classes.tolist(), shares.tolist()) == ([0, 1], [2, 0], [1, 1])


def test_an_item_without_shares_has_its_class_as_a_whole():
    found = shared_target(torch.tensor([2, 0]), [{}, {"shares": [0.25, 0.75, 0.0]}], 3)
    assert found.tolist() == [[0, 0, 1], [0.25, 0.75, 0]]
