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

import mmap
import random

import numpy as np
import pytest
import torch
from chain_runs import make_network
from timed_network import Timed

from monai_weckd.costs.probe import peak_bytes, probe_costs, resident_bytes
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import fingerprint


def probe(network, optimizer, **options):
    return probe_costs(
        network,
        optimizer,
        loss_function=DistillationLoss(),
        image_shape=(3, 8, 8),
        num_classes=3,
        batch_size=4,
        seconds=0.1,
        **options,
    )


@pytest.mark.usefixtures("clock")
def test_the_probe_measures_each_part_on_its_batch():
    network = Timed(*make_network())

    def load():
        Timed.now += 5

    costs = probe(network, torch.optim.SGD(network.parameters(), lr=0.1), pool_ratio=2, load=[load])
    assert (costs.step, costs.pool_step) == (3 * 4, 3 * 12)
    assert (costs.teacher, costs.pool_teacher, costs.validate) == (4, 12, 1)
    assert costs.load == 5
    assert probe(network, torch.optim.SGD(network.parameters(), lr=0.1)).load == 0


def test_the_probe_leaves_everything_as_it_is():
    network = make_network().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    states = fingerprint(network), torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    def load():
        random.random(), np.random.random(), torch.rand(1)

    probe(network, optimizer, pool_ratio=2, load=[load])
    assert fingerprint(network) == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert random.getstate() == states[2]
    assert np.random.get_state()[1].tolist() == states[3]
    assert network.training
    assert not optimizer.state
    assert scheduler.last_epoch == 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_probe_counts_bytes():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 50), torch.nn.ReLU(), torch.nn.Linear(50, 3))
    weights = 4 * (192 * 50 + 50 + 50 * 3 + 3)
    costs = probe(network, torch.optim.AdamW(network.parameters()), pool_ratio=1)
    assert costs.network_bytes == weights
    # gradients, two moments, and Adam's counter of each of four tensors
    assert costs.training_bytes == 3 * weights + 4 * 4
    # inputs, hidden layer and logits' softmax of eight items, and the second layer's weights and the labels
    kept = 4 * (8 * 192 + 8 * 50 + 4 * 3 + 50 * 3)
    assert kept <= costs.activation_bytes <= kept + 1500
    plain = probe(network, torch.optim.SGD(network.parameters(), lr=0.1))
    assert plain.training_bytes == weights


def test_args_validation():
    network = make_network()
    with pytest.raises(ValueError, match="seconds: expected a positive number, got 0"):
        probe_costs(
            network,
            torch.optim.SGD(network.parameters(), lr=0.1),
            loss_function=DistillationLoss(),
            image_shape=(3, 8, 8),
            num_classes=3,
            batch_size=4,
            seconds=0,
        )


def test_memory_is_that_of_the_process():
    # new pages, which are none that the allocator has kept of something else
    with mmap.mmap(-1, 2**26) as block:
        before = resident_bytes()
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        assert resident_bytes() - before > 0.9 * len(block)
    assert peak_bytes() >= resident_bytes() * 0.99
