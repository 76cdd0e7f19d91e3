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

import csv
import json
import re
import shutil

import numpy as np
import pytest
import torch
from bundle_runs import SCRATCH, SHORT_PROBE, SMALL_IMAGES, SOLVED, bundle_of, refusal, run_bundle, train
from monai.bundle import ConfigParser, ckpt_export

from monai_weckd.bundle import BundleConfig, trained_network
from monai_weckd.data import load_datalist
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.networks import EfficientNetLite

BOTH = (*SCRATCH, "pretrained", "two_views")
ITEMS = {"otoscopy": 40, "brain_mri_3d": 20}
STEPS = {"max_epochs": 1, "iterations_per_epoch": 2, "batch_size": 4}


@pytest.fixture(scope="module", params=ITEMS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def dataset(kind, tmp_path_factory):
    return make_phantom(kind, tmp_path_factory.mktemp("phantom") / "data", items=ITEMS[kind])


@pytest.fixture(scope="module")
def solved(kind, dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "solved"
    size = SMALL_IMAGES[kind]
    train(bundle_of(kind), dataset, folder, base=SOLVED, num_stages=2, label_fraction=0.3, test_fraction=0.3, **size)
    return folder


@pytest.fixture(scope="module")
def both(kind, dataset, solved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "both"
    options = {**STEPS, **SHORT_PROBE, **SMALL_IMAGES[kind]}
    train(bundle_of(kind), dataset, folder, base=BOTH, teacher_dir=str(solved), **options)
    return folder


def test_the_labels_are_those_of_the_run_and_its_model_stays(solved, both):
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (solved, both)]
    assert plans[1]["stages"][-1]["labeled"] == plans[0]["stages"][-1]["labeled"]
    assert [plans[1][split] for split in ("train", "test")] == [plans[0][split] for split in ("train", "test")]
    weights, found = (torch.load(folder / "model.pt", weights_only=True) for folder in (solved, both))
    assert all(torch.equal(found[f"solved.{name}"], tensor) for name, tensor in weights.items())


def test_the_other_view_is_fine_tuned_from_pretrained_weights(kind, both):
    found = torch.load(both / "model.pt", weights_only=True)
    dims, channels, scale = (3, 1, 0.45) if kind == "brain_mri_3d" else (2, 3, 1.0)
    start = EfficientNetLite(dims, channels, pretrained=True, input_scale=scale).state_dict()
    assert 0 < (found["tuned.stem.conv.weight"] - start["stem.conv.weight"]).abs().max() < 0.01


def test_what_is_recorded_is_the_mean_of_both(kind, dataset, solved, both):
    bundle, size = bundle_of(kind), SMALL_IMAGES[kind]
    datalist = load_datalist(dataset)
    images_as_trained = BundleConfig(bundle, changes={"dataset_dir": str(dataset), **size})
    parser = images_as_trained.parser
    first = trained_network(solved, bundle=bundle, classes=datalist.classes, parser=parser).eval()
    config = BundleConfig(bundle, overlays=["scratch.json", "pretrained.json"], changes={"dataset_dir": str(dataset)})
    second = config.value("network_def").eval()
    weights = torch.load(both / "model.pt", weights_only=True)
    second.load_state_dict({name[6:]: tensor for name, tensor in weights.items() if name.startswith("tuned.")})
    prepare = images_as_trained.value("train#preprocessing")
    items = {item["id"]: item for item in datalist.items}
    with open(both / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    assert rows
    images = torch.stack([torch.as_tensor(prepare(dict(items[row["id"]]))["image"]).float() for row in rows])
    with torch.no_grad():
        expected = (torch.softmax(first(images), 1) + torch.softmax(second(images), 1)) / 2
    told = [[float(row[f"probability_{name}"]) for name in datalist.classes] for row in rows]
    np.testing.assert_allclose(told, expected.numpy(), atol=2e-2)  # images are kept as bytes


def test_inference_and_evaluation_need_no_monai_weckd(kind, dataset, both, tmp_path):
    bundle = tmp_path / bundle_of(kind).name
    shutil.copytree(bundle_of(kind), bundle, ignore=shutil.ignore_patterns("models", "output"))
    (bundle / "models").mkdir()
    for name in ("model.pt", "chain.json", "datalist.json"):
        shutil.copy(both / name, bundle / "models")
    options = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "out"), **SMALL_IMAGES[kind]}
    options["ckpt_path"] = str(bundle / "models" / "model.pt")
    for name in ("inference", "evaluate"):
        done = run_bundle(bundle, name, overlays=["inference_two_views"], blocked=True, **options)
        assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / "out" / "inference.csv", newline="") as file:
        inferred = {row["file"]: row for row in csv.DictReader(file)}
    with open(both / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for key in (key for key in row if key.startswith("probability_")):
            assert float(row[key]) == pytest.approx(float(inferred[str(dataset / row["id"])][key]), abs=2e-2)


def test_it_exports_as_one_network(kind, both, tmp_path):
    configs = bundle_of(kind) / "configs"
    files = [str(configs / f"{name}.json") for name in ("inference", "inference_two_views")]
    size = SMALL_IMAGES[kind]["spatial_size"]
    channels = 1 if kind == "brain_mri_3d" else 3
    shutil.copy(both / "chain.json", tmp_path)
    shutil.copy(both / "model.pt", tmp_path)
    places = {"bundle_root": str(bundle_of(kind)), "ckpt_path": str(tmp_path / "model.pt"), "spatial_size": size}
    ckpt_export(
        "network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(both / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=files,
        input_shape=[1, channels, *size],
        use_trace=True,
        **places,
    )
    parser = ConfigParser()
    parser.read_config(files)
    parser.read_meta(str(configs / "metadata.json"))
    parser.update(places)
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(both / "model.pt", weights_only=True))
    images = torch.randn(2, channels, *size)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(tmp_path / "model.ts")(images), network(images), rtol=0, atol=1e-4)


def test_a_run_on_images_of_another_size_is_refused(kind, dataset, solved, tmp_path):
    size = [24] * (3 if kind == "brain_mri_3d" else 2)
    options = {"teacher_dir": str(solved), "dataset_dir": str(dataset), "output_dir": str(tmp_path / "out")}
    found = refusal(bundle_of(kind), base=BOTH, spatial_size=size, **options)
    assert re.match(r"preprocessing: expected .*, as the model was trained, got ", found)


def test_a_run_without_a_finished_one_is_refused(kind, dataset, tmp_path):
    found = refusal(bundle_of(kind), base=BOTH, dataset_dir=str(dataset), output_dir=str(tmp_path / "out"))
    assert found.startswith("teacher_dir: expected the output folder of a finished run, got None.")
