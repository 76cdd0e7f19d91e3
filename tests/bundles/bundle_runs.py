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
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# what a training imports, so that no copy need do so again
import torch._dynamo
import torch.utils.tensorboard
from bundle_processes import run_bundles, run_rank
from figure_bounds import assert_figures_fit
from matplotlib import pyplot  # noqa: F401
from monai.bundle import ConfigWorkflow
from process_copies import run_copies

import monai_weckd.annotation
import monai_weckd.visualize  # noqa: F401
from monai_weckd.utils.errors import first_cause

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
OTOSCOPY = BUNDLES / "otoscopy_chain_classification"

KINDS = ["otoscopy", "blood_smear", "brain_mri", "brain_mri_3d"]

# the files of a training step by step, which most of these tests are about
SCRATCH = ("train", "scratch")
SOLVED = ("train",)
# images so small that their features take little time, by bundle
SMALL_IMAGES = {kind: {"spatial_size": [64, 64]} for kind in KINDS[:3]}
SMALL_IMAGES["brain_mri_3d"] = {"spatial_size": [16, 16, 16], "spacing": [3.0, 3.0, 3.0]}
# drawing takes as long as training
RUN_WITHOUT_REPORT = [
    step for step in json.loads((OTOSCOPY / "configs" / "train.json").read_text())["run"] if "write_report" not in step
]
# the probe of the cost report, in seconds
SHORT_PROBE = {"train#monitors#2#seconds": 0.2}
# the smallest chain that still walks through three stages, after a short probe
SMALL = {
    "max_epochs": 3,
    "iterations_per_epoch": 2,
    "batch_size": 8,
    "label_fraction": 0.3,
    **SHORT_PROBE,
}


def bundle_of(kind):
    return BUNDLES / f"{kind}_chain_classification"


def run_python(code):
    """Run Python code in a fresh interpreter; returns the finished process with its output as text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, env=environment)


def arguments_of(bundle, configs, **overrides):
    """Return the arguments of `monai.bundle run` for a bundle's configurations."""
    return {
        "config_file": [str(bundle / "configs" / f"{name}.json") for name in configs],
        "bundle_root": str(bundle),
        **overrides,
    }


def run_calls(calls, *, blocked=False, folder=None):
    """Do `monai.bundle run` for each of some arguments in a copy of this process, or of one without monai_weckd.

    Neither need import everything again. Returns the finished process with its output as text.
    """
    preload = ("monai.bundle", "torch._dynamo") if blocked else ()
    return run_copies(run_bundles, [(calls, blocked)], folder=folder, preload=preload)[0]


def run_bundle(bundle, config, *, overlays=(), blocked=False, folder=None, **overrides):
    """Run a bundle's configuration; with blocked=True monai_weckd cannot be imported."""
    return run_calls([arguments_of(bundle, (config, *overlays), **overrides)], blocked=blocked, folder=folder)


def train(bundle, dataset_dir, output_dir, *, base=SCRATCH, overlays=(), report=False, **overrides):
    """Train a bundle in a copy of this process, without the report unless it is asked for; returns its chain.json."""
    settings = {**(SMALL if base == SCRATCH else SHORT_PROBE), **overrides}
    if not report:
        settings["run"] = RUN_WITHOUT_REPORT
    places = {"dataset_dir": str(dataset_dir), "output_dir": str(output_dir)}
    done = run_calls([arguments_of(bundle, (*base, *overlays), **places, **settings)])
    if done.returncode:
        raise RuntimeError(done.stdout[-3000:] + done.stderr[-6000:])
    return json.loads((Path(output_dir) / "chain.json").read_text())


def load_network(kind, output):
    """Build the network as inference.json does, and load the trained student strictly."""
    workflow = ConfigWorkflow(
        str(bundle_of(kind) / "configs" / "inference.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(bundle_of(kind)),
        ckpt_path=str(output / "model.pt"),
        spatial_size=SMALL_IMAGES[kind]["spatial_size"],
        device="cpu",
    )
    workflow.initialize()
    network = workflow.network_def
    network.load_state_dict(torch.load(output / "model.pt", weights_only=True), strict=True)
    return network


def assert_the_gate_fits(chain, output_dir):
    """Check that gate and record of the final stage are of its student, by the probabilities that are kept of it."""
    with open(Path(output_dir) / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
    stage = chain["stages"][chain["final"]["stage"] - 1]
    for value in (stage["gate"]["value"], stage["val"]["macro_auc"]):
        # the gate looks at the images in other batches than the record
        assert_figures_fit({"macro_auc": value}, rows, chain["classes"], tolerance=1e-5, names=["macro_auc"])


def refusal(bundle, *, base=SCRATCH, overlays=(), **overrides):
    """Run a training in this process that must fail; returns the line that the user reads last."""
    files = [str(bundle / "configs" / f"{name}.json") for name in (*base, *overlays)]
    workflow = ConfigWorkflow(files, workflow_type="train", logging_file=False, bundle_root=str(bundle), **overrides)

    def initialize_and_run():
        workflow.initialize()
        workflow.run()

    with pytest.raises(RuntimeError) as error:
        initialize_and_run()
    return str(first_cause(error.value))


def multi_gpu(bundle, dataset_dir, output_dir, **overrides):
    """Return the arguments of a training with several processes."""
    configs = [*SCRATCH, "multi_gpu_train"]
    return arguments_of(bundle, configs, dataset_dir=str(dataset_dir), output_dir=str(output_dir), **SMALL, **overrides)


def free_port():
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def run_ranks(call):
    """Run a bundle in two copies of this process, as torchrun does in new ones; returns both, finished."""
    environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return run_copies(run_rank, [(rank, call, environment) for rank in (0, 1)])


def torchrun(call):
    """Run a bundle with two processes on this machine; returns the finished launcher."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_addr=127.0.0.1", f"--master_port={free_port()}", "-m", "monai.bundle", "run"]
    for key, value in call.items():
        command += [f"--{key}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONFAULTHANDLER": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
