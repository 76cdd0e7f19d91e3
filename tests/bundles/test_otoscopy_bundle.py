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
import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import OTOSCOPY, SMALL, arguments_of, assert_the_gate_fits, refusal, run_bundle, run_python, train
from monai.bundle import ConfigParser
from monai.data import load_decathlon_datalist
from monai.networks.nets import EfficientNetBN
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from monai_weckd.inferers import has_bfloat16
from monai_weckd.utils.tables import read_table

METRICS = {"accuracy", "balanced_accuracy", "macro_f1", "macro_auc", "ece"}


@pytest.fixture(scope="module")
def dataset(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("phantom") / "data", 96)


@pytest.fixture(scope="module")
def output(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "output"
    train(OTOSCOPY, dataset, path, report=True)
    return path


def load_network(output):
    parser = ConfigParser()
    parser.read_config([str(OTOSCOPY / "configs" / f"{name}.json") for name in ("inference", "inference_scratch")])
    parser.read_meta(str(OTOSCOPY / "configs" / "metadata.json"))
    parser["ckpt_path"] = str(output / "model.pt")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(output / "model.pt", weights_only=True), strict=True)
    return network


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_output_dir_holds_what_was_promised(output):
    names = {path.name for path in output.iterdir()}
    assert names >= {
        "plan.json",
        "chain.json",
        "history.json",
        "predictions.csv",
        "model.pt",
        "report.html",
        "tensorboard",
    }
    assert all((output / f"stage_{stage}" / "model.pt").exists() for stage in (1, 2, 3))
    assert not list(output.rglob("*.part"))
    assert list((output / "tensorboard").glob("events.out.tfevents.*"))


def test_chain_json_says_who_learned_what(output):
    chain = json.loads((output / "chain.json").read_text())
    plan = json.loads((output / "plan.json").read_text())
    assert chain["classes"] == ["chronic_otitis_media", "earwax_plug", "myringosclerosis", "normal"]
    assert chain["label_budget"]["val"] == len(plan["val"])
    assert len(chain["stages"]) == 3
    for stage, planned in zip(chain["stages"], plan["stages"], strict=True):
        assert stage["labeled"] == len(planned["labeled"])
        assert stage["checkpoint"] == f"stage_{stage['stage']}/model.pt"
        assert set(stage["val"]) == set(stage["test"]) == METRICS
        assert stage["seconds"] > 0
        assert isinstance(stage["accepted"], bool)
    accepted = [stage for stage in chain["stages"] if stage["accepted"]][-1]
    assert chain["final"] == {key: accepted[key] for key in ("stage", "test", "sha256")}
    purposes = [line["purpose"] for line in chain["ledger"]]
    assert purposes == ["shard", "shard", "shard", "validation", "test"]


def test_the_model_is_the_accepted_student_and_its_figures_are_right(output):
    chain = json.loads((output / "chain.json").read_text())
    model = torch.load(output / "model.pt", weights_only=True)
    student = torch.load(output / f"stage_{chain['final']['stage']}" / "model.pt", weights_only=True)
    assert all(torch.equal(model[key], student[key]) for key in student)
    load_network(output)
    with open(output / "predictions.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    labels, predicted = [row["label"] for row in rows], [row["predicted"] for row in rows]
    assert chain["final"]["test"]["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert chain["final"]["test"]["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_the_gate_compares_the_figures_that_it_reports(dataset, tmp_path):
    # calibration, which follows the gate, moves probabilities and with them the figures
    chain = train(OTOSCOPY, dataset, tmp_path / "out", **{"chain#calibrate": False})
    assert [stage["gate"]["metric"] for stage in chain["stages"]] == ["val_macro_auc"] * 3
    assert_the_gate_fits(chain, tmp_path / "out")


@pytest.fixture(scope="module")
def overwritten(dataset, output, tmp_path_factory):
    """Return the folder of the run after it has been overwritten by one with another seed."""
    copy = tmp_path_factory.mktemp("overwritten") / "output"
    shutil.copytree(output, copy)
    (copy / "notes.txt").write_text("mine")
    train(OTOSCOPY, dataset, copy, overwrite=True, seed=1)
    return copy


def test_same_command_same_bits_other_seed_other_bits(dataset, output, overwritten, tmp_path):
    train(OTOSCOPY, dataset, tmp_path / "again")
    assert digest(tmp_path / "again" / "model.pt") == digest(output / "model.pt")
    assert digest(overwritten / "model.pt") != digest(output / "model.pt")


def test_paper_preset_runs(dataset, tmp_path):
    chain = train(OTOSCOPY, dataset, tmp_path / "paper", overlays=["paper"])
    assert all(stage["accepted"] for stage in chain["stages"])
    assert len({stage["labeled"] for stage in chain["stages"]}) == 1
    assert chain["ledger"][0]["purpose"] == "stratification"
    history = json.loads((tmp_path / "paper" / "history.json").read_text())["epochs"]
    assert history[0]["attention_loss"] is None
    assert history[-1]["attention_loss"] > 0


def test_efficientnet_overlay_runs_without_a_network_connection(dataset, tmp_path):
    options = {"pretrained": False, "spatial_size": [32, 32], "max_epochs": 3, "iterations_per_epoch": 1}
    train(OTOSCOPY, dataset, tmp_path / "out", overlays=["efficientnet_b0"], **options)
    weights = torch.load(tmp_path / "out" / "model.pt", weights_only=True)
    network = EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=4)
    network.load_state_dict(weights, strict=True)


def test_inference_needs_no_monai_weckd(dataset, output, tmp_path):
    path = tmp_path / "out" / "inference.csv"
    images = tmp_path / "images"
    shutil.copytree(dataset / "normal", images / "normal")
    (images / "odd, name.png").write_bytes(next(images.rglob("*.png")).read_bytes())
    done = run_bundle(
        OTOSCOPY,
        "inference",
        overlays=["inference_scratch"],
        blocked=True,
        dataset_dir=str(images),
        ckpt_path=str(output / "model.pt"),
        predictions_path=str(path),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    names = json.loads((output / "chain.json").read_text())["classes"]
    assert list(rows[0]) == ["file", "predicted", *(f"probability_{name}" for name in names)]
    assert {row["file"] for row in rows} == {str(p) for p in images.rglob("*.png")}
    for row in rows:
        probabilities = np.array([float(row[f"probability_{name}"]) for name in names])
        assert probabilities.sum() == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == names[int(probabilities.argmax())]


def test_datalist_is_monai_s_own_form(dataset, output):
    items = load_decathlon_datalist(str(output / "datalist.json"), False, "test", str(dataset))
    assert {item["image"] for item in items} <= {str(path) for path in dataset.rglob("*.png")}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("val_intervl", 3, "val_intervl: expected a key that the configuration uses.*Did you mean 'val_interval'"),
        ("train#datset", 3, "train#datset: expected a key that the configuration uses.*Did you mean 'train#dataset'"),
        ("chain#tolerence", 0.1, "chain#tolerence: expected a key that the .*Did you mean 'tolerance'"),
        ("plan#settings#polcy", "shared", "plan#settings#polcy: expected a key that the .*Did you mean 'policy'"),
        ("plan#settings#policy", "disjont", "policy: expected .*Did you mean 'disjoint'"),
        ("chain#init", "techer", "init: expected one of .*Did you mean 'teacher'"),
        ("max_epochs", 2, "max_epochs: expected at least one for each of 3 stages, got 2"),
        ("label_fraction", 0.001, "label_fraction: expected "),
        ("plan#settings#shard_size", 0, "shard_size: expected an integer of at least 1, got 0"),
        ("dataset_dir", "absent", "dataset_dir: expected an existing folder, got .*absent"),
        ("dataset_dir", "empty", "dataset_dir: expected images, got none in .*empty"),
        ("dataset_dir", "single", "labels in .*single.: expected two classes or more"),
        ("output_dir", "used", "output_dir: expected an empty folder, got .*used with 1 entries"),
        ("learning_rate", 1e30, r"loss: expected a finite number, got (nan|inf) in stage 1, epoch 1, iteration \d+"),
    ],
)
def test_bad_input_is_refused_in_one_line(dataset, tmp_path, monkeypatch, key, value, message):
    monkeypatch.chdir(tmp_path)
    for folder in ("empty", "used", "single"):
        (tmp_path / folder).mkdir()
    (tmp_path / "used" / "notes.txt").touch()
    shutil.copytree(dataset / "normal", tmp_path / "single" / "normal")
    line = refusal(OTOSCOPY, **{"dataset_dir": str(dataset), "output_dir": "out", **SMALL, key: value})
    assert re.search(message, line), line
    assert "\n" not in line
    assert not (tmp_path / "out" / "chain.json").exists()


def test_the_line_that_helps_comes_last(dataset, tmp_path):
    places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / "out")}
    call = arguments_of(OTOSCOPY, ["train"], val_intervl=3, **places)
    done = run_python(f"from monai.bundle import run\nrun(**{call!r})")  # as its user sees it
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("ValueError: val_intervl: expected a key")


def test_an_earlier_run_can_be_overwritten(overwritten):
    assert json.loads((overwritten / "chain.json").read_text())["seed"] == 1
    assert (overwritten / "notes.txt").read_text() == "mine"


def test_bad_items_are_named_or_skipped_and_listed_and_odd_names_are_harmless(dataset, tmp_path):
    data, out, names = tmp_path / "data", tmp_path / "out", tmp_path / "names"
    shutil.copytree(dataset, data)
    (data / "manifest.csv").unlink()
    picture = next((data / "normal").rglob("*.png")).read_bytes()
    bad = {"cut.png": picture[:500], "empty.jpg": b"", "film.png": b"GIF89a" + bytes(200), "note.dcm": b"not an image"}
    odd = [b"=cmd|' !A0'.png", b"<img src=x>.png", b"@seed.png", b"not utf-8 \xff.png", b"$open('pwned','w').png"]
    names.mkdir()
    for folder in (data / "normal", data / "earwax_plug"):
        for name in odd:
            Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(picture)
    for name in odd:
        Path(os.fsdecode(bytes(names) + b"/" + name)).write_bytes(picture)
    for name, content in bad.items():
        (data / "normal" / name).write_bytes(content)
    nib.save(nib.Nifti1Image(np.full((8, 8), np.nan, np.float32), np.eye(4)), data / "normal" / "nan.nii")
    keys = [f"normal/{name}" for name in (*bad, "nan.nii")]
    line = refusal(OTOSCOPY, dataset_dir=str(data), output_dir=str(out), **SMALL)
    assert f"got {len(keys)} that are not, first 'normal/cut.png': cannot be decoded" in line
    assert "on_bad_item='skip'" in line
    assert not out.exists()
    train(OTOSCOPY, data, out, report=True, on_bad_item="skip")
    assert sorted(json.loads((out / "plan.json").read_text())["skipped"]) == sorted(keys)
    page = (out / "report.html").read_text()
    assert all(key in page for key in keys)
    assert "<img src=x" not in page
    # the file names come first where the folder's own name is none
    options = {"dataset_dir": ".", "ckpt_path": str(out / "model.pt"), "predictions_path": str(out / "inference.csv")}
    done = run_bundle(OTOSCOPY, "inference", overlays=["inference_scratch"], blocked=True, folder=names, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (out / "inference.csv").read_bytes().decode(errors="surrogateescape")
    assert {row["file"] for row in read_table(text)} == set(map(os.fsdecode, odd))
    for path in (out / "inference.csv", out / "predictions.csv"):
        for row in csv.reader(path.read_text(errors="surrogateescape").splitlines()):
            assert not any(cell.startswith(("=", "@")) for cell in row)
    assert not list(tmp_path.rglob("pwned"))


def test_nan_loss_stops_with_its_place_and_keeps_the_last_good_student(dataset, tmp_path):
    out = tmp_path / "out"
    # logits divided by next to nothing: the distillation loss, and so the second stage, is where it breaks
    options = {**SMALL, "loss_function#temperature": 1e-42}
    line = refusal(OTOSCOPY, dataset_dir=str(dataset), output_dir=str(out), **options)
    assert "loss: expected a finite number, got nan in stage 2, epoch 1" in line
    assert "last good checkpoint: stage 1" in line
    assert torch.load(out / "stage_1" / "model.pt", weights_only=True)
    assert not (out / "model.pt").exists()


def test_views_cache_file_and_bfloat16_are_a_matter_of_options(dataset, tmp_path):
    cached_teacher = {"chain#views": 2, "chain#pool_ratio": 1, "chain#teacher_cache": True, "overlays": ["paper"]}
    cached_teacher |= {"cache_dir": tmp_path / "cache"}
    train(OTOSCOPY, dataset, tmp_path / "one", **cached_teacher)
    rows = {path: (path.stat().st_size, digest(path)) for path in (tmp_path / "cache").rglob("rows.bin")}
    assert len(rows) == 2  # training images as bytes, validation and test images in half precision
    train(OTOSCOPY, dataset, tmp_path / "two", **cached_teacher)
    assert {path: (path.stat().st_size, digest(path)) for path in (tmp_path / "cache").rglob("rows.bin")} == rows
    assert digest(tmp_path / "one" / "model.pt") == digest(tmp_path / "two" / "model.pt")
    autocast = {"train#inferer#_target_": "monai_weckd.inferers.AutocastInferer"}
    half = train(OTOSCOPY, dataset, tmp_path / "half", report=True, **cached_teacher, **autocast)
    changed = digest(tmp_path / "half" / "model.pt") != digest(tmp_path / "one" / "model.pt")
    assert changed == has_bfloat16(torch.device("cpu"))
    assert half["settings"]["views"] == 2
    assert half["cost"]["predicted"]["steps"] == [2, 2, 2]
    assert half["cost"]["actual"]["total_seconds"] > 0
    assert "Predicted" in (tmp_path / "half" / "report.html").read_text()
