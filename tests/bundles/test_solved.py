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
from collections import Counter

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, OTOSCOPY, SCRATCH, SMALL_IMAGES, SOLVED, refusal, run_bundle, train
from monai.bundle import ConfigParser

from monai_weckd.cli.main import main
from monai_weckd.handlers import ChainRecorder
from monai_weckd.predict.kind import read_kind
from monai_weckd.predict.model import PredictionBundle
from monai_weckd.predict.sets import ConformalSets
from monai_weckd.utils.files import finish_writing
from monai_weckd.utils.tables import read_table

CHAIN = {"num_stages": 2, "label_fraction": 0.3, "selection": "typical", **SMALL_IMAGES["otoscopy"]}


def forget_splits(folder):
    """Remove the column of the splits from a manifest, so that nothing is held out of a small set."""
    path = folder / "manifest.csv"
    rows = [{key: row[key] for key in ("file", "label", "group")} for row in read_table(path.read_text(), ["group"])]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, ["file", "label", "group"])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def dataset(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("phantom") / "data", 40)


@pytest.fixture(scope="module")
def output(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "output"
    train(OTOSCOPY, dataset, folder, base=SOLVED, **CHAIN)
    return folder


def test_each_stage_is_solved_and_cross_validated(output):
    chain = json.loads((output / "chain.json").read_text())
    assert chain["settings"]["network"] == "PooledClassifier"
    for stage in chain["stages"]:
        assert stage["epochs"] == 1
        assert stage["out_of_fold"]["labels"] <= stage["labeled"]
        assert stage["out_of_fold"]["penalty"] > 0
    assert chain["stages"][0]["labeled"] < chain["stages"][1]["labeled"]


def test_each_label_is_kept_as_predicted_when_its_group_was_held_out(output):
    chain = json.loads((output / "chain.json").read_text())
    plan = json.loads((output / "plan.json").read_text())
    columns = [f"probability_{name}" for name in chain["classes"]]
    for stage, planned in zip(chain["stages"], plan["stages"], strict=True):
        rows = read_table((output / f"stage_{stage['stage']}" / "out_of_fold.csv").read_text(), ["id", "group"])
        assert {row["id"] for row in rows} == set(planned["labeled"])
        known = [row for row in rows if row[columns[0]]]
        assert len(known) == stage["out_of_fold"]["labels"]
        right = [row["label"] == chain["classes"][np.argmax([float(row[name]) for name in columns])] for row in known]
        assert sum(right) == pytest.approx(len(known) * stage["out_of_fold"].get("accuracy", 0))
    last = (output / f"stage_{chain['final']['stage']}" / "out_of_fold.csv").read_bytes()
    assert (output / "out_of_fold.csv").read_bytes() == last
    sets = ConformalSets(output / "model.pt", chain["classes"], 0.5)
    assert sets.labels == chain["stages"][chain["final"]["stage"] - 1]["labeled"]


def test_images_of_the_training_are_of_its_kind(dataset, tmp_path):
    data, output = shutil.copytree(dataset, tmp_path / "data"), tmp_path / "output"
    forget_splits(data)
    train(OTOSCOPY, data, output, base=SOLVED, **CHAIN)
    kind = read_kind(output / "model.pt")
    plan = json.loads((output / "plan.json").read_text())
    assert len(kind.features) == len(plan["train"])
    chain = json.loads((output / "chain.json").read_text())
    bundle = PredictionBundle(
        OTOSCOPY, output / "model.pt", changes={"spatial_size": chain["settings"]["spatial_size"]}
    )
    images = torch.stack([bundle.load(str(dataset / name)) for name in plan["train"][:8]])
    _, features = bundle.predict_features(images)
    assert (kind.distances(features) <= kind.limit).all()
    assert kind.distances(bundle.predict_features(torch.zeros_like(images[:1]))[1]) > kind.limit


def test_resumed_after_a_stage_was_solved_it_is_the_same(dataset, output, tmp_path, monkeypatch):
    folder = tmp_path / "output"

    def stop(self, engine):
        finish_writing(folder / "checkpoint.pt")
        raise OSError("the power is off")

    with monkeypatch.context() as patch:
        patch.setattr(ChainRecorder, "_end_stage", stop)  # the stage is solved, but not yet written down
        with pytest.raises(RuntimeError, match="the power is off"):
            train(OTOSCOPY, dataset, folder, base=SOLVED, **CHAIN)
    chain = train(OTOSCOPY, dataset, folder, base=SOLVED, resume=True, **CHAIN)
    whole = json.loads((output / "chain.json").read_text())
    assert [stage["out_of_fold"] for stage in chain["stages"]] == [stage["out_of_fold"] for stage in whole["stages"]]
    assert [stage["sha256"] for stage in chain["stages"]] == [stage["sha256"] for stage in whole["stages"]]
    assert (folder / "out_of_fold.csv").read_bytes() == (output / "out_of_fold.csv").read_bytes()


def test_embeddings_in_a_file_serve_the_next_run(dataset, output, tmp_path):
    for name in ("one", "two"):
        train(OTOSCOPY, dataset, tmp_path / name, base=SOLVED, cache_dir=tmp_path / "cache", **CHAIN)
    expected, *found = (read_table((path / "predictions.csv").read_text()) for path in (output, tmp_path / "one"))
    names = [key for key in expected[0] if key.startswith("probability_")]
    for row, other in zip(expected, *found, strict=True):
        # computed in other batches
        assert [float(row[name]) for name in names] == pytest.approx([float(other[name]) for name in names], abs=1e-3)
    assert (tmp_path / "one" / "predictions.csv").read_bytes() == (tmp_path / "two" / "predictions.csv").read_bytes()
    # the images of training are kept in bytes, those of validation and test in half precision
    assert len(list((tmp_path / "cache").glob("embeddings_*"))) == 2


@pytest.mark.parametrize("kind", ["otoscopy", "blood_smear", "brain_mri", "brain_mri_3d"])
def test_inference_has_the_network_of_training(kind):
    train_network, inference_network = (
        ConfigParser.load_config_file(str(BUNDLES / f"{kind}_chain_classification" / "configs" / f"{name}.json"))
        for name in ("train", "inference")
    )
    assert train_network["spatial_size"] == inference_network["spatial_size"]
    ours, theirs = train_network["network_def"], inference_network["network_def"]
    assert {key: ours[key] for key in ("layers", "flip_average", "shrink", "input_shape")} == {
        key: theirs[key] for key in ("layers", "flip_average", "shrink", "input_shape")
    }
    assert ours["network"]["spatial_dims"] == theirs["network"]["spatial_dims"]


@pytest.mark.parametrize(("base", "options"), [(SOLVED, {}), (SCRATCH, {"max_epochs": 4})])
def test_twenty_labels_and_nothing_held_out(base, options, dataset, tmp_path):
    data = shutil.copytree(dataset, tmp_path / "data")
    forget_splits(data)
    output = tmp_path / "out"
    chain = train(OTOSCOPY, data, output, base=base, report=True, **CHAIN, **options)
    assert chain["label_budget"]["val"] == 0
    assert chain["final"]["test"] is None
    assert all(stage["accepted"] and stage["val"] is None and stage["test"] is None for stage in chain["stages"])
    assert (output / "predictions.csv").read_text().count("\n") == 1
    assert json.loads((output / "datalist.json").read_text()) == {}
    assert torch.load(output / "model.pt", weights_only=True)
    assert (output / "report.html").is_file()


@pytest.mark.slow
def test_a_larger_variant_is_one_key_in_training_predict_and_export(dataset, tmp_path, capsys):
    key, output = "network_def#network#variant", tmp_path / "output"
    train(OTOSCOPY, dataset, output, base=SOLVED, **CHAIN, **{key: "lite1"})
    size = json.loads((output / "chain.json").read_text())["settings"]["spatial_size"]
    model = ["--bundle", str(OTOSCOPY), "--ckpt", str(output / "model.pt"), "--set", f"spatial_size={size}"]
    images = ["--input", str(dataset), "--output"]
    assert main(["predict", *model, *images, str(tmp_path / "refused.csv")]) != 0
    assert "Pass the overlay or --set of its training" in capsys.readouterr().err
    model += ["--set", f"{key}=lite1"]
    assert main(["predict", *model, *images, str(tmp_path / "predictions.csv")]) == 0
    found = {row["file"]: row for row in read_table((tmp_path / "predictions.csv").read_text())}
    for row in read_table((output / "predictions.csv").read_text()):
        names = [name for name in row if name.startswith("probability_")]
        expected = [float(row[name]) for name in names]
        # training keeps images in bytes
        assert [float(found[row["id"]][name]) for name in names] == pytest.approx(expected, abs=2e-2)
    assert main(["export", *model, "--dataset_dir", str(dataset), "--to", str(tmp_path / "model.pt2")]) == 0


@pytest.fixture(scope="module")
def patients(dataset, tmp_path_factory):
    """Train on the ears of a set, all images of one pooled."""
    folder = tmp_path_factory.mktemp("patients") / "output"
    shape = {"spatial_size": [32, 32], "num_stages": 2, "label_fraction": 0.4}
    train(OTOSCOPY, dataset, folder, base=SOLVED, **shape, **{"datalist#item_level": "patient"})
    return folder


def test_a_chain_trains_on_patients_and_predicts_them(dataset, patients, tmp_path, capsys):
    chain = json.loads((patients / "chain.json").read_text())
    assert chain["settings"]["item_level"] == "patient"
    rows = read_table((dataset / "manifest.csv").read_text())
    counts = Counter(row["group"] for row in rows)
    plan = json.loads((patients / "plan.json").read_text())
    assert {*plan["train"], *plan["val"], *plan["test"]} == set(counts)
    assert chain["label_budget"]["train"] == len(plan["stages"][-1]["labeled"]) <= len(plan["train"])
    held_out = read_table((patients / "out_of_fold.csv").read_text())
    assert {row["id"] for row in held_out} == set(plan["stages"][-1]["labeled"])
    known = {row["id"]: row for row in read_table((patients / "predictions.csv").read_text())}
    assert {name: int(row["images"]) for name, row in known.items()} == {name: counts[name] for name in known}
    assert not (patients / "datalist.json").exists()
    model = ["--bundle", str(OTOSCOPY), "--ckpt", str(patients / "model.pt"), "--set", "spatial_size=[32,32]"]
    table = tmp_path / "predictions.csv"
    assert main(["predict", *model, "--input", str(dataset), "--output", str(table)]) == 0
    assert f"items   {len(rows)} images in {len(counts)} patients, whose features are pooled" in capsys.readouterr().out
    found = {row["file"]: row for row in read_table(table.read_text())}
    assert {name: int(row["images"]) for name, row in found.items()} == counts
    for name, row in known.items():
        assert found[name]["patient"] == name
        columns = [column for column in row if column.startswith("probability_")]
        expected = [float(row[column]) for column in columns]
        # training keeps images in bytes
        assert [float(found[name][column]) for column in columns] == pytest.approx(expected, abs=2e-2)
    assert main(["export", *model, "--to", str(tmp_path / "model.pt2")]) == 1
    assert "ckpt: expected a model of single images, got one that pools all images of each patient" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("config", ["inference", "evaluate"])
def test_stock_monai_refuses_a_model_of_patients(dataset, patients, config):
    options = {"dataset_dir": str(dataset), "ckpt_path": str(patients / "model.pt")}
    done = run_bundle(OTOSCOPY, config, **options)
    assert done.returncode != 0
    assert "ckpt_path: expected a model of single images, got one that pools all images of each item" in done.stderr


def test_a_network_is_not_trained_step_by_step_on_patients(dataset, tmp_path):
    options = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "output"), "spatial_size": [16, 16]}
    shape = {"num_stages": 1, "label_fraction": 1.0, "datalist#item_level": "patient"}
    line = refusal(OTOSCOPY, **options, **shape)
    assert line.startswith("item_level: expected 'image' to train a network step by step, got items of several images.")
