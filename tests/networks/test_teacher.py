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
import json
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.engines import SupervisedTrainer

from monai_weckd.handlers import DistillationHandler
from monai_weckd.networks import OnnxNetwork, fingerprint, load_teacher, teacher
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
    with pytest.raises(ValueError, match=r"teacher: expected the state_dict of Linear in .*weights\.pt, got another"):
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
    exported = load_teacher(tmp_path / "network.onnx")
    assert isinstance(exported, OnnxNetwork)
    with torch.inference_mode():
        assert torch.allclose(exported(images), network(images), atol=1e-5)
        assert exported(images[:1]).shape == (1, 4)
    torch.jit.script(network).save(tmp_path / "network.ts")
    with torch.inference_mode():
        torch.testing.assert_close(load_teacher(tmp_path / "network.ts")(images), network(images))


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
@pytest.mark.parametrize("fixed", [1, 3])
def test_a_fixed_batch_takes_any_number_of_images(tmp_path, kind, fixed):
    network, images = make_network(), torch.rand(7, 3, 8, 8)
    path = tmp_path / f"network.{kind}"
    if kind == "onnx":
        torch.onnx.export(network, (images[:fixed],), path, dynamo=True, verbose=False)
    else:
        torch.export.save(torch.export.export(network, (images[:fixed],)), path)
    exported = load_teacher(path).eval()
    with torch.inference_mode():
        for count in (1, 3, 7):
            torch.testing.assert_close(exported(images[:count]), network(images[:count]), atol=1e-5, rtol=1e-5)
        with pytest.raises(ValueError, match=rf"^teacher: expected images of shape \({fixed}, 3, 8, 8\), for which"):
            exported(torch.rand(2, 3, 9, 9))


class Several(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = make_network()

    def forward(self, images):
        return {"logits": self.network(images), "features": [images]}


def test_outputs_of_a_fixed_batch_are_joined(tmp_path):
    images = torch.rand(5, 3, 8, 8)
    torch.export.save(torch.export.export(Several().eval(), (images[:2],)), tmp_path / "network.pt2")
    found = load_teacher(tmp_path / "network.pt2")(images)
    torch.testing.assert_close(found["logits"], make_network()(images))
    torch.testing.assert_close(found["features"][0], images)


@pytest.mark.parametrize("precision", [torch.float16, torch.float64])
@pytest.mark.parametrize("kind", ["module", "onnx", "pt2", "ts", "frozen"])
def test_the_images_get_the_teachers_precision(tmp_path, kind, precision):
    torch.manual_seed(1)
    # onnxruntime has no convolution in double precision
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 4)).to(precision).eval()
    images = torch.rand(4, 3, 8, 8, dtype=precision)
    path = tmp_path / f"network.{kind}"
    if kind == "onnx":
        torch.onnx.export(network, (images,), path, dynamo=True, verbose=False)
    elif kind == "pt2":
        torch.export.save(torch.export.export(network, (images,)), path)
    elif kind == "ts":
        torch.jit.script(network).save(path)
    elif kind == "frozen":
        # a frozen program does not tell its precision: this one converts by itself
        torch.jit.freeze(torch.jit.trace(torch.nn.Sequential(Convert(precision), network).eval(), images)).save(path)
    student = make_network()
    handler = DistillationHandler(network if kind == "module" else path, weight=1.0)
    trainer = SupervisedTrainer(
        "cpu",
        1,
        [{"image": images.float(), "label": torch.tensor([0, 1, 2, 3])}],
        student,
        torch.optim.SGD(student.parameters(), lr=0.1),
        torch.nn.CrossEntropyLoss(),
        train_handlers=[handler],
    )
    trainer.run()
    expected = network(images).float()
    # MONAI's trainer splits its output by image
    found = torch.stack([output["teacher_pred"].float() for output in trainer.state.output])
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-2)


class Convert(torch.nn.Module):
    def __init__(self, precision):
        super().__init__()
        self.precision = precision

    def forward(self, images):
        return images.to(self.precision)


def test_a_network_exported_in_train_mode_is_refused(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten()).train()
    torch.export.save(torch.export.export(network, (torch.rand(2, 3, 8, 8),)), tmp_path / "network.pt2")
    with pytest.raises(ValueError, match=r"^teacher: expected a network that was exported in eval mode, got one in "):
        load_teacher(tmp_path / "network.pt2")


def test_other_inputs_and_outputs_are_refused(tmp_path):
    class Two(torch.nn.Module):
        def forward(self, images, others):
            return images.flatten(1) + others.flatten(1)

    class Classes(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1).argmax(dim=1)

    images = torch.rand(2, 3, 8, 8)
    torch.onnx.export(Two(), (images, images), tmp_path / "two.onnx", dynamo=True, verbose=False)
    torch.onnx.export(Classes(), (images,), tmp_path / "classes.onnx", dynamo=True, verbose=False)
    torch.export.save(torch.export.export(Two(), (images, images)), tmp_path / "two.pt2")
    for name, message in {
        "two.onnx": r"expected one input and logits, both of floating point type, got images: .*, others: ",
        "classes.onnx": r"expected one input and logits, .* -> .*: tensor\(int64\) in",
        "two.pt2": r"expected one input, got 2 in",
    }.items():
        with pytest.raises(ValueError, match=f"^teacher: {message}"):
            load_teacher(tmp_path / name)


@pytest.mark.parametrize("name", ["network.onnx", "network.ONNX", "network.pt2", "network.ts"])
@pytest.mark.parametrize("damage", ["text", "half", "nothing"])
def test_a_damaged_program_is_described_in_one_line(tmp_path, name, damage, capfd):
    path, images = tmp_path / name, torch.rand(2, 3, 8, 8)
    if name == "network.pt2":
        torch.export.save(torch.export.export(make_network(), (images,)), path)
    elif name == "network.ts":
        torch.jit.script(make_network()).save(path)
    else:
        torch.onnx.export(make_network(), (images,), path, dynamo=True, verbose=False, external_data=False)
    content = path.read_bytes()
    path.write_bytes({"text": b"<html>404</html>", "half": content[: len(content) // 2], "nothing": b""}[damage])
    capfd.readouterr()
    with pytest.raises(ValueError, match=r"^teacher: expected ") as caught:
        load_teacher(path, network=make_network())
    assert "Traceback" not in capfd.readouterr().err
    text = str(caught.value)
    assert str(path) in text
    assert "\n" not in text
    assert "weights_only" not in text


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "network.onnx").write_bytes(b"")
    monkeypatch.setattr(teacher, "has_onnxruntime", False)
    with pytest.raises(ImportError, match=r"^teacher: expected the package onnxruntime to read .*, got none\. Install"):
        load_teacher(tmp_path / "network.onnx")


def test_a_bundle_that_cannot_be_built_is_described(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "configs").mkdir()
    torch.save(make_network().state_dict(), tmp_path / "models" / "model.pt")
    for text in ("{", "{}", json.dumps({"network_def": {"_target_": "torch.nn.Linear", "outputs": 3}})):
        (tmp_path / "configs" / "inference.json").write_text(text)
        with pytest.raises(
            ValueError, match=r"^teacher: expected a network_def that can be built in .*inference\.json"
        ):
            load_teacher(tmp_path)


def test_nothing_is_unpickled(tmp_path):
    torch.save(make_network(), tmp_path / "module.pt")
    with pytest.raises(ValueError, match=r"^teacher: expected a file with a network's weights, got a pickle of other"):
        load_teacher(tmp_path / "module.pt", network=make_network())
