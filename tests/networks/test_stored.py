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

from monai_weckd.networks import StoredLogits


@pytest.mark.parametrize("logits", [torch.zeros(3), torch.tensor([[0.0, torch.nan]])])
def test_logits_that_are_no_finite_matrix_are_refused(logits):
    with pytest.raises(ValueError, match=r"^logits: expected finite numbers"):
        StoredLogits(logits)


def test_items_have_their_logits_in_any_order_and_number():
    table = StoredLogits(torch.tensor([[2, 0], [0, 1], [5, 4]]))
    assert table(torch.tensor([2, 0, 2])).tolist() == [[5.0, 4.0], [2.0, 0.0], [5.0, 4.0]]
    assert table.logits.dtype == torch.float32


def test_it_keeps_no_gradient_and_is_saved_whole():
    logits = torch.ones(3, 2, requires_grad=True)
    table = StoredLogits(2 * logits)
    assert not table.logits.requires_grad
    other = StoredLogits(torch.zeros(3, 2))
    other.load_state_dict(table.state_dict())
    assert torch.equal(other.logits, 2 * logits)
    assert not list(table.parameters())
