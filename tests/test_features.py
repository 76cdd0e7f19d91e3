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

import gc
import weakref
from collections import OrderedDict
from copy import deepcopy

import pytest
import torch
import torch.distributed as dist
from monai.networks.nets import DenseNet121
from torch.nn.parallel import DataParallel, DistributedDataParallel

from monai_weckd.features import FeatureHook, unwrap


@pytest.fixture
def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        OrderedDict(
            stem=torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.Tanh()),
            pool=torch.nn.AdaptiveAvgPool2d(1),
            flat=torch.nn.Flatten(),
            head=torch.nn.Linear(3, 2),
        )
    )


@pytest.fixture
def images():
    return torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("stm", r"'stm'\. Did you mean 'stem'\?"),
        ("stem.2", r"'stem\.2'\. Did you mean 'stem"),
        (None, r"None\. Valid: "),
    ],
)
def test_unknown_layer_names_the_nearest(network, path, hint):
    with pytest.raises(ValueError, match=f"^path: expected a module of Sequential, got {hint}"):
        FeatureHook(network, path)


def test_no_features_before_the_network_has_run(network):
    hook = FeatureHook(network, "stem")
    with pytest.raises(RuntimeError, match=r"^features: expected an output of the layer 'stem', got none\. Run the"):
        _ = hook.features


def test_refuses_a_layer_whose_output_is_no_tensor():
    network = torch.nn.Sequential(torch.nn.LSTM(2, 2))
    hook = FeatureHook(network, "0")
    network(torch.zeros(3, 1, 2))
    with pytest.raises(TypeError, match=r"^features: expected a tensor from the layer '0', got tuple"):
        _ = hook.features


def test_features_are_the_layers_last_output(network, images):
    hook = FeatureHook(network, "stem.0")
    for batch in (images, images + 1):
        network(batch)
        assert torch.equal(hook.features, network.stem[0](batch))


def test_features_carry_gradients(network, images):
    hook = FeatureHook(network, "stem")
    network(images)
    hook.features.sum().backward()
    assert network.stem[0].weight.grad.abs().sum() > 0


def test_leaves_output_and_state_as_they_are(network, images):
    expected, names = network(images), list(network.state_dict())
    FeatureHook(network, "stem")
    assert torch.equal(network(images), expected)
    assert list(network.state_dict()) == names


def test_monai_network():
    network = DenseNet121(spatial_dims=2, in_channels=1, out_channels=2).eval()
    with FeatureHook(network, "features") as hook, torch.no_grad():
        network(torch.zeros(1, 1, 64, 64))
        assert hook.features.shape == (1, 1024, 2, 2)


def test_clear_lets_go_of_the_graph(network, images):
    hook = FeatureHook(network, "stem")
    network(images)
    features = weakref.ref(hook.features)
    hook.clear()
    gc.collect()
    assert features() is None
    with pytest.raises(RuntimeError, match="'stem'"):
        _ = hook.features
    network(images)
    assert hook.features.shape == (2, 3, 4, 4)


def test_remove_detaches(network, images):
    with FeatureHook(network, "stem") as hook:
        network(images)
    with pytest.raises(RuntimeError, match="'stem'"):
        _ = hook.features
    network(images)
    with pytest.raises(RuntimeError, match="'stem'"):
        _ = hook.features
    assert not network.stem._forward_hooks
    hook.remove()


def test_a_copy_does_not_record_into_the_original(network, images):
    student_hook = FeatureHook(network, "stem")
    network(images)  # a copy is possible also while features, which are no leaf of a graph, are held
    teacher = deepcopy(network)
    expected = student_hook.features
    teacher(images + 1)
    assert student_hook.features is expected
    student_hook.clear()
    teacher(images)
    with pytest.raises(RuntimeError, match="'stem'"):
        _ = student_hook.features


def test_a_copy_has_hooks_of_its_own(network, images):
    student_hook = FeatureHook(network, "stem")
    teacher = deepcopy(network)
    teacher_hook = FeatureHook(teacher, "stem")
    teacher(images + 1)
    network(images)
    assert torch.equal(student_hook.features, network.stem(images))
    assert torch.equal(teacher_hook.features, teacher.stem(images + 1))
    student_hook.remove()
    teacher(images)
    assert torch.equal(teacher_hook.features, teacher.stem(images))


def test_a_copy_does_not_keep_removed_features(network, images):
    hook = FeatureHook(network, "stem")
    network(images)
    features = weakref.ref(hook.features)
    teacher = deepcopy(network)
    hook.remove()
    del hook, network
    gc.collect()
    assert features() is None
    teacher(images)


def test_through_distributed_data_parallel(network, images, process_group):
    wrapped = DistributedDataParallel(network)
    hook = FeatureHook(wrapped, "stem")
    wrapped(images)
    assert torch.equal(hook.features, network.stem[:2](images))
    (hook.features.sum() + wrapped(images).sum()).backward()


# the second batch shows that the compiled code records anew, and does not return what it has traced
@pytest.mark.parametrize("wrap_first", [False, True])
def test_through_compile(network, images, wrap_first):
    wrapped = torch.compile(network, backend="eager") if wrap_first else network
    hook = FeatureHook(wrapped, "stem")
    wrapped = wrapped if wrap_first else torch.compile(network, backend="eager")
    for batch in (images, images + 1):
        wrapped(batch)
        features, expected = hook.features, network.stem[1](network.stem[0](batch))
        torch.testing.assert_close(features, expected)
        hook.clear()
    features.sum().backward()
    assert network.stem[0].weight.grad.abs().sum() > 0


def test_unwrap(network, process_group):
    compiled, parallel = torch.compile(network), DistributedDataParallel(network)
    wrappers = [network, compiled, parallel, torch.compile(parallel), DistributedDataParallel(compiled)]
    for wrapped in [*wrappers, DataParallel(network)]:
        assert unwrap(wrapped) is network
