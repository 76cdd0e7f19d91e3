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
from pathlib import Path

import numpy as np
import pytest
from bundle_runs import SMALL_IMAGES, SOLVED, bundle_of, train

from monai_weckd.cli.main import main
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.utils.tables import read_table

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


def compared(page, kind, model, paths, folder, settings):
    """Export a model, and return the classes and probabilities of the page and of `predict`."""
    run(kind, "export", model, settings, "--format", "onnx", "--dataset_dir", paths[0].parent)
    run(kind, "predict", model, settings, "--input", folder, "--output", model.with_name("new.csv"))
    rows = {row["file"]: row for row in read_table(model.with_name("new.csv").read_text())}
    rows = [rows[str(path.relative_to(folder))] for path in paths]
    classes, found = page["classify"](model.with_suffix(".onnx"), paths, page[PREPARE[kind]])
    expected = np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows])
    assert [row["predicted"] for row in rows] == [classes[place] for place in expected.argmax(axis=1)]
    return found, expected


@pytest.mark.parametrize("kind", PREPARE)
def test_a_phantom_gets_the_numbers_of_predict(kind, page, copy_ears, tmp_path):
    items = 32 if kind != "brain_mri_3d" else 24
    data = (
        copy_ears(tmp_path / "data", items)
        if kind == "otoscopy"
        else make_phantom(kind, tmp_path / "data", items=items)
    )
    size = {**SMALL_IMAGES[kind], **ONE_VIEW}
    if kind == "brain_mri_3d":
        size |= {"spacing": [1.0, 1.0, 1.0], "spatial_size": [24, 40, 24]}
    train(bundle_of(kind), data, tmp_path / "out", base=SOLVED, num_stages=1, label_fraction=0.5, **size)
    suffix = {"otoscopy": "*.png", "brain_mri": "*.dcm", "brain_mri_3d": "*.nii.gz"}[kind]
    found, expected = compared(page, kind, tmp_path / "out" / "model.pt", sorted(data.rglob(suffix)), data, size)
    assert len(set(expected.argmax(axis=1))) > 1  # the images do differ
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.slow
@pytest.mark.shared
def test_real_otoscopic_images_get_the_classes_of_predict(page, shared_data, tmp_path):
    data, output = shared_data("otoscopy"), tmp_path / "out"
    settings = {"label_fraction": 0.2, "selection": "random", "num_stages": 1, "test_fraction": 0.2}
    train(bundle_of("otoscopy"), data, output, base=SOLVED, **settings)
    with (output / "predictions.csv").open(newline="", encoding="utf-8") as file:
        paths = [data / row["id"] for row in csv.DictReader(file) if row["split"] == "test"]
    assert len(paths) > 50
    found, expected = compared(page, "otoscopy", output / "model.pt", paths, data, {})
    print(len(paths), (found.argmax(1) == expected.argmax(1)).mean(), np.abs(found - expected).max())
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.99
    assert np.abs(found - expected).mean() < 0.02
