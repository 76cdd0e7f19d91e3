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
import shutil
from functools import cache

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import KINDS, SMALL_IMAGES, SOLVED, bundle_of, load_network, run_bundle, train
from dicom_files import write_series
from figure_bounds import assert_figures_fit
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export

from monai_weckd.data.phantoms import make_phantom
from monai_weckd.predict.model import PredictionBundle

# the otoscopy bundle, whose files the others are made from, has tests of its own; here is what must hold for all
ITEMS = {"otoscopy": 72, "blood_smear": 72, "brain_mri": 60, "brain_mri_3d": 24}


@pytest.fixture(scope="module")
def datasets(copy_ears, tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    found = {kind: make_phantom(kind, root / kind, items=ITEMS[kind]) for kind in KINDS[1:]}
    return {"otoscopy": copy_ears(root / "otoscopy", ITEMS["otoscopy"]), **found}


@pytest.fixture(scope="module", autouse=True)
def identified(datasets):
    """Give the DICOM phantom a patient's name and birth date, which must turn up nowhere."""
    for path in datasets["brain_mri"].rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "Doe^Jane", "MRN-4711", "19700102"
        dataset.ReferringPhysicianName, dataset.InstitutionName = "Who^Doctor", "Saint Elsewhere"
        dataset.AccessionNumber, dataset.StudyDescription = "ACC-0815", "headache since Easter"
        dataset.save_as(path)


@pytest.fixture(scope="module")
def outputs(datasets, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for kind in KINDS:
        settings = {"label_fraction": 0.25, **SMALL_IMAGES[kind]}
        train(bundle_of(kind), datasets[kind], root / kind, base=SOLVED, report=True, **settings)
    return {kind: root / kind for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_on_its_phantom_and_says_so(kind, outputs):
    chain = json.loads((outputs[kind] / "chain.json").read_text())
    assert len(chain["stages"]) == 3
    assert chain["settings"]["synthetic"] is True
    assert "synthetic" in (outputs[kind] / "report.html").read_text()
    assert json.loads((outputs[kind] / "errors" / "errors.json").read_text())["format"] == 1


@pytest.fixture(scope="module")
def inferred(datasets, outputs, tmp_path_factory):
    """Return a function from a kind to the rows of its bundle's inference on all images, by file."""

    @cache
    def infer_all(kind):
        path = tmp_path_factory.mktemp("inference") / f"{kind}.csv"
        # DICOM is read by this package's reader alone; pictures and NIfTI need no more than MONAI
        dicom = kind == "brain_mri"
        done = run_bundle(
            bundle_of(kind),
            "inference",
            overlays=["dicom"] if dicom else [],
            blocked=not dicom,
            dataset_dir=str(datasets[kind]),
            ckpt_path=str(outputs[kind] / "model.pt"),
            predictions_path=str(path),
            **SMALL_IMAGES[kind],
        )
        assert done.returncode == 0, done.stderr[-3000:]
        with open(path, newline="") as file:
            return {row["file"]: row for row in csv.DictReader(file)}

    return infer_all


def predictions(kind, outputs):
    """Return the rows of a training's predictions.csv."""
    with open(outputs[kind] / "predictions.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", KINDS)
def test_inference_gives_the_probabilities_of_training(kind, datasets, outputs, inferred):
    found, rows = inferred(kind), predictions(kind, outputs)
    assert len(found) == ITEMS[kind]
    assert {row["split"] for row in rows} == {"val", "test"}
    for row in rows:
        other = found[str(datasets[kind] / row["id"])]
        for key in (key for key in row if key.startswith("probability_")):
            # training keeps these images in half precision, and the weights of a head on few labels are large
            assert float(row[key]) == pytest.approx(float(other[key]), abs=3e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_training_says_what_its_model_takes_and_prediction_agrees(kind, outputs):
    chain = json.loads((outputs[kind] / "chain.json").read_text())
    size = chain["settings"]["spatial_size"]
    assert chain["preprocessing"][1 if kind != "brain_mri_3d" else 2]["spatial_size"] == size
    digests = {stage["checkpoint"]: stage["sha256"] for stage in chain["stages"]}
    for name, digest in {**digests, "model.pt": chain["final"]["sha256"]}.items():
        assert hashlib.sha256((outputs[kind] / name).read_bytes()).hexdigest() == digest
    model, images = outputs[kind] / "model.pt", SMALL_IMAGES[kind]
    assert PredictionBundle(bundle_of(kind), model, changes=images).classes == chain["classes"]
    with pytest.raises(ValueError, match=r"preprocessing: expected .* as the model was trained, got "):
        PredictionBundle(bundle_of(kind), model, changes={**images, "preprocessing#transforms#1#keys": "other"})


SECRETS = (b"Jane", b"MRN-4711", b"19700102", b"Who^Doctor", b"Elsewhere", b"ACC-0815", b"Easter")


def test_no_output_holds_what_identifies_a_patient(outputs):
    files = [path for path in outputs["brain_mri"].rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not [word for word in SECRETS if word in content], path


def infer(kind, overlays, images, output, path):
    """Run inference and return the rows of its CSV."""
    done = run_bundle(
        bundle_of(kind),
        "inference",
        overlays=overlays,
        dataset_dir=str(images),
        ckpt_path=str(output / "model.pt"),
        predictions_path=str(path),
        **SMALL_IMAGES[kind],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_volume_has_the_same_probabilities_as_dicom_series_and_as_nifti(datasets, outputs, tmp_path):
    volumes = sorted(datasets["brain_mri_3d"].rglob("*.nii.gz"))[:3]
    for index, path in enumerate(volumes):
        volume = nib.load(path)
        write_series(tmp_path / "dicom" / f"{index}", np.asarray(volume.dataobj).astype(np.int16), volume.affine)
        (tmp_path / "nifti").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "nifti" / f"{index}.nii.gz")
    output = outputs["brain_mri_3d"]
    nifti = infer("brain_mri_3d", [], tmp_path / "nifti", output, tmp_path / "nifti.csv")
    dicom = infer("brain_mri_3d", ["dicom"], tmp_path / "dicom", output, tmp_path / "dicom.csv")
    assert len(nifti) == len(dicom) == len(volumes)
    for one, other in zip(nifti, dicom, strict=True):
        for key in (key for key in one if key.startswith("probability_")):
            assert float(one[key]) == pytest.approx(float(other[key]), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_gives_the_figures_of_inference(kind, datasets, outputs, inferred, tmp_path):
    done = run_bundle(
        bundle_of(kind),
        "evaluate",
        overlays=["dicom"] if kind == "brain_mri" else [],
        blocked=kind != "brain_mri",
        dataset_dir=str(datasets[kind]),
        ckpt_path=str(outputs[kind] / "model.pt"),
        output_dir=str(tmp_path),
        **SMALL_IMAGES[kind],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = dict(line.split(",") for line in (tmp_path / "metrics.csv").read_text().split() if "," in line)
    classes = json.loads((outputs[kind] / "chain.json").read_text())["classes"]
    rows = [row for row in predictions(kind, outputs) if row["split"] == "test"]
    test = [{**row, **inferred(kind)[str(datasets[kind] / row["id"])]} for row in rows]
    # on the same images, though in other batches; training keeps them in half precision, which moves ranks
    assert_figures_fit(figures, test, classes, tolerance=1e-5)


@pytest.mark.parametrize("config", ["train", "evaluate", "inference"])
@pytest.mark.parametrize("kind", KINDS)
def test_properties_are_complete(kind, config, datasets, outputs, tmp_path):
    workflow = ConfigWorkflow(
        str(bundle_of(kind) / "configs" / f"{config}.json"),
        workflow_type="train" if config == "train" else "infer",
        logging_file=False,
        bundle_root=str(bundle_of(kind)),
        dataset_dir=str(datasets[kind]),
        output_dir=str(tmp_path / "unused" if config == "train" else outputs[kind]),
        **SMALL_IMAGES[kind],
        **({"label_fraction": 0.25} if config == "train" else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


ONNX = pytest.param("blood_smear", onnx_export, marks=pytest.mark.slow)


@pytest.mark.parametrize(("kind", "export"), [*((kind, ckpt_export) for kind in KINDS), ONNX])
def test_exports_agree_with_the_network(kind, export, outputs, tmp_path):
    configs = bundle_of(kind) / "configs"
    inputs = json.loads((configs / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    shape = [1, inputs["num_channels"], *SMALL_IMAGES[kind]["spatial_size"]]
    path = tmp_path / ("model.ts" if export is ckpt_export else "model.onnx")
    # where class names come from chain.json beside the checkpoint, as after a training on one's own data
    export(
        "network_def",
        filepath=str(path),
        ckpt_file=str(outputs[kind] / "model.pt"),
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        input_shape=shape,
        ckpt_path=str(outputs[kind] / "model.pt"),
        bundle_root=str(bundle_of(kind)),
        spatial_size=SMALL_IMAGES[kind]["spatial_size"],
        **({"use_trace": True} if export is ckpt_export else {}),  # its loops over layers and flips are no TorchScript
    )
    image = torch.randn(shape)
    expected = load_network(kind, outputs[kind]).eval()(image)
    if export is ckpt_export:
        actual = torch.jit.load(str(path)).eval()(image)
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path))
        actual = torch.as_tensor(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
