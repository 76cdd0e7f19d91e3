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
from network_outputs import LOGITS, OTHER, Fields, ModelOutput, Outputs

from monai_weckd.utils.tensors import map_tensors


def test_the_structure_stays():
    output = Outputs({"a": LOGITS, "b": [OTHER, None]}, (LOGITS,))
    found = map_tensors(lambda one, two: one + two + 1, output, output)
    assert type(found) is Outputs
    assert found.logits["b"][1] is None
    torch.testing.assert_close(found.logits["a"], LOGITS + 1)
    torch.testing.assert_close(found.logits["b"][0], 2 * OTHER + 1)
    assert isinstance(found.aux, tuple)
    found = map_tensors(lambda one: one + 1, [Fields(OTHER, LOGITS), ModelOutput(logits=LOGITS)])
    torch.testing.assert_close(found[0].logits, LOGITS + 1)
    torch.testing.assert_close(found[1].logits, LOGITS + 1)
    assert not LOGITS.any()
