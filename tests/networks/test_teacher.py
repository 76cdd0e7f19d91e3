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

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer

from monai_weckd.handlers import DistillationHandler
from monai_weckd.networks import OnnxNetwork, fingerprint, load_teacher
from monai_weckd.utils.records import sealed_json

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def make_network(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()


def test_args_validation(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"teacher: expected a network, .* got .*absent\.pt, which is not"):
        load_teacher(tmp_path / "absent.pt")
    torch.save(make_network().state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"network: expected the network of the weights in weights\.pt, got None"):
        load_teacher(tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"teacher: expected the state_dict of Linear in weights\.pt, got another"):
        load_teacher(tmp_path / "weights.pt", network=torch.nn.Linear(2, 2))
    with pytest.raises(FileNotFoundError, match=r"expected a bundle with models/model\.pt, got"):
        load_teacher(tmp_path)


def test_weights_go_into_a_copy(tmp_path):
    network, trained = make_network(0), make_network(1)
    torch.save(trained.state_dict(), tmp_path / "weights.pt")
    before = fingerprint(network)
    assert fingerprint(load_teacher(tmp_path / "weights.pt", network=network)) == fingerprint(trained)
    assert fingerprint(network) == before
    assert load_teacher(network) is network


def test_classes_in_another_order_are_refused(tmp_path):
    network = make_network()
    torch.save(network.state_dict(), tmp_path / "model.pt")
    digest = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    chain = {"classes": list("abcd"), "settings": {}, "preprocessing": None, "stages": [], "final": {"stage": 1}}
    chain["final"]["sha256"] = digest
    (tmp_path / "chain.json").write_text(sealed_json(chain, indent=1))
    for classes in (None, list("abcd")):
        load_teacher(tmp_path / "model.pt", network=network, classes=classes)
    message = r"teacher: expected the student's classes \['b', 'a', 'c', 'd'\] in their order, got \['a', 'b', 'c', '"
    with pytest.raises(ValueError, match=message):
        load_teacher(tmp_path / "model.pt", network=network, classes=list("bacd"))
    trainer = SupervisedTrainer(
        "cpu",
        1,
        [{"image": torch.zeros(2, 3, 8, 8), "label": torch.tensor([0, 1])}],
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        torch.nn.CrossEntropyLoss(),
        train_handlers=[DistillationHandler(tmp_path / "model.pt", classes=list("bacd"))],
    )
    with pytest.raises(ValueError, match=message):
        trainer.run()
    # another model under the same chain
    torch.save(make_network(1).state_dict(), tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt: expected a model of the chain\.json beside it, got another one"):
        load_teacher(tmp_path / "model.pt", network=network, classes=list("abcd"))


def test_a_bundles_metadata_names_its_classes(tmp_path):
    bundle = BUNDLES / "otoscopy_chain_classification"
    for folder in ("configs", "networks"):
        shutil.copytree(bundle / folder, tmp_path / folder)
    parser = ConfigParser()
    parser.read_meta(bundle / "configs" / "metadata.json")
    parser.read_config(bundle / "configs" / "inference.json")
    parser["bundle_root"] = str(bundle)
    (tmp_path / "models").mkdir()
    torch.save(parser.get_parsed_content("network_def").state_dict(), tmp_path / "models" / "model.pt")
    names = list(parser["_meta_#network_data_format#outputs#pred#channel_def"].values())
    assert load_teacher(tmp_path, classes=names)
    with pytest.raises(ValueError, match=r"teacher: expected the student's classes .* in their order, got"):
        load_teacher(tmp_path, classes=names[::-1])


def test_an_exported_network_says_the_same(tmp_path):
    network, images = make_network(), torch.rand(4, 3, 8, 8)
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        network, (images,), tmp_path / "network.onnx", dynamo=True, dynamic_shapes=[{0: batch}], verbose=False
    )
    teacher = load_teacher(tmp_path / "network.onnx")
    assert isinstance(teacher, OnnxNetwork)
    with torch.inference_mode():
        assert torch.allclose(teacher(images), network(images), atol=1e-5)
        assert teacher(images[:1]).shape == (1, 4)
    torch.jit.script(network).save(tmp_path / "network.ts")
    with torch.inference_mode():
        torch.testing.assert_close(load_teacher(tmp_path / "network.ts")(images), network(images))


def test_nothing_is_unpickled(tmp_path):
    torch.save(make_network(), tmp_path / "module.pt")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        load_teacher(tmp_path / "module.pt", network=make_network())
