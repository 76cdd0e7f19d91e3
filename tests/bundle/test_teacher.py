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

import json

import pytest
import torch
from bundle_runs import OTOSCOPY, SCRATCH, SMALL, SMALL_IMAGES, SOLVED, refusal, train

from monai_weckd.bundle import BundleConfig, stored_logits
from monai_weckd.data import load_datalist
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.networks import load_weights

COMPACT = (*SCRATCH, "compact")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom("otoscopy", tmp_path_factory.mktemp("phantom") / "data", items=40)


@pytest.fixture(scope="module")
def teacher(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "teacher"
    size = SMALL_IMAGES["otoscopy"]
    train(OTOSCOPY, dataset, folder, base=SOLVED, num_stages=2, label_fraction=0.2, **size)
    return folder


def test_a_small_network_learns_from_the_labels_of_a_run_and_its_model(dataset, teacher, tmp_path):
    options = {"max_epochs": 2, "iterations_per_epoch": 2, "batch_size": 8, "spatial_size": [32, 32]}
    chain = train(OTOSCOPY, dataset, tmp_path / "out", base=COMPACT, teacher_dir=str(teacher), **options)
    assert chain["settings"]["network"] == "ResNet"
    plans = [json.loads((folder / "plan.json").read_text()) for folder in (teacher, tmp_path / "out")]
    assert plans[1]["stages"][-1]["labeled"] == plans[0]["stages"][-1]["labeled"]
    assert [plans[1][split] for split in ("train", "val", "test")] == [
        plans[0][split] for split in ("train", "val", "test")
    ]
    epochs = json.loads((tmp_path / "out" / "history.json").read_text())["epochs"]
    assert all(epoch["distillation_loss"] > 0 for epoch in epochs)


def test_stored_logits_are_those_of_the_model_that_the_run_deploys(dataset, teacher):
    datalist = load_datalist(dataset)
    items = list(datalist.items)[3:9]
    table = stored_logits(teacher, items, bundle=OTOSCOPY, classes=datalist.classes)
    config = BundleConfig(OTOSCOPY, changes={"dataset_dir": str(dataset), **SMALL_IMAGES["otoscopy"]})
    network = config.value("network_def").eval()
    load_weights(network, teacher / "model.pt", name="teacher")
    images = torch.stack([torch.as_tensor(config.value("train#preprocessing")(dict(item))["image"]) for item in items])
    with torch.no_grad():
        expected = network(images)
    # images are kept as bytes, which moves a logit a little
    torch.testing.assert_close(torch.softmax(table.logits, 1), torch.softmax(expected, 1), rtol=0, atol=2e-2)


@pytest.mark.parametrize(
    "case",
    [
        pytest.param({"run_dir": None}, id="none"),
        pytest.param({"run_dir": "nothing"}, id="no folder"),
        pytest.param({"classes": ("a", "b")}, id="other classes"),
    ],
)
def test_other_teachers_are_refused(dataset, teacher, case):
    arguments = {"run_dir": teacher, "classes": load_datalist(dataset).classes, **case}
    with pytest.raises(ValueError, match=r"^teacher_dir: expected "):
        stored_logits(arguments.pop("run_dir"), [], bundle=OTOSCOPY, **arguments)


def test_a_run_without_a_teacher_is_refused(dataset, tmp_path):
    found = refusal(
        OTOSCOPY, base=COMPACT, dataset_dir=str(dataset), output_dir=str(tmp_path / "out"), **{**SMALL, "max_epochs": 2}
    )
    assert found.startswith("teacher_dir: expected the output folder of a finished run, got None.")
