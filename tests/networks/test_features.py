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
from monai.data import MetaTensor
from monai.networks.nets import DenseNet121
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils.data import DataLoader

from monai_weckd.networks.features import FeatureHook, HeadHook, extract, find_head, unwrap


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


def test_head_is_the_last_linear_layer(network):
    network.head = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2), torch.nn.Softplus())
    assert find_head(network) == "head.1"
    assert find_head(torch.compile(network)) == "head.1"
    assert find_head(network, "head") == "head"


def test_no_head(network):
    with pytest.raises(ValueError, match=r"^head_layer: expected a torch.nn.Linear in Sequential, got none\. Pass"):
        find_head(network.stem)
    with pytest.raises(ValueError, match=r"^path: expected a module of Sequential, got 'hed'\. Did you mean 'head'"):
        find_head(network, "hed")


def test_head_hook_keeps_the_input_of_the_head(network, images):
    with HeadHook(network) as hook:
        network(images)
        assert hook.path == "head"
        assert torch.equal(hook.features, network[:3](images))


def test_extract_refuses_features_with_space_and_no_images(network, images):
    with pytest.raises(
        ValueError, match=r"^head_layer: expected a layer with an input of shape \(B, D\), got \(2, 3, 4"
    ):
        extract(network, [{"image": image} for image in images], head_layer="pool")
    with pytest.raises(ValueError, match=r"^source: expected at least one image, got none\. Check the data list\."):
        extract(network, [])


class Gathering:
    """A dataset whose items differ from what it gathers, as under random transforms."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"image": self.images[index] + 1}

    def gather(self, indices):
        return self.images[list(indices)]


@pytest.mark.parametrize("kind", ["items", "meta", "gather", "batches", "loader"])
def test_extract_gives_features_and_logits_in_order(network, kind):
    images = torch.randn(7, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    items = [{"image": image} for image in images]
    source = {
        "items": items,
        "meta": [{"image": MetaTensor(image)} for image in images],
        "gather": Gathering(images),
        "batches": iter(images.split(3)),
        "loader": DataLoader(items, batch_size=3),
    }[kind]
    features, logits = extract(network, source, batch_size=3)
    assert type(features) is type(logits) is torch.Tensor
    torch.testing.assert_close(features, network[:3](images))
    torch.testing.assert_close(logits, network(images))
    torch.nn.Linear(3, 1)(features).sum().backward()  # as no tensor of inference mode may


def test_extract_leaves_the_network_and_the_generator_alone():
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 3, 3),
        torch.nn.BatchNorm2d(3),
        torch.nn.Flatten(),
        torch.nn.Dropout(),
        torch.nn.Linear(48, 2),
    )
    network.train()
    network[1].eval()
    before, state = deepcopy(network.state_dict()), torch.get_rng_state()
    features, _ = extract(network, [{"image": torch.ones(1, 6, 6)}] * 3)
    assert torch.equal(features[0], features[2])
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[key]) for key, tensor in network.state_dict().items())
    assert [module.training for module in network] == [True, False, True, True, True]
    assert not any(module._forward_hooks for module in network)


def test_extract_calls_the_network_through_the_inferer(network, images):
    class Doubling:
        def __call__(self, inputs, model):
            return model(2 * inputs)

    features, logits = extract(network, iter([images]), inferer=Doubling())
    torch.testing.assert_close(features, network[:3](2 * images))
    torch.testing.assert_close(logits, network(2 * images))


def test_extract_with_a_head_of_several_layers_in_3d():
    network = DenseNet121(spatial_dims=3, in_channels=1, out_channels=2, init_features=8, growth_rate=4)
    network.class_layers.out = torch.nn.Sequential(
        torch.nn.Linear(network.class_layers.out.in_features, 5), torch.nn.Linear(5, 2)
    )
    features, logits = extract(network, [{"image": torch.rand(1, 32, 32, 32)}] * 2, head_layer="class_layers.out")
    torch.testing.assert_close(network.class_layers.out(features), logits)
