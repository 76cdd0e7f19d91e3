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

from monai_weckd.inferers import AutocastInferer, HeadInferer, has_bfloat16
from monai_weckd.networks.ensemble import MeanLogits


@pytest.mark.parametrize("able", [True, False])
def test_autocast_is_on_where_the_processor_can(monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able}, raising=False)
    assert has_bfloat16(torch.device("cpu")) is able
    network, images = make_network().eval(), torch.rand(4, 3, 8, 8)
    found, expected = AutocastInferer()(images, network), network(images)
    assert found.dtype == (torch.bfloat16 if able else torch.float32)
    assert torch.allclose(found.float(), expected, atol=0.02 if able else 0)
    assert torch.equal(found.float(), expected) is not able


def test_older_torch_versions_do_not_know_and_compute_in_single_precision(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not has_bfloat16(torch.device("cpu"))
    assert not has_bfloat16(torch.device("meta"))


def test_a_chain_learns_in_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    trainer = make_chain(inferer=AutocastInferer(), accept="always", max_epochs=9, learning_rate=0.1)
    trainer.run()
    assert trainer.records[-1].value > 0.8
    assert {parameter.dtype for parameter in trainer.network.parameters()} == {torch.float32}
    assert trainer.state.output["teacher_pred"].dtype == torch.bfloat16
    assert trainer.state.output["loss"].dtype == torch.float32


class Doubling:
    def __call__(self, inputs, network, *args, **kwargs):
        return 2 * network(inputs, *args, **kwargs)


@pytest.mark.parametrize("head_layer", [None, "6"])
def test_head_inferer_calls_the_head_on_embeddings_and_the_network_on_images(head_layer):
    network, images = make_network().eval(), torch.rand(4, 3, 8, 8)
    inferer = HeadInferer(head_layer, inferer=Doubling())
    embeddings = network[:6](images)
    torch.testing.assert_close(inferer(embeddings, network), network(images))
    torch.testing.assert_close(inferer(images, network), 2 * network(images))
    torch.testing.assert_close(HeadInferer(head_layer)(embeddings, torch.compile(network)), network(images))


def test_head_inferer_asks_every_member_of_an_ensemble():
    networks, images = [make_network(seed).eval() for seed in (0, 1)], torch.rand(4, 3, 8, 8)
    for one in networks:
        one[:6].load_state_dict(networks[0][:6].state_dict())
    ensemble = MeanLogits(networks)
    torch.testing.assert_close(HeadInferer("6")(networks[0][:6](images), ensemble), ensemble(images))


def test_head_inferer_needs_a_head():
    with pytest.raises(ValueError, match=r"^head_layer: expected a torch.nn.Linear in ReLU, got none\."):
        HeadInferer()(torch.zeros(2, 3), torch.nn.ReLU())
