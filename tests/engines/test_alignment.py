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
from chain_runs import make_chain

from monai_weckd.engines import ChainEvents, DistributionAlignment


def test_it_is_the_formula_of_the_paper():
    rng = np.random.default_rng(0)
    align, mean = DistributionAlignment([4, 0, 2], momentum=0.9), None
    prior = np.array([5, 1, 3]) / 9
    for _ in range(3):
        logits = rng.normal(size=(5, 3)).astype(np.float32)
        unlabeled = np.array([True, True, False, True, True])
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        batch = p[unlabeled].mean(axis=0)
        mean = batch if mean is None else 0.9 * mean + 0.1 * batch
        expected = p.copy()
        expected[unlabeled] = p[unlabeled] * prior / mean
        expected /= expected.sum(axis=1, keepdims=True)
        found = align(torch.from_numpy(logits), torch.from_numpy(unlabeled)).softmax(dim=1)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_a_batch_of_labels_alone_is_left_and_not_counted():
    align, logits = DistributionAlignment([1, 1]), torch.randn(3, 2)
    assert align(logits, torch.zeros(3, dtype=torch.bool)) is logits
    assert align.mean is None


def test_a_chain_begins_each_stage_with_a_new_one():
    found = []
    trainer = make_chain(max_epochs=3, alignment=True, pool_ratio=1, accept="always")
    trainer.add_event_handler(ChainEvents.STAGE_COMPLETED, lambda e: found.append(e.distiller.alignment))
    trainer.run()
    assert len({id(part) for part in found}) == 3
    assert found[0].mean is None  # nobody guides in the first stage
    assert found[1].mean is not None
    plain = make_chain(max_epochs=3, pool_ratio=1, accept="always")
    plain.run()
    pairs = zip(trainer.network.parameters(), plain.network.parameters(), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def test_a_running_mean_can_be_gone_on_with():
    first, second = DistributionAlignment([1, 2]), DistributionAlignment([1, 2])
    rows = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    unlabeled = torch.tensor([True, True, False, True])
    for logits in rows[:2]:
        first(logits, unlabeled)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(rows[2], unlabeled), second(rows[2], unlabeled))


def test_a_running_mean_comes_back_to_the_trainer_s_device():
    # a checkpoint is read on the CPU; "meta" stands for a GPU
    trainer = make_chain()
    trainer.distiller.alignment = align = DistributionAlignment([1, 1, 1])
    align.mean = torch.full((3,), 1 / 3)
    state = trainer.distiller.state_dict()
    trainer.state.device = torch.device("meta")
    trainer.distiller.load_state_dict(state)
    assert align.mean.device == trainer.state.device
