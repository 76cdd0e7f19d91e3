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
import pytest
import torch
from chain_runs import make_items, make_network
from held_out import held_out
from ignite.engine import Events
from monai.data import DataLoader
from monai.handlers import from_engine

from monai_weckd import plan_chain
from monai_weckd.data import ByteCacheDataset
from monai_weckd.data.embedding import EmbeddingDataset
from monai_weckd.engines import ChainDistillationTrainer, ChainOptions, HeadSolver, fit_temperature
from monai_weckd.engines.estimate import estimate_accuracy
from monai_weckd.handlers import FrozenBackbone
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import StandardizedLinear, extract, find_head, freeze, solve_head

CLASSES = ("a", "b", "c")


def make_solved(
    *, num_stages=3, embed=True, max_epochs=None, epoch_length=1, chain=None, decollate=False, bounded=False
):
    network = make_network()
    if bounded:
        parent, _, name = find_head(network).rpartition(".")
        features = network.get_submodule(find_head(network)).in_features
        setattr(network.get_submodule(parent), name, StandardizedLinear(features, 3))
    backbone = FrozenBackbone(network)
    items = make_items()
    plan = plan_chain(items, held_out(policy="cumulative", num_stages=num_stages, seed=0), classes=CLASSES)
    images = ByteCacheDataset(plan.select(items, "train"), [])
    trainer = ChainDistillationTrainer(
        "cpu",
        max_epochs or num_stages,
        plan=plan,
        train_data_loader=DataLoader(backbone.embed(images) if embed else images, batch_size=8),
        network=network,
        optimizer=torch.optim.SGD(backbone.parameters(), lr=1.0),
        loss_function=DistillationLoss(),
        epoch_length=epoch_length,
        inferer=backbone.inferer,
        iteration_update=HeadSolver(),
        decollate=decollate,
        chain=chain or ChainOptions(accept="always"),
        train_handlers=[backbone],
    )
    return trainer, backbone, images


def test_a_stage_ends_with_the_solution_for_its_labels():
    trainer, _, images = make_solved()
    before = freeze(trainer.network)
    trainer.run()
    features, _ = extract(trainer.network, images)
    items = {item["id"]: (place, item) for place, item in enumerate(images.data)}
    chosen = [items[key] for key in sorted(trainer.plan.stages[-1].labeled, key=lambda key: items[key][0])]
    places = [place for place, _ in chosen]
    labels = torch.tensor([item["label"] for _, item in chosen])
    head = solve_head(
        features[places],
        labels,
        [item["group"] for _, item in chosen],
        num_classes=3,
        mean=features.double().mean(0),
        scale=features.double().std(0, correction=0),
    )
    layers = [module for module in trainer.network.modules() if isinstance(module, torch.nn.Linear)]
    temperature = fit_temperature(head.out_of_fold, labels)
    assert abs(temperature - 1) > 0.05  # else the calibration would not show
    torch.testing.assert_close(layers[-1].weight.double() * temperature, head.weight, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(layers[-1].bias.double() * temperature, head.bias, rtol=1e-3, atol=1e-4)
    held_out = trainer.state.chain.state.held_out
    assert list(held_out) == [item["id"] for _, item in chosen]
    expected = torch.softmax(head.out_of_fold / temperature, dim=1)
    torch.testing.assert_close(torch.tensor(list(held_out.values())).double(), expected, rtol=1e-3, atol=1e-4)
    # nothing else has changed
    head_name = [name for name, module in trainer.network.named_modules() if isinstance(module, torch.nn.Linear)][-1]
    for name, tensor in before.state_dict().items():
        if not name.startswith(head_name):
            assert torch.equal(tensor, trainer.network.state_dict()[name]), name


def test_a_layer_that_bounds_its_features_gets_the_solution_for_bounded_features():
    trainer, _, images = make_solved(num_stages=1, bounded=True)
    told = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: told.append(engine.state.chain.state.out_of_fold)
    )
    trainer.run()
    layer = trainer.network.get_submodule(find_head(trainer.network))
    features, logits = extract(trainer.network, images)
    bounded = torch.tanh((features - features.mean(0)) / features.std(0, correction=0)).nan_to_num()
    bounded /= bounded.square().mean(1, keepdim=True).sqrt()
    items = {item["id"]: (place, item) for place, item in enumerate(images.data)}
    chosen = sorted((items[key] for key in trainer.plan.stages[-1].labeled), key=lambda found: found[0])
    places, labels = [place for place, _ in chosen], torch.tensor([item["label"] for _, item in chosen])
    size = bounded.shape[1]
    head = solve_head(
        bounded[places],
        labels,
        [item["group"] for _, item in chosen],
        num_classes=3,
        mean=torch.zeros(size),
        scale=torch.ones(size),
    )
    temperature = fit_temperature(head.out_of_fold, labels)
    torch.testing.assert_close(layer.weight.double() * temperature, head.weight, rtol=1e-3, atol=1e-4)
    expected = (bounded.double() @ head.weight.T + head.bias) / temperature
    torch.testing.assert_close(logits.double(), expected, rtol=1e-3, atol=1e-3)
    # the estimate is by the same features
    others = [place for place in range(len(images.data)) if place not in places]
    names = [images.data[place]["group"] for place in others]
    groups = [item["group"] for _, item in chosen]
    unseen = head.unseen_logits(bounded[others], names)
    estimate = estimate_accuracy(head.out_of_fold.clamp(min=-1e4), labels, groups, unseen, names)
    found = told[-1]["estimate"]["balanced_accuracy"]
    assert found["value"] == pytest.approx(estimate["balanced_accuracy"]["value"], abs=1e-3)


@pytest.mark.parametrize("bounded", [False, True])
def test_a_label_counts_in_the_estimate_for_the_images_nearest_to_it(bounded, monkeypatch):
    seen = []

    def estimate(*arguments, weights):
        seen.append(weights)
        return estimate_accuracy(*arguments, weights=weights)

    monkeypatch.setattr("monai_weckd.engines.solver.estimate_accuracy", estimate)
    trainer, _, images = make_solved(num_stages=1, bounded=bounded)
    scales = torch.logspace(-2, 2, trainer.network.get_submodule(find_head(trainer.network)).in_features)
    gather = EmbeddingDataset.gather
    monkeypatch.setattr(EmbeddingDataset, "gather", lambda self, places: gather(self, places) * scales)
    moments = EmbeddingDataset.moments
    monkeypatch.setattr(EmbeddingDataset, "moments", lambda self: tuple(part * scales for part in moments(self)))
    trainer.run()
    # the scales of features do not matter
    features = extract(trainer.network, images)[0].double()
    points = ((features - features.mean(0)) / features.std(0, correction=0)).nan_to_num()
    if bounded:
        points = torch.nn.functional.normalize(points.tanh(), dim=1)
    known = [item["id"] in trainer.plan.stages[-1].labeled for item in images.data]
    labeled, others = points[known], points[[not one for one in known]]
    nearest = torch.cdist(others, labeled, compute_mode="donot_use_mm_for_euclid_dist").argmin(dim=1)
    expected = 1 + torch.bincount(nearest, minlength=len(labeled))
    assert int((seen[0] - expected).abs().sum()) <= 2  # rounding may give an image to the label next to it
    assert int(seen[0].sum()) == len(images.data)


def test_each_stage_is_recorded_and_uses_all_labels_so_far():
    trainer, _, _ = make_solved()
    seen = []
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.chain.state.out_of_fold)
    )
    trainer.run()
    assert [record.labeled for record in trainer.records] == [len(stage.labeled) for stage in trainer.plan.stages]
    assert [one["labels"] for one in seen] == [record.labeled for record in trainer.records]
    assert [record.epochs for record in trainer.records] == [1, 1, 1]
    assert all(np.isfinite(one["balanced_accuracy"]) for one in seen)
    assert trainer.oracle.budget == len(trainer.plan.stages[-1].labeled)
    # the images without a label tell how good it is, if they are as many as the labels
    without = [len(trainer.plan.train) - record.labeled for record in trainer.records]
    assert [one["estimate"] and one["estimate"]["images"] for one in seen] == [
        count if count >= record.labeled else None for count, record in zip(without, trainer.records, strict=True)
    ]
    assert seen[0]["estimate"]["images"] == without[0]


def test_there_is_no_estimate_while_a_class_cannot_be_held_out():
    trainer, _, _ = make_solved(num_stages=1)
    labeled, seen = set(trainer.plan.stages[0].labeled), []
    for item in trainer.walker.state.items:  # all labels of the class are of one patient
        if item["id"] in labeled and item["label"] == 0:
            item["group"] = "patient"
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED, lambda engine: seen.append(engine.state.chain.state.out_of_fold)
    )
    trainer.run()
    assert seen[0]["labels"] < trainer.records[0].labeled
    assert seen[0]["estimate"] is None


def test_two_runs_give_the_same_weights():
    states = []
    for _ in range(2):
        trainer, _, _ = make_solved(num_stages=2)
        trainer.run()
        states.append(trainer.network.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"embed": False}, TypeError, "train_data_loader: expected a dataset of embeddings, got ByteCacheDataset"),
        ({"chain": ChainOptions(accept="always", averaging=0.9)}, ValueError, "averaging: expected 0"),
    ],
)
def test_it_refuses_a_chain_that_trains_step_by_step(options, error, message):
    trainer, _, _ = make_solved(**options)
    with pytest.raises(error, match=message):
        trainer.run()


@pytest.mark.parametrize("options", [{"epoch_length": 4}, {"max_epochs": 6}])
def test_further_iterations_change_nothing(options, caplog):
    once, more = make_solved()[0], make_solved(**options)[0]
    once.run()
    more.run()
    for name, tensor in once.network.state_dict().items():
        torch.testing.assert_close(tensor, more.network.state_dict()[name])
    assert [record.labeled for record in more.records] == [record.labeled for record in once.records]
    assert "but a head is solved in one; pass max_epochs=num_stages and epoch_length=1" in caplog.text


def test_a_broken_image_is_refused():
    trainer, _, images = make_solved(num_stages=1)
    labeled = trainer.plan.stages[0].labeled[0]
    place = [item["id"] for item in images.data].index(labeled)
    dataset = trainer.data_loader.dataset
    dataset.rows[place] = torch.nan
    with pytest.raises(ValueError, match="features: expected finite numbers, got others"):
        trainer.run()


def test_the_output_is_decollated_where_the_trainer_is_asked_to():
    trainer, _, _ = make_solved(num_stages=1, decollate=True)
    trainer.run()
    assert len(trainer.state.output) == trainer.records[-1].labeled
    assert from_engine("loss", first=True)(trainer.state.output) > 0
