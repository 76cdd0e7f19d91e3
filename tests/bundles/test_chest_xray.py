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

import numpy as np
import pydicom
import pytest
from bundle_runs import SOLVED, bundle_of, run_bundle, train
from monai.bundle import ConfigWorkflow
from PIL import Image
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid
from sklearn.metrics import average_precision_score, roc_auc_score

from monai_weckd.annotation import AnnotatedBundle
from monai_weckd.bundle import trained_network
from monai_weckd.cli.main import main
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


@pytest.mark.parametrize("option", [["--min_confidence", "0.8"], ["--coverage", "0.9"], ["--aggregate", "patient"]])
def test_predict_refuses_options_for_one_class(option, images, output, tmp_path, capsys):
    assert predict(output, images / "images", tmp_path / "out.csv", *option) == 1
    assert "expected no such option for a model of findings" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("compare", ["--output_dir", "out"]),
        ("tune", ["--output_dir", "out", "--config_file", "scratch.json"]),
        ("audit", ["--output_dir", "out"]),
    ],
)
def test_other_commands_say_that_they_do_not_offer_findings(command, options, images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([command, "--bundle", str(BUNDLE), "--dataset_dir", str(images), *options]) == 1
    assert f"`{command}` does not offer several findings yet" in capsys.readouterr().err
    assert not list(tmp_path.glob("out/*"))


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


def test_the_labeling_program_says_that_it_does_not_offer_findings(images, tmp_path):
    with pytest.raises(ValueError, match="`label` does not offer several findings yet"):
        AnnotatedBundle(BUNDLE, images, cache_dir=tmp_path)


def test_a_run_of_findings_teaches_no_run_of_classes(output):
    with pytest.raises(ValueError, match="expected a run with one class an image, got one with several findings"):
        trained_network(output, bundle=BUNDLE, classes=CHEST_FINDINGS)
