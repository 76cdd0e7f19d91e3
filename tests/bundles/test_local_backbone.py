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


"""A network from a folder in each command: small untrained ones, as transformers writes them."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil

import pytest
import torch
from annotation_runs import class_of, label_next, make_annotated
from backbone_folders import write
from bundle_runs import BUNDLES, KINDS, OTOSCOPY, SCRATCH, SMALL_IMAGES, SOLVED, refusal, run_bundle, train
from monai.bundle import ConfigParser
from process_copies import run_module
from safetensors.torch import load_file

from monai_weckd.compare.arms import ARMS
from monai_weckd.compare.folds import cross_validation_splits
from monai_weckd.compare.running import execute
from monai_weckd.compare.schedule import plan_runs
from monai_weckd.compare.store import RunStore
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.data.phantoms import make_phantom

SIZE = [56, 56]
CHAIN = {"num_stages": 2, "label_fraction": 0.3, "selection": "typical", "spatial_size": SIZE}
HUBCONF = """
from torch import nn

def small(**options):
    layers = nn.Conv2d(3, 8, 16, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 8)
    network = nn.Sequential(*layers)
    network.add_module("head", nn.Identity())
    return network
"""
LOCAL, INFERENCE = "local_backbone", "inference_local_backbone"


@pytest.fixture(scope="module")
def dataset(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("phantom") / "data", 40)


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return write(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture(scope="module")
def output(dataset, dinov2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "output"
    options = {"backbone_path": str(dinov2), "network_def#network#layers": [2], **CHAIN}
    train(OTOSCOPY, dataset, folder, base=SOLVED, overlays=[LOCAL], **options)
    return folder


def test_a_frozen_network_keeps_its_weights_and_its_digest_is_recorded(output, dinov2):
    found = torch.load(output / "model.pt", weights_only=True)
    for name, tensor in load_file(dinov2 / "model.safetensors").items():
        if "attention" not in name:  # which transformers stores by other names
            assert torch.equal(found[f"network.network.{name}"], tensor)
    record = json.loads((output / "chain.json").read_text())["backbone"]
    known = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in dinov2.iterdir()}
    assert record["files"] == known
    assert record["options"]["layers"] == [2]
    assert found["classifier.weight"].shape == (4, 128)


def test_inference_needs_neither_the_folder_nor_monai_weckd(output, dataset, tmp_path):
    options = {"dataset_dir": str(dataset), "output_dir": str(tmp_path), "spatial_size": SIZE}
    options["ckpt_path"] = str(output / "model.pt")
    for name in ("inference", "evaluate"):
        shutil.copy(output / "datalist.json", tmp_path)
        done = run_bundle(OTOSCOPY, name, overlays=[INFERENCE], blocked=True, **options)
        assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / "inference.csv", newline="") as file:
        inferred = {row["file"]: row for row in csv.DictReader(file)}
    with open(output / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for key in (key for key in row if key.startswith("probability_")):
            assert float(row[key]) == pytest.approx(float(inferred[str(dataset / row["id"])][key]), abs=2e-2)


@pytest.mark.parametrize(
    "command", [["predict", "--input"], *(["export", "--format", name, "--dataset_dir"] for name in ("pt2", "onnx"))]
)
def test_the_commands_take_its_model(command, output, dataset, tmp_path):
    if "onnx" in command:
        pytest.importorskip("onnxruntime", reason='ONNX is not installed: pip install ".[export]"')
    for name in ("model.pt", "chain.json"):
        shutil.copy(output / name, tmp_path)
    words = ["monai_weckd", *command, dataset, "--bundle", OTOSCOPY, "--ckpt", tmp_path / "model.pt"]
    words += ["--config_file", f"{INFERENCE}.json", "--set", "spatial_size=[56,56]"]
    # fewer flips make a smaller program, which is compared with a network that has as few
    words += ["--output", tmp_path / "out.csv"] if "predict" in command else ["--set", "network_def#flip_average=[]"]
    done = run_module(words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "checked on 8 images" in done.stdout or "40 read" in done.stdout


def test_a_network_that_is_not_frozen_is_fine_tuned(dataset, dinov2, tmp_path):
    options = {"backbone_path": str(dinov2), "spatial_size": SIZE, "learning_rate": 1e-4, "selection": "random"}
    options["missing_classes"] = "allow"
    train(OTOSCOPY, dataset, tmp_path / "out", base=SCRATCH, overlays=[LOCAL], num_stages=1, **options)
    found = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    start = load_file(dinov2 / "model.safetensors")
    for name in ("embeddings.cls_token", "encoder.layer.3.mlp.fc1.weight"):
        assert 0 < (found[f"network.network.{name}"] - start[name]).abs().max() < 0.01


def test_volumes_in_slices(tmp_path):
    data = make_phantom("brain_mri_3d", tmp_path / "heads", items=24)
    options = {"backbone_path": str(write(tmp_path / "clip", "clip")), "network_def#network#slice_size": 32}
    bundle, small = BUNDLES / "brain_mri_3d_chain_classification", SMALL_IMAGES["brain_mri_3d"]
    changes = {"num_stages": 1, "label_fraction": 0.5, "selection": "random", "missing_classes": "allow"}
    chain = train(bundle, data, tmp_path / "out", base=SOLVED, overlays=[LOCAL], **options, **small, **changes)
    assert chain["backbone"]["options"]["slices"] == 10
    assert torch.load(tmp_path / "out" / "model.pt", weights_only=True)["classifier.weight"].shape[1] == 6 * 64
    places = {"dataset_dir": str(data), "ckpt_path": str(tmp_path / "out" / "model.pt")}
    done = run_bundle(bundle, "inference", overlays=[INFERENCE], output_dir=str(tmp_path / "new"), **places, **small)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "new" / "inference.csv").read_text().count("\n") == 25


def test_the_labeling_program_takes_it(copy_ears, dinov2, tmp_path):
    studies = copy_ears(tmp_path / "studies", 40)
    (studies / "manifest.csv").unlink()
    settings = {"overlays": [f"{LOCAL}.json"], "backbone_path": str(dinov2), "spatial_size": SIZE}
    chain, items = make_annotated(studies, tmp_path / "out", settings=settings, val_fraction=0.0)
    labels = {}
    label_next(chain, items, labels, 12)
    chain.append_stage(items, labels)
    assert {class_of(key) for key in labels} <= set(chain.bundle.classes)
    assert (
        json.loads((tmp_path / "out" / "chain" / "chain.json").read_text())["backbone"]["config"]["hidden_size"] == 32
    )


def test_it_is_compared_with_a_control(dataset, dinov2, tmp_path):
    changes = {"backbone_path": str(dinov2), "spatial_size": SIZE, "label_fraction": 0.3, "num_stages": 1}
    changes |= {"selection": "random", "missing_classes": "allow"}
    bundle = ComparedBundle(OTOSCOPY, dataset, overlays=[f"{LOCAL}.json"], changes=changes)
    splits = cross_validation_splits(bundle.datalist.items, folds=2, label_fraction=0.3, val_labels=0)[:1]
    for run in plan_runs(bundle, [ARMS["chain"], ARMS["solved"]], splits, [0]):
        result = execute(run, bundle, RunStore(tmp_path), cache_dir=tmp_path / "cache")
        assert "error" not in result
        assert 0 <= result["test"]["balanced_accuracy"] <= 1


def test_it_teaches_the_small_network(output, dataset, tmp_path):
    options = {"teacher_dir": str(output), "num_stages": 1, "max_epochs": 1}
    chain = train(OTOSCOPY, dataset, tmp_path / "small", overlays=["compact"], **options)
    assert chain["settings"]["network"] == "ResNet"
    assert chain["backbone"] is None


def test_a_torch_hub_repository_is_run_if_an_overlay_says_so(dataset, tmp_path):
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "hubconf.py").write_text(HUBCONF)
    load = {"_target_": "torch.hub.load", "repo_or_dir": str(tmp_path / "hub"), "model": "small", "source": "local"}
    changes = {"network_def#network": load, "network_def#layers": [], "network_def#head_layer": "head"}
    changes["train#trainer#student_layer"] = "network.0"
    train(OTOSCOPY, dataset, tmp_path / "out", base=SOLVED, **changes, **CHAIN)
    found = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    assert found["network.0.weight"].shape == (8, 3, 16, 16)


def test_without_a_folder_it_is_refused_before_a_label_is_read(dataset, tmp_path):
    found = refusal(OTOSCOPY, base=SOLVED, overlays=[LOCAL], dataset_dir=str(dataset), output_dir=str(tmp_path / "o"))
    assert found == "path: expected a folder with a vision network, got None. Pass backbone_path."


@pytest.mark.parametrize("kind", KINDS)
def test_inference_pools_as_training_does(kind):
    configs = BUNDLES / f"{kind}_chain_classification" / "configs"
    ours, theirs = (ConfigParser.load_config_file(str(configs / f"{name}.json")) for name in (LOCAL, INFERENCE))
    assert ours.get("spatial_size") == theirs.get("spatial_size")
    for key in ("flip_average", "input_shape"):
        assert ours["network_def"][key] == theirs["network_def"][key]
