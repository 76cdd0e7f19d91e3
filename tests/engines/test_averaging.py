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
from chain_runs import make_chain, make_items, make_network
from held_out import held_out
from ignite.engine import Events
from monai.engines import IterationEvents

from monai_weckd import plan_chain
from monai_weckd.engines import WeightAverage

ONE_STAGE = plan_chain(make_items(), held_out(num_stages=1), classes=("a", "b", "c"))


def test_the_average_is_that_of_its_formula():
    network = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(network.weight, 1.0)
    average, expected = WeightAverage(network, decay=0.15), 1.0
    for step, weight in enumerate([2.0, 5.0, -1.0, 4.0]):
        torch.nn.init.constant_(network.weight, weight)
        average.update()
        decay = min(0.15, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * weight
        assert average.module.weight.item() == pytest.approx(expected)


def test_buffers_are_averaged_and_counters_copied():
    network = torch.nn.BatchNorm1d(2, momentum=0.5)
    average = WeightAverage(network, decay=0.0)
    network(torch.randn(8, 2))
    average.update()
    assert torch.equal(average.module.running_mean, network.running_mean)
    assert average.module.num_batches_tracked == 1


def test_what_is_frozen_stays_and_what_is_shared_is_averaged_once():
    network = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1))
    network[0].weight = network[2].weight
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    network[1].requires_grad_(False)
    average = WeightAverage(torch.nn.DataParallel(network), decay=0.05)
    torch.nn.init.constant_(network[2].weight, 2.0)
    torch.nn.init.constant_(network[1].weight, 5.0)
    average.update()
    assert average.module[1].weight.item() == 1.0
    assert average.module[0].weight is average.module[2].weight
    assert average.module[0].weight.item() == pytest.approx(1.95)
    network[1].requires_grad_(True)
    torch.nn.init.constant_(network[1].weight, 2.0)
    average.update()
    assert average.module[1].weight.item() == pytest.approx(1.95)


def test_a_buffer_that_was_replaced_is_averaged():
    network = torch.nn.BatchNorm1d(2)
    average = WeightAverage(network, decay=0.0)
    network.running_mean = torch.tensor([3.0, 4.0])
    average.update()
    assert average.module.running_mean.tolist() == [3.0, 4.0]


def test_swapping_twice_puts_both_back():
    network, other = make_network(0), make_network(1)
    average = WeightAverage(network, decay=0.5)
    average.module.load_state_dict(other.state_dict())
    before = [tensor.clone() for tensor in network.state_dict().values()]
    average.swap()
    assert average.swapped
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))
    average.swap()
    assert not average.swapped
    assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), before, strict=True))


def test_a_chain_validates_and_keeps_the_averaged_weights():
    seen = {}

    def look(engine):
        seen["shown"] = [tensor.clone() for tensor in engine.network.state_dict().values()]
        seen["average"] = engine.walker.state.average

    trainer = make_chain(max_epochs=3, averaging=0.9, accept="always")
    raw = make_chain(max_epochs=3, accept="always")
    trainer.walker.evaluator.add_event_handler(Events.STARTED, lambda _: look(trainer))
    trainer.run()
    raw.run()
    assert seen["average"].updates == 4  # one stage of an epoch of four steps
    kept = list(trainer.network.state_dict().values())
    assert all(torch.equal(a, b) for a, b in zip(kept, seen["shown"], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(kept, raw.network.state_dict().values(), strict=True))


def test_weights_count_once_for_each_step_of_the_optimizer():
    network, steps, found = make_network(), [], []
    expected, bias = network[6].bias.tolist(), network[6].bias
    trainer = make_chain(
        network=network, plan=ONE_STAGE, max_epochs=1, epoch_length=6, accumulation_steps=4, averaging=0.9
    )
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(bias.tolist()))
    trainer.walker.evaluator.add_event_handler(Events.STARTED, lambda _: found.append(bias.tolist()))
    trainer.run()
    for step, weights in enumerate(steps):
        decay = (1 + step) / (10 + step)
        expected = [decay * mean + (1 - decay) * weight for mean, weight in zip(expected, weights, strict=True)]
    assert len(steps) == 2
    assert found[0] == pytest.approx(expected)


def test_averaging_does_not_change_how_the_student_learns():
    # within a stage the student's own weights take the same path, whether or not an average is validated in between
    losses = {}
    for decay in (0.0, 0.9):
        trainer = make_chain(max_epochs=3, averaging=decay, accept="always", init="initial", plan=ONE_STAGE)
        values = losses.setdefault(decay, [])
        trainer.add_event_handler(
            IterationEvents.LOSS_COMPLETED, lambda e, v=values: v.append(e.state.output["loss"].item())
        )
        trainer.run()
    assert losses[0.0] == losses[0.9]


@pytest.mark.parametrize("averaging", [-0.1, 1.0])
def test_a_decay_out_of_range_is_refused(averaging):
    with pytest.raises(ValueError, match=r"averaging: expected a decay from 0 to below 1, got .*\. 0 switches it off"):
        make_chain(averaging=averaging)


def test_teacher_average_needs_an_average():
    with pytest.raises(ValueError, match=r"averaging: expected a decay above 0 for teacher='average', got 0"):
        make_chain(teacher="average")


def test_an_average_can_be_gone_on_with():
    networks = [torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]
    first, second = (WeightAverage(network, decay=0.9) for network in networks)
    for _ in range(3):
        torch.nn.init.normal_(networks[0].weight)
        first.update()
    first.swap()
    networks[1].load_state_dict(networks[0].state_dict())
    second.load_state_dict(first.state_dict())
    for average in (first, second):
        average.swap()
        average.update()
    assert (second.updates, second.swapped) == (4, False)
    assert torch.equal(networks[0].weight, networks[1].weight)
    assert torch.equal(first.module.weight, second.module.weight)
