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

import math

import pytest
import torch
from chain_runs import make_chain, make_network

from monai_weckd.engines import ChainEvents
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import ClassExperts, MeanLogits


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


class Says(torch.nn.Module):
    """A network that gives every image the same probabilities."""

    def __init__(self, *probabilities):
        super().__init__()
        self.logits = torch.tensor(probabilities).log() + 3  # logits are known up to a constant

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def mixed(labels, *networks):
    with torch.no_grad():
        found = ClassExperts(networks, torch.tensor(labels))(torch.zeros(1, 1))
    return found.exp()[0].tolist()


def test_experts_are_mixed_by_their_labels_of_a_class():
    first, second = Says(0.7, 0.2, 0.1), Says(0.1, 0.3, 0.6)
    # class 0: 3 and 1 labels, class 1: 0 and 5, class 2: none
    raw = [0.75 * 0.7 + 0.25 * 0.1, 0.3, 0.5 * 0.1 + 0.5 * 0.6]
    assert mixed([[3, 0, 0], [1, 5, 0]], first, second) == pytest.approx([value / math.fsum(raw) for value in raw])


def test_an_expert_alone_keeps_its_probabilities():
    assert mixed([[3, 0, 1]], Says(0.7, 0.2, 0.1)) == pytest.approx([0.7, 0.2, 0.1])


def test_who_has_not_seen_a_class_has_no_say_about_it():
    knows, forgot = Says(0.05, 0.95), Says(0.999, 0.001)
    found = mixed([[10, 10], [20, 0]], knows, forgot)
    assert found[1] == pytest.approx(0.95 / (0.95 + 0.05 / 3 + 2 * 0.999 / 3))


def test_labels_that_do_not_fit_the_networks_are_refused():
    with pytest.raises(ValueError, match=r"labels: expected a row for each of the networks, one or more, got 1 netw"):
        ClassExperts([Says(0.5, 0.5)], torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"labels: expected a row for each of the networks, one or more, got 0 netw"):
        ClassExperts([], torch.ones(0, 2))
