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

import pytest
import torch
from bundle_runs import KINDS, RUN_WITHOUT_REPORT, SCRATCH, SHORT_PROBE, arguments_of, bundle_of, run_calls
from figure_bounds import assert_figures_fit
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, onnx_export, verify_net_in_out

from monai_weckd.data.phantoms import make_phantom
from monai_weckd.networks import EfficientNetLite

# of another number of channels or axes each; the fourth has what the first one has
ITEMS = {"otoscopy": 48, "brain_mri": 48, "brain_mri_3d": 24}
# as small as a chain can be: what is tested is that it runs, not what it learns
TINY = {
    "max_epochs": 2,
    "num_stages": 2,
    "iterations_per_epoch": 1,
    "batch_size": 4,
    "label_fraction": 0.3,
    "plan#settings#stratify": True,
    "run": RUN_WITHOUT_REPORT,
    **SHORT_PROBE,
}
SMALL_IMAGES = {kind: {"spatial_size": [32, 32]} for kind in KINDS}
SMALL_IMAGES["brain_mri_3d"] = {"spatial_size": [16, 16, 16], "spacing": [3.0, 3.0, 3.0]}


def config(kind, *names):
    files = [str(bundle_of(kind) / "configs" / f"{name}.json") for name in names]
    parser = ConfigParser()
    parser.read_config(files)
    parser.read_meta(str(bundle_of(kind) / "configs" / "metadata.json"))
    return parser


def run_alone(bundle, names, **overrides):
    """Run a bundle's configurations, each with its overlay, in one process that cannot import monai_weckd."""
    return run_calls(
        [arguments_of(bundle, (name, "inference_pretrained"), **overrides) for name in names], blocked=True
    )


@pytest.fixture(scope="module")
def datasets(copy_ears, tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    found = {kind: make_phantom(kind, root / kind, items=ITEMS[kind]) for kind in ("brain_mri", "brain_mri_3d")}
    return {"otoscopy": copy_ears(root / "otoscopy", ITEMS["otoscopy"]), **found}


@pytest.fixture(scope="module")
def outputs(datasets, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for kind in ITEMS:
        configs = bundle_of(kind) / "configs"
        places = {"bundle_root": str(bundle_of(kind)), "dataset_dir": str(datasets[kind])}
        # in this process: starting four others takes longer than the four trainings
        workflow = ConfigWorkflow(
            [str(configs / f"{name}.json") for name in (*SCRATCH, "pretrained")],
            workflow_type="train",
            logging_file=False,
            **{**TINY, **places, **SMALL_IMAGES[kind], "output_dir": str(root / kind)},
        )
        workflow.initialize()
        workflow.run()
    return {kind: root / kind for kind in ITEMS}


@pytest.fixture
def lone(tmp_path, outputs):
    """Return a function that copies a bundle away from this package, its trained student in its place."""

    def copy(kind):
        bundle = tmp_path / bundle_of(kind).name
        shutil.copytree(bundle_of(kind), bundle, ignore=shutil.ignore_patterns("models", "output"))
        (bundle / "models").mkdir()
        for name in ("model.pt", "chain.json", "datalist.json"):
            shutil.copy(outputs[kind] / name, bundle / "models")
        return bundle

    return copy


@pytest.mark.parametrize("kind", ITEMS)
def test_what_it_trains_is_the_pretrained_network(kind, outputs):
    chain = json.loads((outputs[kind] / "chain.json").read_text())
    assert chain["settings"]["network"] == "EfficientNetLite"
    assert len(chain["stages"]) == 2
    trained = torch.load(outputs[kind] / "model.pt", weights_only=True)
    dims, channels = (3 if kind == "brain_mri_3d" else 2), trained["stem.conv.weight"].shape[1]
    scale = 0.45 if kind.startswith("brain") else 1.0
    assert channels == (1 if kind.startswith("brain") else 3)
    imagenet = EfficientNetLite(dims, channels, pretrained=True, input_scale=scale).state_dict()
    # two steps move a weight by no more than a few learning rates
    for key in ("stem.conv.weight", "stages.3.2.depthwise.conv.weight", "head.conv.weight"):
        assert 0 < (trained[key] - imagenet[key]).abs().max() < 0.01


@pytest.mark.parametrize("kind", ["otoscopy", "brain_mri_3d"])
def test_inference_and_evaluation_need_no_monai_weckd(kind, datasets, outputs, lone, tmp_path):
    bundle = lone(kind)
    options = {"dataset_dir": str(datasets[kind]), "output_dir": str(tmp_path / "out"), **SMALL_IMAGES[kind]}
    done = run_alone(bundle, ["inference", "evaluate"], ckpt_path=str(bundle / "models" / "model.pt"), **options)
    assert done.returncode == 0, done.stderr[-3000:]
    with open(tmp_path / "out" / "inference.csv", newline="") as file:
        inferred = {row["file"]: row for row in csv.DictReader(file)}
    with open(outputs[kind] / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows
    for row in rows:
        for key in (key for key in row if key.startswith("probability_")):
            # training keeps images in bytes or half precision
            assert float(row[key]) == pytest.approx(float(inferred[str(datasets[kind] / row["id"])][key]), abs=2e-2)
    figures = dict(line.split(",") for line in (tmp_path / "out" / "metrics.csv").read_text().split() if "," in line)
    classes = json.loads((outputs[kind] / "chain.json").read_text())["classes"]
    test = [{**row, **inferred[str(datasets[kind] / row["id"])]} for row in rows if row["split"] == "test"]
    assert_figures_fit(figures, test, classes, tolerance=1e-6)


@pytest.mark.parametrize("kind", ITEMS)
def test_the_network_of_inference_loads_what_training_saved(kind, outputs):
    parser = config(kind, "inference", "inference_pretrained")
    parser["bundle_root"] = str(bundle_of(kind))
    parser["ckpt_path"] = str(outputs[kind] / "model.pt")
    network = parser.get_parsed_content("network_def")
    assert type(network).__module__ == "networks.efficientnet_lite"
    network.load_state_dict(torch.load(outputs[kind] / "model.pt", weights_only=True), strict=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_overlays_agree_on_what_inference_must_know(kind):
    ours, theirs = config(kind, *SCRATCH, "pretrained"), config(kind, "inference", "inference_pretrained")
    assert ours["spatial_size"] == theirs["spatial_size"]
    # each has the class names from elsewhere: the data list, or what the training has written down
    names = (ours["network_def"].pop("num_classes"), theirs["network_def"].pop("num_classes"))
    assert names == ("$len(@datalist.classes)", "$len(@class_names)")
    learned = {"_target_", "pretrained", "input_scale", "norm_momentum"}
    assert {k: v for k, v in ours["network_def"].items() if k not in learned} == {
        k: v for k, v in theirs["network_def"].items() if k not in {"_target_", "_requires_"}
    }


@pytest.mark.parametrize("kind", KINDS)
def test_the_overlay_changes_places_that_exist(kind):
    train_config = config(kind, *SCRATCH)
    overlay = ConfigParser.load_config_file(str(bundle_of(kind) / "configs" / "pretrained.json"))
    for place in (place for place in overlay if not place.startswith("network_def#")):
        assert place in train_config, place


@pytest.mark.parametrize("export", [ckpt_export, pytest.param(onnx_export, marks=pytest.mark.slow)])
def test_exports_agree_with_the_network(export, outputs, lone, tmp_path):
    bundle = lone("otoscopy")
    configs = bundle / "configs"
    path = tmp_path / ("model.ts" if export is ckpt_export else "model.onnx")
    arguments = {
        "meta_file": str(configs / "metadata.json"),
        "config_file": [str(configs / "inference.json"), str(configs / "inference_pretrained.json")],
        "bundle_root": str(bundle),
    }
    export(
        "network_def",
        filepath=str(path),
        ckpt_file=str(bundle / "models" / "model.pt"),
        input_shape=[1, 3, 64, 64],
        **arguments,
    )
    network = EfficientNetLite(num_classes=4).eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    image = torch.randn(1, 3, 64, 64)
    if export is ckpt_export:
        actual = torch.jit.load(str(path)).eval()(image)
    else:
        session = pytest.importorskip("onnxruntime").InferenceSession(str(path))
        actual = torch.as_tensor(session.run(None, {session.get_inputs()[0].name: image.numpy()})[0])
    torch.testing.assert_close(actual, network(image), rtol=1e-3, atol=1e-4)
    verify_net_in_out("network_def", device="cpu", **arguments)
