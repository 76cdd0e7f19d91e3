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

from collections import OrderedDict

import pytest
import torch
from network_outputs import LOGITS, OTHER, Fields, ModelOutput, Outputs

from monai_weckd.networks import TakeOutput
from monai_weckd.networks.outputs import take_output, taking


@pytest.mark.parametrize(
    ("output", "index"),
    [
        (LOGITS, None),
        (LOGITS, 1),  # a network in eval mode
        ((LOGITS, [OTHER]), 0),
        ([OTHER, LOGITS], 1),
        ((OTHER, LOGITS), -1),
        (Outputs(LOGITS, OTHER), 0),
        (Outputs(LOGITS, OTHER), "logits"),
        (OrderedDict(logits=LOGITS, aux=OTHER), "logits"),
        (Fields(OTHER, LOGITS), "logits"),
        (ModelOutput(logits=LOGITS), "logits"),
    ],
)
def test_the_logits_are_taken(output, index):
    assert take_output(output, index, of="network") is LOGITS


@pytest.mark.parametrize(
    ("output", "index", "message"),
    [
        (
            (LOGITS, [OTHER]),
            None,
            r"teacher: expected logits, .*, got tuple of 0, 1\. Wrap it: .*TakeOutput\(network, 0\)",
        ),
        (
            {"out": LOGITS},
            None,
            r"got dict of out\. Wrap it: .*TakeOutput\(network, 'out'\), or pass output_index='out'",
        ),
        (None, None, r"got NoneType of none"),
        (
            (LOGITS, [OTHER]),
            1,
            r"output_index: expected a tensor among the outputs of the teacher, got 1 for tuple of 0",
        ),
        ((LOGITS,), 3, r"got 3 for tuple of 0"),
        ({"out": LOGITS}, "logits", r"got 'logits' for dict of out"),
        ((LOGITS, OTHER), "logits", r"got 'logits' for tuple of 0, 1"),
        ((LOGITS, OTHER), -3, r"got -3 for tuple of 0, 1"),
        (Outputs(LOGITS, OTHER), "count", r"got 'count' for Outputs of 0, 1, logits, aux"),
        (Fields(OTHER, LOGITS), None, r"got Fields of aux, logits\. Wrap it: .*TakeOutput\(network, 'aux'\)"),
    ],
)
def test_several_outputs_are_refused(output, index, message):
    with pytest.raises(ValueError, match=message):
        take_output(output, index, of="teacher")


def test_an_inferer_gives_the_logits():
    infer = taking(lambda images, network, *, scale: network(images * scale), "logits")
    assert torch.equal(infer(LOGITS + 1, lambda images: {"logits": images}, scale=2), LOGITS + 2)
    assert taking(None, None)(LOGITS, torch.nn.Identity()) is LOGITS
    with pytest.raises(ValueError, match=r"network: expected logits, .* got tuple of 0"):
        taking(None, None)(LOGITS, lambda images: (images,))


def test_a_wrapped_network_has_one_output():
    class Several(torch.nn.Module):
        def forward(self, images, *, scale):
            return OTHER, images * scale

    torch.testing.assert_close(TakeOutput(Several(), 1)(LOGITS + 1, scale=3), LOGITS + 3)
