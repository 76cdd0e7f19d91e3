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

import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from chain_runs import make_chain, make_items, make_network
from PIL import Image

from monai_weckd import plan_chain
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.costs import forecast
from monai_weckd.costs.estimate import CostEstimate, StepCosts, estimate_cost
from monai_weckd.costs.probe import peak_bytes, probe_costs, resident_bytes
from monai_weckd.data.datalist import load_datalist, plan_datalist
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import fingerprint
from monai_weckd.plan.settings import PlanSettings

COSTS = StepCosts(
    step=0.02,
    pool_step=0.05,
    teacher=0.007,
    pool_teacher=0.03,
    validate=0.001,
    load=0.004,
    base_bytes=10**8,
    network_bytes=4000,
    training_bytes=12_000,
    activation_bytes=50_000,
    item_bytes=300,
)
OPTIONS = {"max_epochs": 12, "epoch_length": 10, "batch_size": 4}


def make_plan(stages=3, **options):
    return plan_chain(make_items(), PlanSettings(num_stages=stages, **options), classes=("a", "b", "c"))


def by_hand(plan, *, pool_ratio=0, views=0, batch_size=4, epochs=4, length=10):
    """Walk through a chain step by step and add up what each step costs."""
    totals = []
    for stage in plan.stages:
        pooled, seconds = pool_ratio and stage.stage > 1, 0.0
        for step in range(epochs * length):
            seconds += COSTS.pool_step if pooled else COSTS.step
            passes = [(step + 1) * batch_size / len(stage.labeled)]
            if pooled:
                passes.append((step + 1) * batch_size * pool_ratio / len(plan.pool(stage.stage)))
            # once every item of the slower part has been seen in all its views, nothing is asked any more
            shown = min(passes)
            if stage.stage > 1 and (not views or shown <= views + 1e-9):
                seconds += COSTS.pool_teacher if pooled else COSTS.teacher
        seconds += (epochs + 1) * len(plan.val) * COSTS.validate + len(plan.test) * COSTS.validate
        totals.append(seconds)
    return totals


@pytest.mark.parametrize("policy", ["disjoint", "cumulative"])
@pytest.mark.parametrize("pool_ratio", [0, 2])
@pytest.mark.parametrize("views", [0, 1, 3, 10_000])
def test_the_formula_adds_up_what_each_step_costs(policy, pool_ratio, views):
    plan = make_plan(policy=policy)
    found = estimate_cost(plan, COSTS, pool_ratio=pool_ratio, views=views, **OPTIONS)
    # a teacher that is asked for parts of batches is counted to the nearest step
    assert found.seconds == pytest.approx(by_hand(plan, pool_ratio=pool_ratio, views=views), abs=0.031)
    assert found.steps == (40, 40, 40)
    images = len(plan.train) + len(plan.val) + len(plan.test)
    assert found.load_seconds == pytest.approx(images * 0.004)
    assert found.total_seconds == pytest.approx(sum(found.seconds) + found.load_seconds)
    assert found.peak_bytes == 10**8 + 16_000 + 12_000 + 50_000 + images * 300


def test_a_chain_of_one_stage_has_no_teacher():
    plan = make_plan(stages=1)
    first, views = (estimate_cost(plan, COSTS, pool_ratio=2, views=views, **OPTIONS) for views in (0, 5))
    assert first == views
    assert first.seconds[0] == pytest.approx(120 * 0.02 + 13 * len(plan.val) * 0.001 + len(plan.test) * 0.001)


def test_views_never_cost_more_than_none_and_stage_epochs_count():
    plan = make_plan()
    costs = [estimate_cost(plan, COSTS, views=views, **OPTIONS).total_seconds for views in (1, 2, 4, 100, 0)]
    assert costs == sorted(costs)
    assert estimate_cost(plan, COSTS, stage_epochs=(1, 2, 9), **OPTIONS).steps == (10, 20, 90)


def test_an_estimate_is_json():
    estimate = CostEstimate(steps=(1, 2), seconds=(0.5, 1.5), load_seconds=1.0, peak_bytes=7)
    assert estimate.to_dict() == {
        "steps": (1, 2),
        "seconds": (0.5, 1.5),
        "load_seconds": 1.0,
        "peak_bytes": 7,
        "total_seconds": 3.0,
    }


class Timed(torch.nn.Sequential):
    """A network with a clock, which goes on by a second for each image that is looked at, and by three in training."""

    now = 0.0

    def forward(self, x):
        Timed.now += len(x) * (3 if self.training else 1)
        return super().forward(x)


@pytest.fixture
def clock(monkeypatch):
    """Let time pass by work alone, however busy this machine is."""
    monkeypatch.setattr(Timed, "now", 0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: Timed.now)


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


def test_a_forecast_is_the_estimate_of_the_bundles_chain(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(30):
            Image.new("RGB", (8, 9)).save(tmp_path / name / f"{number}.png")
    datalist = load_datalist(tmp_path)
    asked = {}

    def probe(network, optimizer, **options):
        assert {id(weight) for weight in network.parameters()} == {
            id(weight) for group in optimizer.param_groups for weight in group["params"]
        }
        asked.update(options)
        return COSTS

    monkeypatch.setattr(forecast, "probe_costs", probe)
    stages, chain = [1, 2, 9], {"views": 3, "teacher_cache": True, "pool_ratio": 2}
    changes = {"spatial_size": [16, 20], "val_interval": 2, "chain#stage_epochs": stages}
    bundle = Path(__file__).parents[2] / "bundles" / "otoscopy_chain_classification"
    config = BundleConfig(bundle, changes={**changes, **{f"chain#{name}": value for name, value in chain.items()}})
    plan = plan_datalist(datalist, PlanSettings(label_fraction=0.2))
    lines = list(forecast.forecast_cost(config, plan, datalist, **OPTIONS))
    assert lines[0].endswith("images of 3 x 16 x 20:")
    expected = estimate_cost(plan, COSTS, pool_ratio=2, views=3, stage_epochs=stages, val_interval=2, **OPTIONS)
    assert lines[2] == "  stages    " + " + ".join(f"{value:.1f}" for value in expected.seconds) + " s"
    assert lines[3].startswith("  in all    120 steps, ")
    found = {name: asked[name] for name in ("image_shape", "num_classes", "batch_size", "pool_ratio", "item_bytes")}
    shape = (3, 16, 20)
    assert found == {"image_shape": shape, "num_classes": 2, "batch_size": 4, "pool_ratio": 2, "item_bytes": 960}
    assert len(asked["load"]) == 4
    assert asked["load"][0]()["image"].shape == shape


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
    before = resident_bytes()
    block = torch.ones(2**24)
    assert resident_bytes() - before > 0.9 * block.nbytes
    assert peak_bytes() >= resident_bytes() * 0.99


@pytest.mark.usefixtures("clock")
def test_a_chain_reports_what_was_predicted_and_what_it_took(caplog):
    from monai_weckd.handlers import CostReporter

    ends = []
    for handlers in ([], [CostReporter(seconds=0.2)]):
        trainer = make_chain(network=Timed(*make_network()), handlers=handlers, pool_ratio=1, max_epochs=6)
        with caplog.at_level("INFO", logger="monai_weckd"):
            trainer.run()
        ends.append(fingerprint(trainer.network))
    assert ends[0] == ends[1]  # no bit of the training changes
    cost = trainer.state.cost
    assert cost["predicted"]["steps"] == (8, 8, 8)
    assert cost["actual"]["seconds"] == [record.seconds for record in trainer.records]
    assert cost["ratio"] == pytest.approx(cost["actual"]["total_seconds"] / cost["predicted"]["total_seconds"])
    # each stage was to be measured by a recorder as well, which this chain has not
    unused = 3 * (len(trainer.plan.val) + len(trainer.plan.test))
    assert cost["predicted"]["total_seconds"] - unused == cost["actual"]["total_seconds"]
    assert [line.split(":")[0] for line in caplog.messages if line.startswith(("predicted", "took"))] == [
        "predicted",
        "took",
    ]


@pytest.mark.usefixtures("clock")
def test_a_chain_that_goes_on_keeps_its_prediction_and_adds_up_its_time(tmp_path):
    from ignite.engine import Events

    from monai_weckd.handlers import ChainCheckpoint, CostReporter
    from monai_weckd.utils.files import finish_writing

    def build(resume):
        handlers = [CostReporter(seconds=0.1), ChainCheckpoint(tmp_path, resume=resume)]
        return make_chain(network=Timed(*make_network()), handlers=handlers, max_epochs=3, epoch_length=1)

    first = build(False)
    first.add_event_handler(Events.ITERATION_STARTED(once=3), lambda engine: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        first.run()
    finish_writing(tmp_path / "checkpoint.pt")
    passed = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]["cost"]["seconds"]
    trainer = build(True)
    trainer.run()
    assert trainer.state.cost["predicted"] == first.state.cost["predicted"]
    total = trainer.state.cost["actual"]["total_seconds"]
    seconds = [record.seconds for record in trainer.records]
    whole = make_chain(network=Timed(*make_network()), max_epochs=3, epoch_length=1)
    whole.run()
    # the interrupted run ended between two looks at images, so that none was lost
    assert 0 < passed < total == sum(seconds)
    assert seconds == [record.seconds for record in whole.records]
