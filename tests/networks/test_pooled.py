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

import io
import math
from copy import deepcopy

import pytest
import torch
from monai.networks.nets import ResNet

from monai_weckd.networks import EfficientNetLite, PooledClassifier, StandardizedLinear, extract, find_head

torch.manual_seed(0)
LAYERS = ["stages.2", "stages.4"]


def build(**changes):
    torch.manual_seed(0)
    options = {"input_shape": (3, 64, 64), "layers": LAYERS, "flip_average": [0, 1], "shrink": (1, 2)}
    return PooledClassifier(EfficientNetLite(), 4, **{**options, **changes}).eval()


def pooled(network, image):
    """Return the features of one view, computed step by step."""
    x, found = network.stem(image), []
    for number, stage in enumerate(network.stages):
        x = stage(x)
        if f"stages.{number}" in LAYERS:
            found.append(x.mean(dim=(2, 3)))
    return torch.cat([*found, network.head(x).mean(dim=(2, 3))], dim=1)


def test_features_are_averages_over_places_and_flips_at_each_size():
    network, image = build(), torch.rand(2, 3, 64, 64)
    backbone = network.network
    expected = []
    for view in (image, torch.nn.functional.avg_pool2d(image, 2)):
        flips = [view, view.flip(2), view.flip(3), view.flip(2, 3)]
        expected.append(sum(pooled(backbone, flip) for flip in flips) / 4)
    features, logits = extract(network, iter([image]))
    torch.testing.assert_close(features, torch.cat(expected, dim=1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits, network.classifier(features))


def test_features_are_standardized_and_bounded_before_the_weights():
    layer, features = StandardizedLinear(3, 2), torch.tensor([[1.0, 2.0, 7.0], [-3.0, 1e6, 7.0]])
    layer.fit(mean=torch.tensor([-1.0, 2.0, 7.0]), deviation=torch.tensor([2.0, 4.0, 0.0]))
    far = math.hypot(math.tanh(-1), 1) / 3**0.5
    known = torch.tensor([[3**0.5, 0.0, 0.0], [math.tanh(-1) / far, 1 / far, 0.0]])
    torch.testing.assert_close(layer.standardize(features), known)
    torch.testing.assert_close(layer(features), known @ layer.weight.T + layer.bias)
    other = StandardizedLinear(3, 2)
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(other(features), layer(features))


def test_a_copy_and_a_loaded_state_give_the_same():
    network, image = build(), torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(deepcopy(network)(image), network(image))
    other = PooledClassifier(
        EfficientNetLite(), 4, input_shape=(3, 64, 64), layers=LAYERS, flip_average=[0, 1], shrink=(1, 2)
    ).eval()
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(other(image), network(image))
    assert find_head(network) == "classifier"


def test_it_leaves_no_hook_behind():
    network = build()
    network(torch.rand(1, 3, 64, 64))
    assert not any(module._forward_hooks for module in network.modules())


def test_it_is_exported_by_tracing_and_to_onnx():
    onnxruntime = pytest.importorskip("onnxruntime")
    network, image = build(flip_average=[0], shrink=(2,)), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        traced = torch.jit.trace(network, image)
    torch.testing.assert_close(traced(image), network(image), atol=1e-5, rtol=1e-4)
    file = io.BytesIO()
    torch.onnx.export(network, (image,), file, input_names=["image"], dynamo=False)
    session = onnxruntime.InferenceSession(file.getvalue())
    found = torch.from_numpy(session.run(None, {"image": image.numpy()})[0])
    torch.testing.assert_close(found, network(image).detach(), atol=1e-4, rtol=1e-3)


def test_any_network_and_volumes():
    resnet = ResNet("basic", [1, 1, 1, 1], [4, 8, 8, 8], spatial_dims=3, n_input_channels=1, num_classes=7)
    network = PooledClassifier(
        resnet, 2, input_shape=(1, 16, 16, 16), layers=["layer1"], flip_average=[0], shrink=(1, 2)
    )
    assert network.classifier.in_features == 2 * (4 + 8)
    assert network(torch.rand(3, 1, 16, 16, 16)).shape == (3, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ["stages.99"]}, "layers: expected a module of EfficientNetLite"),
        ({"flip_average": [2]}, "flip_average: expected axes from 0 to 1"),
        ({"shrink": ()}, "shrink: expected factors"),
        ({"input_shape": (3, 64)}, "input_shape: expected"),
        ({"head_layer": "clasifier"}, "head_layer: expected a module of EfficientNetLite, got 'clasifier'"),
    ],
)
def test_it_refuses_what_does_not_fit(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_it_refuses_a_network_without_a_head():
    with pytest.raises(ValueError, match="head_layer: expected a"):
        PooledClassifier(torch.nn.Conv2d(1, 3, 3), 2, input_shape=(1, 8, 8))


@pytest.mark.parametrize("layer", ["0", "1"])
def test_it_refuses_layers_whose_outputs_are_no_maps(layer):
    tokens = torch.nn.Sequential(torch.nn.Flatten(2), torch.nn.GRU(16, 3, batch_first=True), torch.nn.Linear(3, 2))
    with pytest.raises(
        ValueError, match=r"layers: expected outputs \(B, channels, spatial dimensions\), got others from"
    ):
        PooledClassifier(tokens, 2, input_shape=(1, 4, 4), layers=[layer])
