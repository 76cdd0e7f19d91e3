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

"""The code of the page "Run it without MONAI", word for word, against `predict`."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from bundle_runs import SMALL_IMAGES, SOLVED, bundle_of, train

from monai_weckd.bundle import BundleConfig
from monai_weckd.cli.main import main
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.networks import EfficientNetLite
from monai_weckd.utils.tables import read_table, table_text

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "run_without_monai.md"
PREPARE = {"otoscopy": "prepare_picture", "brain_mri": "prepare_dicom", "brain_mri_3d": "prepare_volume"}
# an export takes seconds for each flip and size
ONE_VIEW = {"network_def#flip_average": [], "network_def#shrink": [1]}


@pytest.fixture(scope="module")
def page():
    found = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(code, PAGE.name, "exec"), found)
    return found


def run(kind, command, model, settings, *options):
    changes = [f"--set={key}={value}" for key, value in settings.items()]
    words = [command, "--bundle", bundle_of(kind), "--ckpt", model, *changes, *options]
    assert main(list(map(str, words))) == 0


def compared(page, kind, model, folder, settings):
    """Export a model, and return the classes and probabilities of the page and of `predict` for a folder."""
    run(kind, "export", model, settings, "--format", "onnx", "--dataset_dir", folder)
    run(kind, "predict", model, settings, "--input", folder, "--output", model.with_name("new.csv"))
    rows = read_table(model.with_name("new.csv").read_text())
    found = []
    for start in range(0, len(rows), 32):
        paths = [folder / row["file"] for row in rows[start : start + 32]]
        classes, probabilities = page["classify"](model.with_suffix(".onnx"), paths, page[PREPARE[kind]])
        found.append(probabilities)
    expected = np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows])
    assert [row["predicted"] for row in rows] == [classes[place] for place in expected.argmax(axis=1)]
    return np.concatenate(found), expected


def test_a_picture_gets_the_numbers_of_predict(page, copy_ears, tmp_path):
    data, output = copy_ears(tmp_path / "data", 40), tmp_path / "out"
    settings = {**SMALL_IMAGES["otoscopy"], **ONE_VIEW}
    train(bundle_of("otoscopy"), data, output, base=SOLVED, num_stages=1, label_fraction=0.5, **settings)
    found, expected = compared(page, "otoscopy", output / "model.pt", data, settings)
    assert len(set(expected.argmax(axis=1))) > 1  # the images do differ
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_dicom_file_gets_the_numbers_of_predict(page, tmp_path):
    settings = {**SMALL_IMAGES["brain_mri"], **ONE_VIEW}
    model = trained_by_nobody("brain_mri", tmp_path, settings)
    make_phantom("brain_mri", tmp_path / "data", items=12)
    found, expected = compared(page, "brain_mri", model, tmp_path / "data", settings)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_a_volume_gets_the_numbers_of_predict(page, tmp_path):
    rng = np.random.default_rng(0)
    settings = {"spatial_size": [16, 24, 20], **ONE_VIEW}
    model = trained_by_nobody("brain_mri_3d", tmp_path, settings)
    (tmp_path / "data").mkdir()
    for number, signs in enumerate([(1, 1, 1), (-1, -1, 1), (1, -1, -1)]):
        # smaller and larger than the network's input, and turned in the file
        values = rng.integers(0, 99, (13 + 6 * number, 30 - 9 * number, 20), dtype=np.int16)
        nib.save(nib.Nifti1Image(values, np.diag([*signs, 1.0])), tmp_path / "data" / f"{number}.nii.gz")
    found, expected = compared(page, "brain_mri_3d", model, tmp_path / "data", settings)
    assert np.ptp(expected, axis=0).max() > 1e-2
    np.testing.assert_allclose(found, expected, atol=1e-3)


def trained_by_nobody(kind, folder, settings):
    """Write a model with a random head whose probabilities differ between images."""
    config = BundleConfig(bundle_of(kind), "inference", changes=settings)
    config.value("imports")
    torch.manual_seed(0)
    network = config.value("network_def")
    network.network = EfficientNetLite(len(settings["spatial_size"]), 1, pretrained=True)
    network.network.classifier = torch.nn.Identity()
    network.classifier.weight.data *= 10
    torch.save(network.state_dict(), folder / "model.pt")
    return folder / "model.pt"


@pytest.mark.slow
@pytest.mark.shared
def test_real_otoscopic_images_get_the_classes_of_predict(page, shared_data, tmp_path):
    source, data, output = shared_data("otoscopy"), tmp_path / "data", tmp_path / "out"
    rows = read_table((source / "manifest.csv").read_text())
    groups = sorted({row["group"] for row in rows})[::3]
    rows = [row for row in rows if row["group"] in groups]
    for row in rows:
        (data / row["label"]).mkdir(parents=True, exist_ok=True)
        shutil.copy(source / row["file"], data / row["file"])
    columns = ["file", "label", "group"]
    text = table_text(columns, [{name: row[name] for name in columns} for row in rows])
    (data / "manifest.csv").write_text(text)
    settings = {"label_fraction": 0.4, "selection": "random", "num_stages": 1, "test_fraction": 0.4}
    train(bundle_of("otoscopy"), data, output, base=SOLVED, missing_classes="allow", **settings)
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as file:
        tested = [row["id"] for row in csv.DictReader(file) if row["split"] == "test"]
    (tmp_path / "tested").mkdir()
    for number, name in enumerate(tested):
        shutil.copy(data / name, tmp_path / "tested" / f"{number}{Path(name).suffix}")
    found, expected = compared(page, "otoscopy", output / "model.pt", tmp_path / "tested", {})
    assert len(found) > 40
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    assert np.abs(found - expected).mean() < 0.02
    print(f"{len(found)} images, largest difference {np.abs(found - expected).max():.2g}")
