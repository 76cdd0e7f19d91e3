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
from chain_runs import make_network
from stock_chains import distilling

from monai_weckd.engines.feature_check import check_features
from monai_weckd.handlers import DistillationHandler


class Last(torch.nn.Module):
    def forward(self, features):
        return features.permute(0, 2, 3, 1)


class First(torch.nn.Module):
    def forward(self, features):
        return features.permute(0, 3, 1, 2)


class Recomputed(torch.nn.Sequential):
    def forward(self, images):
        return torch.utils.checkpoint.checkpoint(super().forward, images.requires_grad_(), use_reentrant=True)


class Detached(torch.nn.Module):
    def forward(self, features):
        return features.detach()


@pytest.mark.parametrize(
    ("kind", "layer", "message"),
    [
        ("last", "1", "channels come last"),
        ("reentrant", "0.0.0", "takes no gradient"),
        ("detached", "1", "takes no gradient"),
        ("frozen", "0", "takes no gradient"),
        ("plain", "3", r"features of several positions, got \(8, 8, 1, 1\)"),
        ("plain", "4", r"features \(B, C, spatial dimensions\), got \(8, 8\)"),
        ("plain", "nowhere", "expected a module of Sequential, got 'nowhere'"),
    ],
)
def test_features_that_teach_nothing_are_refused(kind, layer, message):
    def network(seed):
        layers = make_network(seed)
        layers[0].requires_grad_(kind != "frozen")
        if kind == "reentrant":
            return torch.nn.Sequential(Recomputed(torch.nn.Sequential(layers[0], torch.nn.ReLU())), *layers[1:])
        more = {"last": [Last(), First()], "detached": [Detached()]}.get(kind, [])
        return torch.nn.Sequential(layers[0], *more, *layers[1:])

    trainer = distilling(network(0), DistillationHandler(network(1), attention_weight=1.0, student_layer=layer))
    with pytest.raises(ValueError, match=message):
        trainer.run()


@pytest.mark.parametrize(
    ("features", "images"),
    [
        ((8, 3, 3), (28, 29)),
        ((2, 5, 4, 6), (40, 33, 47)),
        ((8, 4, 2), (64, 32)),
    ],
)
def test_feature_maps_of_about_one_stride_pass(features, images):
    check_features(torch.zeros(1, *features, requires_grad=True), torch.zeros(1, 3, *images), "layer")


def test_what_takes_no_gradient_will_do_where_none_is_taken():
    with torch.no_grad():
        check_features(torch.zeros(1, 8, 3, 3), torch.zeros(1, 3, 28, 28), "layer")
