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

import nibabel
import numpy as np
import pytest
import torch
from dicom_files import write_dicom, write_series
from monai.bundle import ConfigWorkflow
from PIL import Image
from prediction_models import (
    BRAIN_3D,
    BUNDLES,
    CLASSES,
    OTOSCOPY,
    untrained_model,
    write_held_out,
    write_kind,
    write_pictures,
)

from monai_weckd.annotation import find_items
from monai_weckd.cli.main import main
from monai_weckd.data import read_classification_sr
from monai_weckd.networks.nearest import neighbor_distances
from monai_weckd.predict import images
from monai_weckd.predict.model import PredictionBundle
from monai_weckd.predict.table import PredictionTable
from monai_weckd.utils.tables import read_table


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("output"), spatial_size=[192, 192])


def predict(model, source, output, *options, bundle=OTOSCOPY):
    command = ["predict", "--bundle", bundle, "--ckpt", model, "--input", source, "--output", output, *options]
    return main(list(map(str, command)))


def table(path):
    return read_table(path.read_text(encoding="utf-8"))


def own_inference(bundle, model, source, output, **overrides):
    """Run the bundle's own inference; returns its rows."""
    configs = bundle / "configs"
    places = {"bundle_root": bundle, "ckpt_path": model, "dataset_dir": source, "predictions_path": output}
    workflow = ConfigWorkflow(
        str(configs / "inference.json"),
        str(configs / "metadata.json"),
        workflow_type="inference",
        logging_file=False,
        **{key: str(value) for key, value in places.items()},
        **overrides,
    )
    workflow.initialize()
    workflow.run()
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_same_numbers(found, expected, classes):
    # paths in the folder, which the bundle's own inference has in full
    assert [row["file"] for row in found] == [row["file"].rpartition("/")[2] for row in expected]
    names = [f"probability_{name}" for name in classes]
    values = [np.array([[float(row[name]) for name in names] for row in rows]) for rows in (found, expected)]
    for rows, probabilities in zip((found, expected), values, strict=True):
        highest = [names[place].removeprefix("probability_") for place in probabilities.argmax(axis=1)]
        assert [row["predicted"].removeprefix("'") for row in rows] == highest
    np.testing.assert_allclose(*values, atol=1e-4)
    assert np.ptp(values[0], axis=0).max() > 1e-3  # the images do differ


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch_size", "0"], "batch_size: expected a number of at least 1, got 0. Raise it."),
        (["--min_confidence", "80"], "min_confidence: expected a probability, got 80.0. Pass e.g. 0.8."),
        (["--coverage", "90"], "coverage: expected a probability between 0 and 1, got 90.0. Pass e.g. 0.9."),
        (["--coverage", "0.9"], "coverage: expected out_of_fold.csv beside"),
        (["--on_bad_item", "skp"], "on_bad_item: expected one of ('skip', 'error'), got 'skp'. Did you mean 'skip'?"),
        (["--set", "chanels=1"], "set: expected a key of"),
        (
            ["--set", "spatial_size=[32,32]"],
            "spatial_size: expected [192, 192], at which the model was trained",
        ),
        (
            ["--aggregate", "patients"],
            "aggregate: expected one of ('series', 'study', 'patient'), got 'patients'.",
        ),
        (
            ["--aggregate", "study"],
            "aggregate: expected images with a known study, got none of 6. Pass",
        ),
        (["--config_file", "none.json"], "config_file: expected a file, or the name of one in"),
        (["--ckpt", "none.pt"], "ckpt: expected a model, got nothing at none.pt. Pass --ckpt path/to/output/model.pt."),
        (["--bundle", "none"], "bundle: expected configs/inference.json in 'none', got none. Pass a bundle."),
        (["--bundle", str(BRAIN_3D)], "ckpt: expected the state_dict of PooledClassifier in"),
        (["--input", "none"], "input: expected a file or folder, got nothing at none. Correct the path."),
        (["--input", str(OTOSCOPY / "docs")], "input: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM files below"),
        (["--output", "."], "output: expected a CSV to write, got the folder .. Name a file in it."),
    ],
)
def test_errors_are_one_line_without_traceback(capsys, model, tmp_path, options, message):
    write_pictures(tmp_path / "in")
    if str(BRAIN_3D) in options:
        model = untrained_model(tmp_path / "other")
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", *options) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (tmp_path / "out.csv").exists()


def test_other_preprocessing_than_that_of_the_training_is_refused(tmp_path):
    scaling = {"keys": "image", "a_min": 0, "a_max": 255, "b_min": -1, "b_max": 1, "clip": True}
    transforms = [
        {"_target_": "Transposed", "keys": "image", "indices": [0, 2, 1]},
        {"_target_": "Resized", "keys": "image", "spatial_size": [192, 192], "mode": "area"},
        {"_target_": "ScaleIntensityRanged", **scaling},
    ]
    model = untrained_model(tmp_path, preprocessing=transforms, spatial_size=[192, 192])
    assert PredictionBundle(OTOSCOPY, model).classes == CLASSES
    changes = {"preprocessing#transforms#3#b_min": 0}
    message = r'preprocessing: expected .*"b_min": -1, .* as the model was trained, got .*"b_min": 0, .*Take'
    with pytest.raises(ValueError, match=message):
        PredictionBundle(OTOSCOPY, model, changes=changes)
    columns_first = untrained_model(tmp_path, preprocessing=transforms[1:])
    with pytest.raises(
        ValueError, match=r"preprocessing: expected .*Resized.*, as the model was trained, got .*Transp"
    ):
        PredictionBundle(OTOSCOPY, columns_first)
    fewer = untrained_model(tmp_path, preprocessing=transforms[:2])
    with pytest.raises(ValueError, match=r"preprocessing: expected null, as the model was trained, got .*ScaleIntens"):
        PredictionBundle(OTOSCOPY, fewer)


def test_a_bundle_without_a_part_is_refused(capsys, model, tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    for name in ("inference.json", "metadata.json"):
        config = json.loads((OTOSCOPY / "configs" / name).read_text())
        config.pop("postprocessing", None)
        (bundle / "configs" / name).write_text(json.dumps(config))
    assert predict(model, OTOSCOPY, tmp_path / "out.csv", bundle=bundle) == 1
    message = "error: bundle: expected the key 'postprocessing' in its inference.json, got none. Add it.\n"
    assert capsys.readouterr().err == message


def test_pictures_get_the_numbers_of_the_bundles_own_inference(capsys, model, tmp_path):
    names = write_pictures(tmp_path / "in")
    expected = own_inference(OTOSCOPY, model, tmp_path / "in", tmp_path / "own.csv")
    capsys.readouterr()
    # in batches, of which the last one is smaller
    assert predict(model, tmp_path / "in", tmp_path / "new" / "out.csv", "--batch_size", "4") == 0
    found = table(tmp_path / "new" / "out.csv")
    assert len(found) == len(names)
    assert_same_numbers(found, expected, CLASSES)
    assert [float(row["confidence"]) for row in found] == [
        max(float(row[f"probability_{name}"]) for name in CLASSES) for row in found
    ]
    out, err = capsys.readouterr()
    assert f"model   {model}: 4 classes, calibrated on validation, temperature 1.25\n" in out
    assert "images  6 read, 0 bad\n" in out
    assert err == ""  # no progress bar without a terminal
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out.csv"]


def test_volumes_get_the_numbers_of_the_bundles_own_inference(tmp_path):
    classes = ["a", "b"]
    model = untrained_model(tmp_path / "output", BRAIN_3D, classes=classes)
    (tmp_path / "in").mkdir()
    rng = np.random.default_rng(0)
    affine = np.diag([-2.0, 2.0, 2.5, 1.0])
    for number in range(2):
        volume = (100 * (number + rng.random((20, 30, 16)))).astype(np.int16)
        nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "in" / f"{number}.nii.gz")
    expected = own_inference(BRAIN_3D, model, tmp_path / "in", tmp_path / "own.csv")
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", bundle=BRAIN_3D) == 0
    assert_same_numbers(table(tmp_path / "out.csv"), expected, classes)
    # the same volume as a DICOM series is one row of the same numbers, a picture among volumes a bad one
    series = tmp_path / "series" / "s1"
    volume = np.asarray(nibabel.load(tmp_path / "in" / "1.nii.gz").dataobj)
    write_series(series, volume, affine)
    Image.new("L", (9, 9)).save(series / "thumbnail.png")
    assert predict(model, tmp_path / "series", tmp_path / "dicom.csv", bundle=BRAIN_3D) == 0
    rows = table(tmp_path / "dicom.csv")
    assert [row["file"] for row in rows] == ["s1", "s1/thumbnail.png"]
    assert float(rows[0]["confidence"]) == pytest.approx(float(table(tmp_path / "out.csv")[1]["confidence"]), abs=1e-4)
    assert rows[1]["predicted"] == ""
    assert "thumbnail.png: " in rows[1]["reason"]


def test_bad_files_are_rows_with_a_reason(capsys, model, tmp_path):
    source = tmp_path / "in"
    write_pictures(source)
    (source / "a.png").write_bytes((source / "a.png").read_bytes()[:500])
    (source / "empty.dcm").touch()
    write_dicom(source / "good.dcm", np.arange(600, dtype=np.uint8).reshape(20, 30))
    nibabel.save(nibabel.Nifti1Image(np.full((9, 9, 1), np.nan, dtype=np.float32), np.eye(4)), source / "nan.nii")
    (source / "notes.txt").write_text("no image")
    assert predict(model, source, tmp_path / "out.csv") == 0
    rows = {row["file"].rpartition("/")[2]: row for row in table(tmp_path / "out.csv")}
    bad = [name for name, row in rows.items() if row["reason"]]
    assert bad == ["a.png", "empty.dcm", "nan.nii"]
    assert len(rows) == 9
    for name in bad:
        assert rows[name]["predicted"] == rows[name]["confidence"] == rows[name]["probability_normal"] == ""
        assert rows[name]["reason"].isprintable()
        assert rows[name]["reason"].startswith(f"{name}: ")
    assert rows["good.dcm"]["predicted"] in CLASSES
    out = capsys.readouterr().out
    assert "images  6 read, 3 bad\n" in out
    assert f"bad     {source / 'a.png'}: cannot be decoded" in out


def test_rows_carry_patient_study_and_series_and_join_with_their_aggregate(capsys, model, tmp_path):
    source = tmp_path / "in"
    write_pictures(source)
    rng = np.random.default_rng(0)
    for number in range(4):
        keys = {"PatientID": f"id-{number // 2}", "StudyInstanceUID": f"1.{number}", "SeriesInstanceUID": "1.9"}
        write_dicom(source / f"{number}.dcm", rng.integers(0, 99, (20, 30), dtype=np.uint8), **keys)
    (source / "3.dcm").write_bytes((source / "3.dcm").read_bytes()[:-400])
    assert predict(model, source, tmp_path / "out.csv", "--aggregate", "patient") == 0
    out = capsys.readouterr().out
    assert f"written {tmp_path / 'out.patient.csv'}, without 6 images whose patient is not known\n" in out
    rows = {row["file"]: row for row in table(tmp_path / "out.csv")}
    groups = {item["id"]: item["group"] for item in find_items(source, spatial_dims=2)}
    assert {name: row["patient"] or name for name, row in rows.items()} == groups
    assert [bool(rows[name]["study"] and rows[name]["series"]) for name in ("0.dcm", "3.dcm", "a.png")] == [1, 1, 0]
    sums = {row["patient"]: row for row in table(tmp_path / "out.patient.csv")}
    assert list(sums) == [rows["0.dcm"]["patient"], rows["2.dcm"]["patient"]]
    assert [(row["images"], row["bad"]) for row in sums.values()] == [("2", "0"), ("2", "1")]
    for name in CLASSES:
        column = f"probability_{name}"
        values = [float(rows[f"{number}.dcm"][column]) for number in range(3)]
        assert [float(row[column]) for row in sums.values()] == pytest.approx([np.mean(values[:2]), values[2]])
    written = "".join(path.read_text() for path in tmp_path.glob("*.csv")) + out
    assert not any(text in written for text in ("id-0", "id-1"))


@pytest.fixture(scope="module")
def of_studies(tmp_path_factory):
    return untrained_model(tmp_path_factory.mktemp("output"), spatial_size=[192, 192], item_level="study")


def test_a_model_of_studies_gives_a_row_for_each_with_its_images(capsys, monkeypatch, of_studies, tmp_path):
    pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")
    source, rng = tmp_path / "in", np.random.default_rng(0)
    source.mkdir()
    for number in range(5):
        keys = {"PatientID": "id", "StudyInstanceUID": f"1.{number % 2 + 1}", "SeriesInstanceUID": f"1.{number}.9"}
        write_dicom(source / f"{number}.dcm", rng.integers(0, 99, (20, 30), dtype=np.uint8), **keys)
    (source / "4.dcm").write_bytes((source / "4.dcm").read_bytes()[:-400])
    options = ["--write_sr", tmp_path / "reports"]
    assert predict(of_studies, source, tmp_path / "out.csv", *options) == 0
    rows = table(tmp_path / "out.csv")
    assert [(row["images"], row["bad"]) for row in rows] == [("3", "1"), ("2", "0")]
    assert all(row["file"] == f"{row['patient']}/{row['study']}" for row in rows)
    assert [row["series"] for row in rows] == ["", ""]
    out = capsys.readouterr().out
    assert "studies 2 read, 0 bad\n" in out
    assert f"bad     {source / '4.dcm'}: " in out
    for number, row in enumerate(rows, start=1):
        (report,) = read_classification_sr(tmp_path / "reports" / f"{number:06}.dcm")
        assert report.probabilities == {name: float(row[f"probability_{name}"]) for name in CLASSES}
    assert predict(of_studies, source, tmp_path / "two.csv", "--on_bad_item", "error") == 1
    assert "4.dcm" in capsys.readouterr().err
    # of a run that was killed after the first study
    killed(monkeypatch, of_studies, source, tmp_path / "three.csv", "--batch_size", "1", after=1)
    assert predict(of_studies, source, tmp_path / "three.csv", "--batch_size", "1", "--resume") == 0
    assert [row["images"] for row in table(tmp_path / "three.csv")] == ["3", "2"]


@pytest.mark.parametrize(
    ("level", "options", "message"),
    [
        ("study", ["--aggregate", "patient"], "aggregate: expected no such option for a model of each study, got pati"),
        ("study", [], "input: expected images with a known study, as the model is of studies, got none of 6."),
        ("patient", ["--write_sr", "sr"], "write_sr: expected a model of images, series or studies, got one of patien"),
    ],
)
def test_what_a_model_of_several_images_cannot_do_is_told(capsys, tmp_path, level, options, message):
    write_pictures(tmp_path / "in")
    model = untrained_model(tmp_path / "model", spatial_size=[192, 192], item_level=level)
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", *options) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


def test_rows_have_the_classes_that_an_image_may_have(capsys, tmp_path):
    model = untrained_model(tmp_path / "output")
    write_held_out(model, [(f"p{number}", "normal", 0.2 + number / 100) for number in range(20)])
    write_pictures(tmp_path / "in")
    (tmp_path / "in" / "bad.png").touch()
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", "--coverage", "0.9") == 0
    line = "sets    coverage 0.9: each class of probability 0.21 or more, by 20 held out labels of 20 patients"
    assert line in capsys.readouterr().out
    rows = table(tmp_path / "out.csv")
    for row in rows:
        if row["file"] == "bad.png":
            assert row["set"] == ""
            continue
        values = {name: float(row[f"probability_{name}"]) for name in CLASSES}
        expected = [name for name in sorted(values, key=values.get, reverse=True) if values[name] >= 0.21]
        assert row["set"].split("|") == (expected or [row["predicted"]])
    assert len({row["set"] for row in rows}) > 2
    assert predict(model, tmp_path / "in", tmp_path / "out.csv") == 0
    assert "set" not in table(tmp_path / "out.csv")[0]


def test_an_image_of_another_kind_is_marked(capsys, tmp_path):
    model = untrained_model(tmp_path / "output")
    names = write_pictures(tmp_path / "in")
    (tmp_path / "in" / "bad.png").touch()
    Image.new("RGB", (90, 70)).save(tmp_path / "in" / "black.png")
    bundle = PredictionBundle(OTOSCOPY, model)
    _, features = bundle.predict_features(torch.stack([bundle.load(str(tmp_path / "in" / name)) for name in names]))
    limit = 1.05 * float(neighbor_distances(features, features).max())
    write_kind(model, torch.nn.functional.normalize(features), limit)
    assert predict(model, tmp_path / "in", tmp_path / "out.csv") == 0
    out = capsys.readouterr().out
    assert f"kind    6 training images; an image farther than {limit:.3f} from them is not of this kind\n" in out
    assert "images  7 read, 1 bad, 1 not of this kind\n" in out
    rows = {row["file"]: row for row in table(tmp_path / "out.csv")}
    assert [name for name, row in rows.items() if row["not_of_this_kind"]] == ["black.png"]
    assert rows["bad.png"]["distance"] == ""
    assert all((float(row["distance"]) < limit) == (name in names) for name, row in rows.items() if row["distance"])
    model.with_name("kind.npz").unlink()
    assert predict(model, tmp_path / "in", tmp_path / "out.csv") == 0
    assert "kind    unknown: no kind.npz beside the model\n" in capsys.readouterr().out
    assert "distance" not in table(tmp_path / "out.csv")[0]


def test_a_manifest_that_cannot_be_read_is_told(capsys, model, tmp_path):
    write_pictures(tmp_path / "in")
    (tmp_path / "in" / "manifest.csv").write_text("name\na.png\n")
    assert predict(model, tmp_path / "in", tmp_path / "out.csv") == 0
    assert "\ngroups  not from the manifest: " in capsys.readouterr().out
    assert {row["patient"] for row in table(tmp_path / "out.csv")} == {""}


def test_files_that_are_no_images_are_counted(capsys, model, tmp_path):
    write_pictures(tmp_path / "in")
    assert predict(model, tmp_path / "in", tmp_path / "out.csv") == 0
    assert "passed over" not in capsys.readouterr().out
    for name in ("a.txt", "b.txt", "c.gif", "Thumbs.db"):
        (tmp_path / "in" / name).touch()
    assert predict(model, tmp_path / "in", tmp_path / "out.csv") == 0
    assert "\nfiles passed over: 3 (.txt 2, .gif 1)\n" in capsys.readouterr().out


def test_a_bad_file_is_an_error_where_asked_for(capsys, model, tmp_path):
    write_pictures(tmp_path / "in")
    (tmp_path / "in" / "bad.png").touch()
    (tmp_path / "out.csv").write_text("earlier")
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", "--on_bad_item", "error") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'in' / 'bad.png'}: expected an image, got an empty file")
    assert error.endswith("Or pass --on_bad_item skip.\n")
    assert (tmp_path / "out.csv").read_text() == "earlier"


def test_nothing_readable_is_an_error(capsys, model, tmp_path):
    for number in range(12):
        (tmp_path / f"{number:02}.png").touch()
    assert predict(model, tmp_path, tmp_path / "out.csv") == 1
    out, err = capsys.readouterr()
    assert "bad     and 2 more, with their reasons in the CSV\n" in out
    assert err == f"error: input: expected images that can be read, got 12 that cannot. See {tmp_path / 'out.csv'}.\n"
    assert len(table(tmp_path / "out.csv")) == 12


def test_low_confidence_has_no_class(capsys, tmp_path):
    model = untrained_model(tmp_path / "output", calibration=None)
    write_pictures(tmp_path / "in")
    assert predict(model, tmp_path / "in", tmp_path / "all.csv") == 0
    highest = sorted(float(row["confidence"]) for row in table(tmp_path / "all.csv"))
    limit = (highest[0] + highest[-1]) / 2
    header = "id,split,label,predicted,probability_a,probability_b\n"
    lines = ["1,val,a,a,0.99,0.01", "2,val,a,b,0.02,0.98", "3,val,a,a,0.95,0.05", "4,val,b,a,0.1,0.1", "5,test,a,a,1,0"]
    (tmp_path / "output" / "predictions.csv").write_text(header + "\n".join(lines) + "\n")
    capsys.readouterr()
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", "--min_confidence", limit) == 0
    rows = table(tmp_path / "out.csv")
    empty = [row for row in rows if row["predicted"] == ""]
    assert 0 < len(empty) == sum(value < limit for value in highest) < 6
    for row in rows:
        assert row["reason"] == ("below min_confidence" if float(row["confidence"]) < limit else "")
    out = capsys.readouterr().out
    assert "not calibrated: a confidence is not the probability of being right" in out
    assert "on validation 1 of 4 without a class (25%), accuracy of the others 0.667; the chain has seen" in out
    assert f"images  6 read, 0 bad, {len(empty)} below min_confidence\n" in out


def test_a_name_is_no_formula(monkeypatch, model, tmp_path):
    write_pictures(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert predict(model, "=f.bmp", "out.csv") == 0
    assert "\n'=f.bmp," in (tmp_path / "out.csv").read_text()
    assert table(tmp_path / "out.csv")[0]["file"] == "=f.bmp"


def test_dicom_images_get_reports(capsys, model, tmp_path):
    pytest.importorskip("highdicom", reason="structured reports want the extra 'sr'")
    source, study = tmp_path / "in", {"StudyInstanceUID": "1.2.3"}
    write_pictures(source)
    write_dicom(source / "g.dcm", np.arange(600, dtype=np.uint8).reshape(20, 30), **study)
    write_dicom(source / "h.dcm", np.arange(600, dtype=np.uint8).reshape(30, 20))
    (source / "i.dcm").touch()
    assert predict(model, source, tmp_path / "out.csv", "--write_sr", tmp_path / "reports") == 0
    rows = table(tmp_path / "out.csv")
    (path,) = (tmp_path / "reports").iterdir()
    assert rows[int(path.stem) - 1]["file"].endswith("g.dcm")
    (report,), row = read_classification_sr(path), rows[int(path.stem) - 1]
    assert report.predicted == row["predicted"]
    assert report.probabilities == {name: float(row[f"probability_{name}"]) for name in CLASSES}
    assert (report.model, report.bundle) == ("Otoscopy chain classification", OTOSCOPY.name)
    weights = hashlib.sha256(model.read_bytes()).hexdigest()[:12]
    assert report.version == f"0.1.0, weights {weights}"
    assert rows[7]["predicted"] in CLASSES
    assert rows[7]["reason"].startswith("no report: h.dcm: expected a valid StudyInstanceUID")
    out = capsys.readouterr().out
    assert "images  8 read, 1 bad\n" in out
    assert f"reports 1 in {tmp_path / 'reports'}, unverified\n" in out
    assert predict(model, source, tmp_path / "out.csv", "--write_sr", tmp_path / "reports") == 1
    assert capsys.readouterr().err.startswith("error: write_sr: expected an empty folder, got ")
    # what has no class has no report
    options = ["--write_sr", tmp_path / "none", "--min_confidence", "1"]
    assert predict(model, source, tmp_path / "out.csv", *options) == 0
    assert not (tmp_path / "none").exists()


def test_an_interrupted_run_keeps_its_rows(capsys, monkeypatch, model, tmp_path):
    write_pictures(tmp_path / "in")
    predict_batch, calls = images._predict, []

    def interrupted(bundle, batch, kind):
        calls.append(batch)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predict_batch(bundle, batch, kind)

    monkeypatch.setattr(images, "_predict", interrupted)
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", "--batch_size", "2") == 1
    part = tmp_path / "out.csv.part"
    assert capsys.readouterr().err == f"error: stopped after 4 of 6 images; their rows are in {part}\n"
    assert len(table(part)) == 4
    assert not (tmp_path / "out.csv").exists()


def killed(monkeypatch, model, source, output, *options, after=2):
    """Predict, and end as a killed process does, after some batches."""
    write, calls = PredictionTable.write, []

    def written(table, rows):
        if len(calls) == after:
            raise KeyboardInterrupt
        calls.append(write(table, rows))

    with monkeypatch.context() as patch:
        patch.setattr(PredictionTable, "write", written)
        assert predict(model, source, output, *options) == 1


@pytest.fixture(scope="module")
def resumable(tmp_path_factory):
    """Return a model with all that tables can tell beside it."""
    model = untrained_model(tmp_path_factory.mktemp("resumable"), spatial_size=[192, 192])
    bundle = PredictionBundle(OTOSCOPY, model)
    features = bundle.predict_features(torch.rand(5, 3, 192, 192, generator=torch.Generator().manual_seed(0)))[1]
    write_kind(model, torch.nn.functional.normalize(features), 0.01)
    write_held_out(model, [(f"p{number}", "normal", 0.2 + number / 100) for number in range(20)])
    return model


RESUMED = {
    "plain": [],
    "all columns": ["--coverage", "0.9", "--min_confidence", "0.3", "--aggregate", "patient"],
    "reports": ["--write_sr", "reports"],
}


@pytest.mark.parametrize(
    ("options", "cut"),
    [("plain", 0), ("plain", 1), ("plain", 40), ("plain", 10**6), ("all columns", 1), ("reports", 40)],
)
def test_resume_goes_on_from_the_rows_of_a_killed_run(capsys, monkeypatch, resumable, tmp_path, options, cut):
    model = resumable
    write_pictures(tmp_path / "in")
    (tmp_path / "in" / "bad, or\nso.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    write_dicom(tmp_path / "in" / "0.dcm", np.zeros((40, 40), np.uint8), StudyInstanceUID="1.2.3")
    monkeypatch.chdir(tmp_path)
    given = ["--batch_size", "2", *RESUMED[options]]
    assert predict(model, tmp_path / "in", tmp_path / "whole.csv", *given) == 0
    said = capsys.readouterr().out
    if options == "reports":
        (tmp_path / "reports").rename(tmp_path / "before")
    killed(monkeypatch, model, tmp_path / "in", tmp_path / "out.csv", *given)
    part = tmp_path / "out.csv.part"
    rows = part.read_bytes()
    part.write_bytes(rows[: max(0, len(rows) - cut)])
    capsys.readouterr()
    looked, load = [], PredictionBundle.load
    monkeypatch.setattr(PredictionBundle, "load", lambda bundle, path: looked.append(path) or load(bundle, path))
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", *given, "--resume") == 0
    told = capsys.readouterr().out
    assert len(looked) == len(table(tmp_path / "whole.csv")) - {0: 4, 1: 2, 40: 2, 10**6: 0}[cut]
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert [line for line in told.splitlines() if line.startswith("images")] == [
        line for line in said.splitlines() if line.startswith("images")
    ]
    if options == "all columns":
        assert (tmp_path / "out.patient.csv").read_bytes() == (tmp_path / "whole.patient.csv").read_bytes()
    if options == "reports":
        names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("before", "reports")]
        assert names[0] == names[1] != []
    assert not list(tmp_path.glob("out.csv.part*"))


CHANGED = {
    "another model": lambda path, model: model.write_bytes(model.read_bytes() + b" "),
    "no note": lambda path, model: path.with_name("out.csv.part.json").unlink(),
    "a damaged note": lambda path, model: path.with_name("out.csv.part.json").write_text("[" * 10**5),
    "another table": lambda path, model: path.write_text("file,predicted\r\na.png,normal\r\n"),
    "an image more": lambda path, model: Image.new("RGB", (9, 9)).save(path.parent / "in" / "0.png"),
}


@pytest.mark.parametrize("change", CHANGED)
def test_rows_of_another_prediction_are_not_taken_over(capsys, monkeypatch, tmp_path, change):
    model = untrained_model(tmp_path, spatial_size=[192, 192])
    write_pictures(tmp_path / "in")
    killed(monkeypatch, model, tmp_path / "in", tmp_path / "out.csv", "--batch_size", "2")
    part = tmp_path / "out.csv.part"
    CHANGED[change](part, model)
    before = part.read_bytes()
    capsys.readouterr()
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", "--batch_size", "2", "--resume") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert change == "another model" or "error: resume: expected rows of" in error
    assert part.read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value"), [("min_confidence", "0.5"), ("batch_size", "3"), ("set", "spatial_size=[64,64]")]
)
def test_rows_of_other_options_are_not_taken_over(capsys, monkeypatch, model, tmp_path, option, value):
    write_pictures(tmp_path / "in")
    given = [tmp_path / "in", tmp_path / "out.csv"]
    killed(monkeypatch, model, *given, "--batch_size", "2")
    assert predict(model, *given, "--batch_size", "2", f"--{option}", value, "--resume") == 1
    assert "error: " in capsys.readouterr().err
    assert predict(model, *given, "--batch_size", "2", "--resume") == 0
    assert predict(model, *given, "--batch_size", "2", "--resume") == 0  # there is nothing to go on from


def test_what_is_no_model_is_refused(capsys, tmp_path):
    for content in (b"", b"no model"):
        (tmp_path / "model.pt").write_bytes(content)
        assert predict(tmp_path / "model.pt", OTOSCOPY, tmp_path / "out.csv") == 1
        assert capsys.readouterr().err.startswith("error: ckpt: expected a file with a network's weights, got")


def test_the_overlay_of_another_network(capsys, model, tmp_path):
    write_pictures(tmp_path / "in")
    options = ["--config_file", "inference_pretrained.json", "--set", "spatial_size=[192,192]"]
    assert predict(model, tmp_path / "in", tmp_path / "out.csv", *options) == 1
    assert "ckpt: expected the state_dict of EfficientNetLite in" in capsys.readouterr().err


def test_a_bundle_of_findings_refuses_a_model_of_classes(tmp_path):
    bundle = BUNDLES / "chest_xray_chain_classification"
    with pytest.raises(ValueError, match="ckpt: expected a model of several findings an image, as chest_xray_chain_cl"):
        PredictionBundle(bundle, untrained_model(tmp_path, bundle))


@pytest.mark.parametrize(
    "bundle",
    [path for path in sorted(BUNDLES.glob("*_classification")) if not path.name.startswith("chest_xray")],
    ids=lambda path: path.name,
)
def test_each_bundle_gives_probabilities(tmp_path, bundle):
    found = PredictionBundle(bundle, untrained_model(tmp_path, bundle))
    channels = found.metadata["network_data_format"]["inputs"]["image"]["num_channels"]
    probabilities = found.predict(torch.rand(2, channels, *(24,) * found.spatial_dims))
    assert probabilities.shape == (2, len(CLASSES))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    (tmp_path / "chain.json").unlink()
    names = found.metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values()
    if len(names) == len(CLASSES):
        assert PredictionBundle(bundle, tmp_path / "model.pt").classes == list(names)
