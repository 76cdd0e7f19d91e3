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

"""The bundle of findings, from a synthetic set to every command that takes it, or says that it does not."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import SCRATCH, SHORT_PROBE, SOLVED, bundle_of, run_bundle, train
from monai.bundle import ConfigWorkflow
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_weckd.bundle import BundleConfig, stored_logits
from monai_weckd.cli.main import main
from monai_weckd.compare.arms import ARMS, choose_arms
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.data import load_datalist
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.data.phantoms.chest import CHEST_FINDINGS

BUNDLE = bundle_of("chest_xray")
SMALL = {"spatial_size": [64, 64]}
PROBABILITIES = [f"probability_{name}" for name in CHEST_FINDINGS]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return make_phantom("chest_xray", tmp_path_factory.mktemp("phantom") / "chest", items=60)


@pytest.fixture(scope="module")
def output(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "output"
    train(BUNDLE, images, folder, base=SOLVED, report=True, label_fraction=0.25, **SMALL)
    return folder


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def rows_of_test(output):
    return [row for row in rows_of(output / "predictions.csv") if row["split"] == "test"]


def test_it_trains_on_its_phantom_and_the_report_shows_each_finding(output):
    chain = json.loads((output / "chain.json").read_text())
    assert chain["settings"]["synthetic"] is True
    assert (len(chain["stages"]), chain["findings"]) == (3, True)
    assert chain["final"]["test"]["macro_auc"] > 0.75
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "synthetic" in page.lower()
    for name in CHEST_FINDINGS:
        assert f"Reliability diagram of {name}." in page
    assert "no test item" not in page
    limits = dict(zip(CHEST_FINDINGS, chain["final"]["thresholds"], strict=True))
    rows = {row["id"]: row for row in rows_of_test(output)}
    errors = json.loads((output / "errors" / "errors.json").read_text())["errors"]
    assert errors
    for error in errors:
        row, name = rows[error["id"]], error["finding"]
        words = ("absent", "present")
        assert error["label"] == words[int(row[f"label_{name}"])] != error["predicted"]
        assert error["predicted"] == words[float(row[f"probability_{name}"]) >= limits[name]]
        assert f"<strong>{name}</strong> is {error['label']} and was called {error['predicted']}" in page
    estimate = next(s for s in chain["stages"] if s["stage"] == chain["final"]["stage"])["out_of_fold"]["estimate"]
    assert f"the macro AUC of the final model is estimated at {estimate['macro_auc']['value']:.3f}<small>" in page


def test_monai_alone_infers_and_evaluates(images, output, tmp_path):
    places = {"dataset_dir": str(images), "ckpt_path": str(output / "model.pt"), **SMALL}
    done = run_bundle(BUNDLE, "inference", blocked=True, predictions_path=str(tmp_path / "all.csv"), **places)
    assert done.returncode == 0, done.stderr[-3000:]
    found = {row["file"]: row for row in rows_of(tmp_path / "all.csv")}
    limits = json.loads((output / "chain.json").read_text())["final"]["thresholds"]
    for row in rows_of(output / "predictions.csv"):
        other = found[str(images / row["id"])]
        for key in PROBABILITIES:
            # training keeps these images in half precision
            assert float(row[key]) == pytest.approx(float(other[key]), abs=3e-2)
    for row in found.values():
        shown = [n for n, k, limit in zip(CHEST_FINDINGS, PROBABILITIES, limits, strict=True) if float(row[k]) >= limit]
        assert row["findings"] == "|".join(shown)
    done = run_bundle(BUNDLE, "evaluate", blocked=True, output_dir=str(tmp_path), **places)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = dict(line.split(",") for line in (tmp_path / "metrics.csv").read_text().split() if "," in line)
    whole = [row for row in rows_of_test(output) if all(row[f"label_{name}"] for name in CHEST_FINDINGS)]
    for name, metric in (("macro_auc", roc_auc_score), ("macro_average_precision", average_precision_score)):
        expected = [
            metric(
                [row[f"label_{n}"] == "1" for row in whole], [float(found[str(images / row["id"])][k]) for row in whole]
            )
            for n, k in zip(CHEST_FINDINGS, PROBABILITIES, strict=True)
        ]
        assert float(figures[name]) == pytest.approx(np.mean(expected), abs=0.03)


def write_radiograph(path, picture, *, inverted):
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.Modality = "P1", "CR"
    dataset.Rows, dataset.Columns = picture.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit = 7
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PixelData = (255 - picture if inverted else picture).tobytes()
    dataset.save_as(path, enforce_file_format=True)


def predict(output, folder, path, *options):
    arguments = ["--bundle", str(BUNDLE), "--ckpt", str(output / "model.pt"), "--input", str(folder)]
    return main(["predict", *arguments, "--output", str(path), "--set", "spatial_size=[64,64]", *options])


def test_predict_gives_probabilities_and_thresholds_whatever_the_polarity(images, output, tmp_path):
    picture = sorted((images / "images").iterdir())[5]
    pixels = np.asarray(Image.open(picture))
    folder = tmp_path / "new"
    folder.mkdir()
    Image.open(picture).save(folder / "a.png")
    write_radiograph(folder / "b.dcm", pixels, inverted=False)
    write_radiograph(folder / "c.dcm", pixels, inverted=True)
    (folder / "d.png").write_bytes(b"no picture")
    assert predict(output, folder, tmp_path / "out.csv") == 0
    *good, bad = rows_of(tmp_path / "out.csv")
    limits = json.loads((output / "chain.json").read_text())["final"]["thresholds"]
    for row in good:
        assert [float(row[f"threshold_{name}"]) for name in CHEST_FINDINGS] == pytest.approx(limits)
        values = [float(row[key]) for key in PROBABILITIES]
        assert values == pytest.approx([float(good[0][key]) for key in PROBABILITIES], abs=1e-4)
        shown = [name for name, value, limit in zip(CHEST_FINDINGS, values, limits, strict=True) if value >= limit]
        assert row["findings"] == "|".join(shown)
    assert (bad["findings"], bad["probability_nodule"]) == ("", "")
    assert bad["reason"]


def test_predict_leaves_open_what_is_not_probable_enough_and_tells_other_kinds(images, output, tmp_path, capsys):
    folder = tmp_path / "new"
    folder.mkdir()
    for number, picture in enumerate(sorted((images / "images").iterdir())[:6]):
        Image.open(picture).save(folder / f"{number}.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(folder / "noise.png")
    assert predict(output, folder, tmp_path / "out.csv", "--min_confidence", "0.8", "--coverage", "0.6") == 0
    told = capsys.readouterr().out
    assert "findings undecided" in told
    assert "coverage 0.6 for images with each finding, and for those without it" in told
    rows = rows_of(tmp_path / "out.csv")
    limits = json.loads((output / "chain.json").read_text())["final"]["thresholds"]
    open_answers = 0
    for row in rows:
        for name, limit in zip(CHEST_FINDINGS, limits, strict=True):
            value = float(row[f"probability_{name}"])
            present = value >= limit
            sure = (value if present else 1 - value) >= 0.8
            assert (name in row["undecided"].split("|")) == (not sure)
            assert (name in row["findings"].split("|")) == (present and sure)
            assert row[f"set_{name}"].split("|")[0] == ("present" if value > 0.5 else "absent")
            open_answers += not sure
    assert 0 < open_answers < 3 * len(rows)
    assert f"{sum(bool(row['undecided']) for row in rows)} below min_confidence" in told
    assert [row["file"] for row in rows if row["not_of_this_kind"]] == ["noise.png"]


def test_predict_tells_the_findings_of_a_patient(images, output, tmp_path):
    assert predict(output, images, tmp_path / "out.csv", "--aggregate", "patient") == 0
    rows, patients = rows_of(tmp_path / "out.csv"), rows_of(tmp_path / "out.patient.csv")
    assert {row["patient"] for row in patients} == {row["patient"] for row in rows}
    limits = json.loads((output / "chain.json").read_text())["final"]["thresholds"]
    for row in patients:
        own = [[float(other[key]) for key in PROBABILITIES] for other in rows if other["patient"] == row["patient"]]
        mean = np.mean(own, axis=0)
        assert [float(row[key]) for key in PROBABILITIES] == pytest.approx(mean)
        assert int(row["images"]) == len(own)
        shown = [name for name, value, limit in zip(CHEST_FINDINGS, mean, limits, strict=True) if value >= limit]
        assert row["findings"] == "|".join(shown)


def test_a_model_of_findings_is_not_taken_for_one_of_classes(images, output, tmp_path, capsys):
    arguments = ["--bundle", str(bundle_of("brain_mri")), "--ckpt", str(output / "model.pt"), "--input", str(images)]
    assert main(["predict", *arguments, "--output", str(tmp_path / "out.csv"), "--set", "spatial_size=[64,64]"]) == 1
    told = capsys.readouterr().err
    assert "expected a model of one class an image, as brain_mri_chain_classification has, got one of several" in told


def test_export_gives_the_probabilities_of_findings(output, tmp_path, capsys):
    arguments = ["--bundle", str(BUNDLE), "--ckpt", str(output / "model.pt"), "--set", "spatial_size=[64,64]"]
    assert main(["export", *arguments, "--format", "torchscript", "--to", str(tmp_path / "model.ts")]) == 0
    record = json.loads((tmp_path / "model.ts.json").read_text())
    assert (record["findings"], record["classes"]) == (True, list(CHEST_FINDINGS))


def test_audit_counts_findings_and_measures_the_training(images, output, tmp_path):
    places = ["--bundle", str(BUNDLE), "--dataset_dir", str(images), "--output_dir", str(tmp_path)]
    assert main(["audit", *places, "--run", str(output), "--set", "spatial_size=[64,64]"]) == 0
    found = {(row["attribute"], row["value"], row["finding"]): row for row in rows_of(tmp_path / "audit_counts.csv")}
    rows = rows_of(images / "manifest.csv")
    measured = json.loads((output / "chain.json").read_text())["final"]["test"]
    for name, own in zip(CHEST_FINDINGS, measured["findings"], strict=True):
        cells = [row[f"finding:{name}"] for row in rows]
        row = found["all", "", name]
        assert [int(row[key]) for key in ("present", "absent", "images")] == [cells.count("1"), cells.count("0"), 60]
        assert int(row["unknown"]) == 60 - cells.count("1") - cells.count("0")
        assert float(row["auc"]) == pytest.approx(own["auc"], abs=1e-4)
        assert float(row["f1"]) == pytest.approx(own["f1"], abs=1e-4)
        tested = [row[f"finding:{name}"] for row in rows if row["split"] == "test"]
        assert int(found["split", "test", name]["present"]) == tested.count("1")
    assert float(found["all", "", ""]["auc"]) == pytest.approx(measured["macro_auc"], abs=1e-4)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert "60 images that may show several of 3 findings" in page
    assert "Results of the training" in page


def test_tune_compares_trials_by_their_macro_auc(images, tmp_path, capsys):
    small = {"spatial_size": [32, 32], "label_fraction": 0.25, "max_epochs": 3, "iterations_per_epoch": 2}
    changes = [word for key, value in small.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    places = ["--bundle", str(BUNDLE), "--dataset_dir", str(images), "--output_dir", str(tmp_path)]
    assert main(["tune", *places, "--config_file", "scratch.json", "--trials", "1", *changes]) == 0
    assert re.search(r"^best:   val_macro_auc [01]\.\d{4} in trial 0", capsys.readouterr().out, re.MULTILINE)
    (row,) = rows_of(tmp_path / "trials.csv")
    assert row["state"] == "completed"
    assert set(json.loads((tmp_path / "tuned.json").read_text())) >= {"learning_rate", "distillation_weight"}


def compare(images, output, *options, arms="chain,solved,single"):
    arguments = ["--bundle", str(BUNDLE), "--dataset_dir", str(images), "--output_dir", str(output), "--arms", arms]
    small = {"spatial_size": [32, 32], "label_fraction": 0.2, "max_epochs": 3, "iterations_per_epoch": 2}
    changes = [word for key, value in small.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    return main(["compare", *arguments, *changes, *options])


def test_compare_tells_whether_choosing_helped(images, tmp_path, capsys):
    assert compare(images, tmp_path, "--folds", "2", "--new_splits") == 0
    content = json.loads((tmp_path / "compare.json").read_text())
    assert [(arm["name"], arm["runs"]) for arm in content["arms"]] == [("chain", 2), ("single", 2), ("solved", 2)]
    chain, single, solved = content["arms"]
    assert chain["labels"] == single["labels"] == solved["labels"]
    assert content["verdicts"][0].startswith("The macro AUC of the chain ")
    assert len(solved["difference"]["macro_auc"]["interval"]) == 2
    rows = [row for path in (tmp_path / "runs" / "chain").glob("*.csv") for row in rows_of(path)]
    assert sorted(row["id"] for row in rows) == sorted(row["file"] for row in rows_of(images / "manifest.csv"))
    # the pooled figure, by scikit-learn within folds
    result = json.loads((tmp_path / "runs" / "solved" / "0-1-0.json").read_text())
    rows = rows_of(tmp_path / "runs" / "solved" / "0-1-0.csv")
    for name, found in zip(CHEST_FINDINGS, result["test"]["findings"], strict=True):
        weight = [row[f"label_{name}"] != "" for row in rows]
        truth = [row[f"label_{name}"] == "1" for row in rows]
        scores = [float(row[f"probability_{name}"]) for row in rows]
        assert found["auc"] == pytest.approx(roc_auc_score(truth, scores, sample_weight=weight))
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert content["verdicts"][0] in page
    assert "macro_auc" in (tmp_path / "tables" / "arms.csv").read_text()
    assert "solved, repeat 0, fold 1, seed 0: macro AUC" in capsys.readouterr().out


def test_compare_leaves_out_arms_for_one_class_or_says_why(images, tmp_path, capsys):
    bundle = ComparedBundle(BUNDLE, images)
    names = {arm.name for arm in choose_arms(None, active=True, solved=True, fault=bundle.fault)}
    left_out = {"paper", "fixmatch", "fixmatch+labels"}
    assert set(ARMS) - names == left_out | {"solved+labels"}  # a solved chain ends with the last one
    assert compare(images, tmp_path, arms="chain,fixmatch") == 1
    told = capsys.readouterr().err
    assert "got 'fixmatch': a threshold of the largest probability says nothing about several findings" in told
    assert compare(images, tmp_path, arms="chain,paper") == 1
    assert "chest_xray_chain_classification has no configs/paper.json" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_compare_of_single_findings_asks_its_controls_for_as_many(images, tmp_path):
    words = ["--set", "plan#settings#findings_per_image=1", "--set", "missing_classes=allow", "--folds", "2"]
    arms = ["chain", "solved", "solved+labels", "solved_everything"]
    assert compare(images, tmp_path, *words, "--new_splits", arms=",".join(arms)) == 0
    plans = [json.loads((tmp_path / "runs" / name / "0-0-0.plan.json").read_text()) for name in arms]
    asked = [
        {
            key: places
            for stage in plan["stages"]
            for key, places in zip(stage["new"], stage.get("asked", ()), strict=False)
        }
        for plan in plans
    ]
    assert [set(map(len, found.values())) for found in asked] == [{1}, {1}, {1}, set()]
    assert asked[0] == asked[2]
    assert len(asked[0]) == len(asked[1])


def test_compare_is_blind_to_the_findings_of_images_that_nobody_asked_for(images, tmp_path):
    """Other findings of the test images and of those that were not chosen change no bit of a prediction."""
    data, rows = tmp_path / "data", rows_of(images / "manifest.csv")
    data.mkdir()
    (data / "images").symlink_to(images / "images")
    groups = sorted({row["group"] for row in rows})
    for row in rows:
        row["split"] = "test" if groups.index(row["group"]) % 3 == 0 else "train"

    def chain(place):
        with (data / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        assert compare(data, tmp_path / place, "--val_labels", "0", arms="chain") == 0
        folder = tmp_path / place / "runs" / "chain"
        plan = json.loads((folder / "0-0-0.plan.json").read_text())
        told = [{key: row[key] for key in ("id", *PROBABILITIES)} for row in rows_of(folder / "0-0-0.csv")]
        return told, {key for stage in plan["stages"] for key in stage["labeled"]}

    before, asked = chain("before")
    withheld = [row for row in rows if row["file"] not in asked]
    assert 0 < len(asked) < len(rows) - len(before)
    titles = [f"finding:{name}" for name in CHEST_FINDINGS]
    told = [[row[title] for title in titles] for row in withheld]
    for row, values in zip(withheld, np.random.default_rng(0).permutation(told).tolist(), strict=True):
        row.update(zip(titles, values, strict=True))
    assert chain("after") == (before, asked)


def test_two_views_average_the_probabilities_of_each_finding(images, output, tmp_path):
    options = {"max_epochs": 1, "iterations_per_epoch": 2, "batch_size": 4, **SHORT_PROBE, **SMALL}
    base = (*SCRATCH, "pretrained", "two_views")
    chain = train(BUNDLE, images, tmp_path / "both", base=base, teacher_dir=str(output), report=True, **options)
    assert all(limit is None or 0 <= limit <= 1 for limit in chain["final"]["thresholds"])
    # without monai_weckd, on some images
    weights = torch.load(tmp_path / "both" / "model.pt", weights_only=True)
    places = {"ckpt_path": str(tmp_path / "both" / "model.pt"), **SMALL}
    config = BundleConfig(BUNDLE, "inference", overlays=["inference_two_views.json"], changes=places)
    network = config.value("network_def").eval()
    network.load_state_dict(weights)
    inputs = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        mean = (torch.sigmoid(network.solved(inputs)) + torch.sigmoid(network.tuned(inputs))) / 2
        torch.testing.assert_close(torch.sigmoid(network(inputs)), mean)
    first = torch.load(output / "model.pt", weights_only=True)
    assert all(torch.equal(weights[f"solved.{name}"], tensor) for name, tensor in first.items())
    (tmp_path / "new").mkdir()
    for picture in sorted((images / "images").iterdir())[:4]:
        shutil.copy(picture, tmp_path / "new")
    done = predict(
        tmp_path / "both", tmp_path / "new", tmp_path / "new.csv", "--config_file", "inference_two_views.json"
    )
    assert done == 0
    told = {row["id"].split("/")[-1]: row for row in rows_of(tmp_path / "both" / "predictions.csv")}
    for row in rows_of(tmp_path / "new.csv"):
        if row["file"] in told:
            for key in PROBABILITIES:
                assert float(row[key]) == pytest.approx(float(told[row["file"]][key]), abs=3e-2)


def test_a_small_network_learns_from_a_model_of_findings(images, output, tmp_path):
    options = {"max_epochs": 2, "iterations_per_epoch": 2, "batch_size": 8, "spatial_size": [32, 32]}
    base = (*SCRATCH, "compact")
    chain = train(BUNDLE, images, tmp_path / "out", base=base, teacher_dir=str(output), **options)
    assert chain["settings"]["network"] == "ResNet"
    assert chain["final"]["test"]["macro_auc"] is not None
    epochs = json.loads((tmp_path / "out" / "history.json").read_text())["epochs"]
    assert all(epoch["distillation_loss"] > 0 for epoch in epochs)
    datalist = load_datalist(images, findings=True)
    table = stored_logits(output, datalist.items[3:9], bundle=BUNDLE, classes=datalist.classes)
    config = BundleConfig(BUNDLE, changes={"dataset_dir": str(images), **SMALL})
    network, prepare = config.value("network_def").eval(), config.value("train#preprocessing")
    network.load_state_dict(torch.load(output / "model.pt", weights_only=True))
    inputs = torch.stack([torch.as_tensor(prepare(dict(item))["image"]) for item in datalist.items[3:9]])
    with torch.no_grad():  # images are kept in half precision
        torch.testing.assert_close(torch.sigmoid(table.logits), torch.sigmoid(network(inputs)), rtol=0, atol=2e-2)


def test_a_teacher_of_another_kind_is_refused(output):
    with pytest.raises(ValueError, match=r"^teacher_dir: expected a run with one class an image, as brain_mri_chain_"):
        stored_logits(output, [], bundle=bundle_of("brain_mri"), classes=CHEST_FINDINGS)


def test_the_preset_of_the_paper_is_not_there(images, tmp_path, capsys):
    places = ["--dataset_dir", str(images), "--output_dir", str(tmp_path / "out")]
    assert main(["compare", "--bundle", str(BUNDLE), *places, "--config_file", "paper.json"]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: config_file: expected a file, or the name of one in")
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_one_class_refuses_findings(images, tmp_path):
    with pytest.raises(RuntimeError, match="expected a column 'label' with one class an image, got findings"):
        train(bundle_of("brain_mri"), images, tmp_path / "out", base=SOLVED, **SMALL)


@pytest.mark.parametrize("config", ["train", "evaluate", "inference"])
def test_properties_are_complete(config, images, output, tmp_path):
    workflow = ConfigWorkflow(
        str(BUNDLE / "configs" / f"{config}.json"),
        workflow_type="train" if config == "train" else "infer",
        logging_file=False,
        bundle_root=str(BUNDLE),
        dataset_dir=str(images),
        output_dir=str(tmp_path / "unused" if config == "train" else output),
        **SMALL,
        **({"label_fraction": 0.25} if config == "train" else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


def test_scratch_trains_step_by_step(images, tmp_path):
    chain = train(BUNDLE, images, tmp_path / "out", spatial_size=[32, 32], label_fraction=0.25, report=True)
    assert [stage["calibration"] for stage in chain["stages"] if stage["accepted"]][-1] is not None
    assert all(limit is None or 0 <= limit <= 1 for limit in chain["final"]["thresholds"])


def test_the_command_that_writes_the_report_again_names_its_figure(output, capsys):
    assert main(["report", "--output_dir", str(output)]) == 0
    chain = json.loads((output / "chain.json").read_text())
    first, last = (stage["test"]["macro_auc"] for stage in (chain["stages"][0], chain["final"]))
    assert f"macro AUC {last:.3f} (stage 1: {first:.3f}; chance: 0.500)\n" in capsys.readouterr().out


def test_a_chestmnist_archive_is_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60), ("val", 16), ("test", 16)):
        labels = rng.integers(0, 2, (count, 3))
        pictures = rng.integers(0, 60, (count, 28, 28)) + 60 * labels[:, :1, None]
        arrays |= {f"{split}_images": pictures.astype(np.uint8), f"{split}_labels": labels.astype(np.uint8)}
    np.savez_compressed(tmp_path / "chestmnist.npz", **arrays)
    chain = train(BUNDLE, tmp_path / "chestmnist.npz", tmp_path / "out", base=SOLVED, label_fraction=0.3, **SMALL)
    assert chain["label_budget"] == {"train": 54, "val": 16}
    tested = chain["final"]["test"]["findings"]
    assert [one["present"] for one in tested] == labels.sum(axis=0).tolist()  # those of the last part, test
    assert [one["known"] for one in tested] == [16] * 3
