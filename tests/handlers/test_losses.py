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

from monai_weckd.handlers import losses_from_output


def test_losses_are_numbers_of_the_first_item_whatever_they_were():
    first = {
        "loss": torch.tensor(1.5, requires_grad=True),
        "task_loss": torch.tensor(2.0),
        "distillation_loss": 1,
        "attention_loss": 0.0,
        "pred": torch.zeros(3),
    }
    expected = {"loss": 1.5, "task_loss": 2.0, "distillation_loss": 1.0, "attention_loss": 0.0}
    assert losses_from_output(first) == expected
    assert losses_from_output([first, {**first, "loss": 9.0}]) == expected
    assert {type(value) for value in losses_from_output(first).values()} == {float}
