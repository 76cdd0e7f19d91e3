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
import inspect
import json

import monai.transforms
import numpy as np
import pytest
import torch
from monai.data import load_net_with_metadata
from monai.engines import SupervisedTrainer
from small_bundles import NAMES, small_bundle, write_noise

from monai_weckd.handlers import DistillationHandler
from monai_weckd.networks import load_teacher
from monai_weckd.networks.teacher import load_program
from monai_weckd.predict import export
from monai_weckd.predict.export import FORMATS, INTERPOLATION, export_model, sample_images
from monai_weckd.predict.model import PredictionBundle
from monai_weckd.utils.records import read_sealed

IMAGES = torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return PredictionBundle(small_bundle(tmp_path_factory.mktemp("bundles") / "small"))


@pytest.fixture(scope="module", params=[(kind, output) for kind in FORMATS for output in export.OUTPUTS])
def exported(request, bundle, tmp_path_factory):
    kind, output = request.param
    path = tmp_path_factory.mktemp("exported") / f"model{FORMATS[kind][0]}"
    check = export_model(bundle, path, kind=kind, output=output)
    assert (check.real, check.shape) == (False, (3, 16, 24))
    return path, output


def test_a_file_takes_any_number_of_images_and_says_what_it_is(exported, bundle):
    path, output = exported
    network, record = load_program(path)
    with torch.inference_mode():
        logits = bundle.network(IMAGES)
        expected = logits if output == "logits" else torch.softmax(logits, dim=1)
        for count in (1, 2, 5):
            torch.testing.assert_close(network(IMAGES[:count]), expected[:count], atol=1e-5, rtol=1e-5)
    assert getattr(network, "shape", [None])[0] is None  # not one size that is filled up
    assert record["output"] == output
    assert record["classes"] == NAMES
    assert record["weights_sha256"] == hashlib.sha256(bundle.checkpoint.read_bytes()).hexdigest()
    assert record["input"]["shape"] == ["batch", 3, 16, 24]
    assert record["input"]["axes"] == ["batch", "channel", "height", "width"]
    assert record["input"]["channels"] == ["red", "green", "blue"]
    prepared = record["preprocessing"]
    assert (prepared["size"], prepared["interpolation"]) == ([16, 24], "area")
    assert prepared["intensities"] == {"_target_": "NormalizeIntensityd"}
    beside = read_sealed(path.with_name(f"{path.name}.json"), ["file"])
    assert beside["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert {key: beside[key] for key in record} == record


def test_an_output_has_its_name_in_onnx(exported):
    path, output = exported
    if path.suffix != ".onnx":
        return
    network, _ = load_program(path)
    assert [item.name for item in network.session.get_outputs()] == [output]
    assert network.input_name == "image"


def test_monai_reads_its_metadata_from_torchscript(exported):
    path, output = exported
    if path.suffix != ".ts":
        return
    _, metadata, _ = load_net_with_metadata(str(path))
    described = metadata["network_data_format"]
    assert described["outputs"]["pred"]["channel_def"] == dict(zip("012", NAMES, strict=True))
    assert described["outputs"]["pred"]["type"] == output
    assert described["inputs"]["image"]["spatial_shape"] == [16, 24]


def test_a_file_teaches_as_its_network_does(exported, bundle):
    path, _ = exported
    expected = torch.softmax(bundle.network(IMAGES).detach() / 4, dim=1)
    with torch.inference_mode():
        teacher = load_teacher(path, classes=NAMES)
        torch.testing.assert_close(torch.softmax(teacher(IMAGES) / 4, dim=1), expected, atol=1e-5, rtol=1e-4)
    with pytest.raises(
        ValueError, match=r"^teacher: expected the student's classes \['well', .*, got \['ill', 'well', "
    ):
        load_teacher(path, classes=["well", "ill", "=odd"])
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 24, 3))
    trainer = SupervisedTrainer(
        "cpu",
        1,
        [{"image": IMAGES, "label": torch.tensor([0, 1, 2, 0, 1])}],
        student,
        torch.optim.SGD(student.parameters(), lr=0.1),
        torch.nn.CrossEntropyLoss(),
        train_handlers=[DistillationHandler(path, classes=NAMES)],
    )
    trainer.run()
    found = torch.stack([output["teacher_pred"] for output in trainer.state.output])
    torch.testing.assert_close(torch.softmax(found / 4, dim=1), expected, atol=1e-5, rtol=1e-4)


def test_a_certain_teacher_stays_finite():
    class Certain(torch.nn.Module):
        def forward(self, images):
            return torch.tensor([[1.0, 0.0]]).expand(len(images), 2)

    from monai_weckd.networks.teacher import _LogProbabilities

    logits = _LogProbabilities(Certain())(torch.zeros(3, 1))
    assert logits.isfinite().all()
    torch.testing.assert_close(torch.softmax(logits, dim=1), torch.tensor([[1.0, 0.0]]).expand(3, 2))


@pytest.mark.parametrize("kind", ["pt2", "torchscript"])
def test_what_gives_other_numbers_is_not_written(kind, tmp_path):
    sigmoid = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    bundle = PredictionBundle(small_bundle(tmp_path / "bundle", postprocessing=sigmoid))
    path = tmp_path / f"model{FORMATS[kind][0]}"
    message = (
        r"^format: expected the probabilities of .*model\.pt to 0\.0001, got a difference of 0\.\d+ in .* --output l"
    )
    with pytest.raises(ValueError, match=message):
        export_model(bundle, path, kind=kind, output="probabilities")
    assert list(tmp_path.iterdir()) == [bundle.root]
    assert export_model(bundle, path, kind=kind, output="logits", images=IMAGES).real


def test_the_inferer_counts(tmp_path):
    inferer = "$lambda images, network: 2 * network(images)"
    bundle = PredictionBundle(small_bundle(tmp_path / "bundle", inferer=inferer))
    with pytest.raises(
        ValueError, match=r"^format: expected the logits of .* or an inferer that only calls the network"
    ):
        export_model(bundle, tmp_path / "model.ts", kind="torchscript", output="logits")


class AnyPositive(torch.nn.Module):
    """A network that asks the images themselves what to do."""

    def forward(self, images):
        return images.mean(dim=(2, 3)) * [1, 2][int(images.sum() > 0)]


class FixedBatch(torch.nn.Module):
    """A network whose trace knows but one number of images."""

    def forward(self, images):
        return images.reshape(int(images.shape[0]), 3 * 16 * 24)[:, :3]


@pytest.mark.parametrize(("kind", "network"), [("pt2", AnyPositive()), ("torchscript", FixedBatch())])
def test_a_network_that_cannot_be_exported_is_refused_in_one_line(bundle, tmp_path, monkeypatch, kind, network):
    monkeypatch.setattr(bundle, "network", network)
    message = rf"^format: expected a network that PyTorch can export as {kind}, got \w+: .* Pass another of \('pt2', "
    with pytest.raises(ValueError, match=message) as caught:
        export_model(bundle, tmp_path / f"model{FORMATS[kind][0]}", kind=kind, output="logits")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_images_are_taken_evenly_and_bad_ones_passed_over(bundle, tmp_path):
    folder = write_noise(tmp_path / "images", 20)
    paths = sorted(map(str, folder.iterdir()))
    for path in paths[1::2]:
        (folder / path).write_bytes(b"cut")
    found = sample_images(bundle, paths)
    assert found.shape == (8, 3, 16, 24)
    np.testing.assert_array_equal(found[1], bundle.load(paths[2]))
    with pytest.raises(ValueError, match=r"^dataset_dir: expected images that can be read, got none: .*\.png: "):
        sample_images(bundle, paths[1::2])


@pytest.mark.parametrize(
    ("transforms", "axes"),
    [
        ([], ["width", "height"]),
        ([{"_target_": "Transposed", "indices": [0, 2, 1]}] * 2, ["width", "height"]),
        ([{"_target_": "Orientationd", "axcodes": "RAS"}], ["x to R", "y to A", "z to S"]),
    ],
)
def test_axes_follow_the_transforms(transforms, axes):
    assert export._axes(transforms, len(axes)) == axes


def test_metadata_of_a_network_for_any_size_needs_images(tmp_path):
    root = small_bundle(tmp_path / "bundle")
    config = json.loads((root / "configs" / "inference.json").read_text())
    config["preprocessing"]["transforms"][2]["spatial_size"] = [16, 24]
    del config["spatial_size"]
    (root / "configs" / "inference.json").write_text(json.dumps(config))
    metadata = json.loads((root / "configs" / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = ["8*n", "8*n"]
    (root / "configs" / "metadata.json").write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"^dataset_dir: expected images, since the network takes any size"):
        export_model(PredictionBundle(root), tmp_path / "model.ts", kind="torchscript", output="logits")


@pytest.mark.parametrize("name", INTERPOLATION)
def test_the_interpolation_that_no_transform_names_is_that_of_monai(name):
    assert str(inspect.signature(getattr(monai.transforms, name)).parameters["mode"].default) == INTERPOLATION[name]
