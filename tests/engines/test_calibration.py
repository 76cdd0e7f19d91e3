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
from chain_runs import make_chain, make_items, make_network
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from monai_weckd.engines import divide_logits, fit_temperature


def likelihood(logits, labels, temperature):
    scaled = logits / temperature
    return -(scaled[np.arange(len(labels)), labels] - np.log(np.exp(scaled).sum(axis=1))).mean()


@given(st.integers(0, 1000), st.floats(0.3, 5.0))
def test_it_finds_what_an_optimizer_finds(seed, scale):
    rng = np.random.default_rng(seed)
    logits = scale * rng.normal(size=(80, 4))
    labels = np.array([rng.choice(4, p=np.exp(row / scale) / np.exp(row / scale).sum()) for row in logits])
    best = minimize_scalar(lambda t: likelihood(logits, labels, t), bounds=(0.5, 10), method="bounded")
    found = fit_temperature(torch.from_numpy(logits), torch.from_numpy(labels))
    assert likelihood(logits, labels, found) <= best.fun + 1e-9


def test_what_is_always_right_or_wrong_stays_within_bounds():
    logits = torch.tensor([[3.0, 0.0], [0.0, 3.0]])
    assert fit_temperature(logits, torch.tensor([0, 1])) == pytest.approx(0.5)
    assert fit_temperature(logits, torch.tensor([1, 0])) == pytest.approx(10.0)


def test_no_label_is_refused():
    with pytest.raises(ValueError, match=r"labels: expected at least one, got none"):
        fit_temperature(torch.zeros(0, 2), torch.zeros(0))


def test_logits_are_divided_in_the_last_layer():
    network, images = make_network().eval(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        before = network(images)
        divide_logits(network, 2.5)
        torch.testing.assert_close(network(images), before / 2.5)


def test_a_layer_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"head_layer: expected a layer with a weight, got '4' \(Flatten\)"):
        divide_logits(make_network(), 2.0, head_layer="4")


def test_a_calibrated_chain_has_the_likelihood_of_its_best_temperature():
    items = make_items(groups=90)
    for item in items:
        item["image"] = item["image"] - 0.8 * torch.eye(3)[item["label"]][:, None, None]  # no easy task
    trainer = make_chain(items=items, max_epochs=9, calibrate=True, learning_rate=0.02)
    trainer.run()
    assert 0.5 < [record.calibration for record in trainer.records if record.accepted][-1] < 10
    logits, labels = [], []
    trainer.network.eval()
    with torch.no_grad():
        for batch in trainer.walker.evaluator.data_loader:
            logits.append(trainer.network(batch["image"]))
            labels.append(batch["label"])
    assert fit_temperature(torch.cat(logits), torch.cat(labels)) == pytest.approx(1.0, abs=1e-3)
    plain = make_chain(max_epochs=3, accept="always")
    plain.run()
    assert [record.calibration for record in plain.records] == [None] * 3
