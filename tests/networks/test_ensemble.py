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
from chain_runs import make_chain, make_network

from monai_weckd.engines import ChainEvents
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import MeanLogits


def test_an_ensemble_of_none_is_refused():
    with pytest.raises(ValueError, match=r"networks: expected at least one, got none"):
        MeanLogits([])


def test_logits_are_the_mean_of_the_networks():
    networks, images = [make_network(seed).eval() for seed in range(3)], torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        expected = sum(network(images) for network in networks) / 3
        torch.testing.assert_close(MeanLogits(networks)(images), expected)


def test_a_chain_is_taught_by_all_accepted_students():
    teachers = []
    trainer = make_chain(max_epochs=3, teacher="ensemble", accept="always")
    trainer.add_event_handler(ChainEvents.STAGE_STARTED, lambda e: teachers.append(e.teacher))
    trainer.run()
    assert teachers[0] is None
    assert [len(teacher.networks) for teacher in teachers[1:]] == [1, 2]
    last = trainer.walker.students[-1]
    assert all(torch.equal(a, b) for a, b in zip(trainer.network.parameters(), last.parameters(), strict=True))


def test_an_ensemble_has_no_features():
    with pytest.raises(ValueError, match=r"attention_weight: expected 0 with teacher='ensemble', got 1.0"):
        make_chain(teacher="ensemble", loss_function=DistillationLoss(attention_weight=1.0), student_layer="0")
