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
import importlib.util
import json
import shutil
from functools import cache

import monai.bundle
import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from bundle_runs import BUNDLES, SMALL_IMAGES, SOLVED, run_bundle, run_python, train
from dicom_files import write_series
from figure_bounds import assert_figures_fit
from monai.bundle import ConfigWorkflow, ckpt_export, onnx_export, verify_metadata, verify_net_in_out
from PIL import Image

from monai_weckd.data.phantoms import make_phantom
from monai_weckd.predict.model import PredictionBundle

# the otoscopy bundle, whose files the others are made from, has tests of its own; here is what must hold for all
REAL = {
    "otoscopy": "otoscopy",
    "blood_smear": "blood_smear",
    "brain_mri": "brain_mri",
    "brain_mri_3d": "hippocampus_mri_3d",
}
KINDS = list(REAL)
ITEMS = {"otoscopy": 72, "blood_smear": 72, "brain_mri": 60, "brain_mri_3d": 24}


def bundle_of(kind):
    return BUNDLES / f"{kind}_chain_classification"


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    return {kind: make_phantom(kind, root / kind, items=count) for kind, count in ITEMS.items()}


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
        train(bundle_of(kind), datasets[kind], root / kind, base=SOLVED, label_fraction=0.25, **SMALL_IMAGES[kind])
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
    assert chain["preprocessing"][0 if kind != "brain_mri_3d" else 2]["spatial_size"] == size
    digests = {stage["checkpoint"]: stage["sha256"] for stage in chain["stages"]}
    for name, digest in {**digests, "model.pt": chain["final"]["sha256"]}.items():
        assert hashlib.sha256((outputs[kind] / name).read_bytes()).hexdigest() == digest
    model, images = outputs[kind] / "model.pt", SMALL_IMAGES[kind]
    assert PredictionBundle(bundle_of(kind), model, changes=images).classes == chain["classes"]
    with pytest.raises(ValueError, match=r"preprocessing: expected .* as the model was trained, got "):
        PredictionBundle(bundle_of(kind), model, changes={**images, "preprocessing#transforms#1#keys": "other"})


def test_pictures_are_turned_and_converted_where_nothing_else_has_imported_pillow(tmp_path):
    # MONAI's LoadImage tries its other readers, without a word, where the one that is asked for fails
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    configs = [
        str(bundle_of(kind) / "configs" / f"{name}.json")
        for kind in ("otoscopy", "brain_mri")
        for name in ("inference", "evaluate")
    ]
    done = run_python(f"""
from monai.bundle import ConfigParser
for config in {configs!r}:
    parser = ConfigParser(ConfigParser.load_config_file(config))
    reader = parser.get_parsed_content("preprocessing#transforms#0#reader")
    image = reader.read({str(tmp_path / "a.jpg")!r})
    print(image.size, image.mode)
""")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-4:] == ["(4, 6) RGB"] * 2 + ["(4, 6) L"] * 2


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


def test_a_medmnist_archive_is_a_data_set(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 80), ("val", 16), ("test", 16)):
        labels = np.arange(count)[:, None] % 2
        images = rng.integers(0, 100, (count, 28, 28, 3)) + 100 * labels[:, :, None, None]
        arrays |= {f"{split}_images": images.astype(np.uint8), f"{split}_labels": labels.astype(np.uint8)}
    np.savez_compressed(tmp_path / "mine.npz", **arrays)
    chain = train(bundle_of("blood_smear"), tmp_path / "mine.npz", tmp_path / "out", label_fraction=0.3)
    assert chain["label_budget"] == {"train": 72, "val": 16}


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


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_follows_the_schema(kind, shared_data, tmp_path):
    schema = shutil.copy(shared_data("monai_bundle_meta_schema_20240725.json"), tmp_path / "schema.json")
    meta_file = bundle_of(kind) / "configs" / "metadata.json"
    verify_metadata(str(meta_file), filepath=str(schema))
    meta = json.loads(meta_file.read_text())
    assert meta["version"] in meta["changelog"]
    assert "monai-weckd" not in meta["required_packages_version"]


@pytest.mark.parametrize("kind", KINDS)
def test_network_agrees_with_the_metadata(kind):
    configs = bundle_of(kind) / "configs"
    verify_net_in_out(
        "network_def",
        meta_file=str(configs / "metadata.json"),
        config_file=str(configs / "inference.json"),
        device="cpu",
        bundle_root=str(bundle_of(kind)),
    )


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
        **({"label_fraction": 0.25} if config == "train" else {}),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


# ONNX takes a minute
@pytest.mark.parametrize(("kind", "export"), [*((kind, ckpt_export) for kind in KINDS), ("blood_smear", onnx_export)])
def test_exports_agree_with_the_network(kind, export, outputs, tmp_path):
    configs = bundle_of(kind) / "configs"
    shape = json.loads((configs / "metadata.json").read_text())["network_data_format"]["inputs"]["image"]
    shape = [1, shape["num_channels"], *shape["spatial_shape"]]
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
        **({"use_trace": True} if export is ckpt_export else {}),  # its loops over layers and flips are no TorchScript
    )
    image = torch.randn(shape)
    expected = load(kind, outputs[kind]).eval()(image)
    if export is ckpt_export:
        actual = torch.jit.load(str(path)).eval()(image)
    else:
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path))
        actual = torch.as_tensor(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)


def load(kind, output):
    """Build the network as inference.json does, and load the trained student strictly."""
    workflow = ConfigWorkflow(
        str(bundle_of(kind) / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle_of(kind)),
        ckpt_path=str(output / "model.pt"),
        device="cpu",
    )
    workflow.initialize()
    network = workflow.network_def
    network.load_state_dict(torch.load(output / "model.pt", weights_only=True), strict=True)
    return network


@pytest.mark.parametrize("kind", KINDS)
def test_bundle_load_gives_the_network(kind, tmp_path):
    bundle = tmp_path / bundle_of(kind).name
    shutil.copytree(bundle_of(kind), bundle)
    (bundle / "models").mkdir(exist_ok=True)
    config = str(bundle / "configs" / "inference.json")
    workflow = ConfigWorkflow(config, workflow_type="infer", logging_file=False, bundle_root=str(bundle))
    workflow.initialize()
    expected = workflow.network_def.state_dict()
    torch.save(expected, bundle / "models" / "model.pt")
    network = monai.bundle.load(bundle.name, bundle_dir=str(tmp_path), source="local", workflow_type="inference")
    assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("kind", ["otoscopy", "brain_mri", "brain_mri_3d"])
def test_it_trains_on_real_images_and_mlflow_tracks_it(kind, shared_data, tmp_path):
    # a data base takes as long to make as all the rest: once will do
    options = {"tracking": "mlflow"} if kind == "otoscopy" else {}
    options |= {"label_fraction": 0.05, "selection": "random", "missing_classes": "allow"}
    options |= SMALL_IMAGES[kind] if kind == "brain_mri_3d" else {"spatial_size": [32, 32]}
    chain = train(bundle_of(kind), shared_data(REAL[kind]), tmp_path / "out", base=SOLVED, **options)
    assert len(chain["stages"]) == 3
    assert (tmp_path / "out" / "mlruns.db").exists() == (kind == "otoscopy")
    assert chain["settings"]["synthetic"] is False
    load(kind, tmp_path / "out")


def test_generated_files_are_current():
    spec = importlib.util.spec_from_file_location("build", BUNDLES / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    for path, text in build.build().items():
        assert path.read_text(encoding="utf-8") == text, f"{path} is not current: run `make bundles`"
