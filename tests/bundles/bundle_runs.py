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
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import pytest
import torch
import torch.utils.tensorboard
from figure_bounds import assert_figures_fit
from matplotlib import pyplot  # noqa: F401
from monai.bundle import ConfigWorkflow, run

import monai_weckd.visualize  # noqa: F401
from monai_weckd.utils.errors import first_cause

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
OTOSCOPY = BUNDLES / "otoscopy_chain_classification"

# the files of a training step by step, which most of these tests are about
SCRATCH = ("train", "scratch")
SOLVED = ("train",)
# images so small that their features take little time, by bundle
SMALL_IMAGES = {kind: {"spatial_size": [64, 64]} for kind in ("otoscopy", "blood_smear", "brain_mri")}
SMALL_IMAGES["brain_mri_3d"] = {"spatial_size": [16, 16, 16], "spacing": [3.0, 3.0, 3.0]}
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


def run_python(code, *, folder=None, **environment):
    """Run Python code in a fresh interpreter; returns the finished process with its output as text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)


def run_bundle(bundle, config, *, overlays=(), blocked=False, folder=None, **overrides):
    """Run `monai.bundle run` on a bundle's configuration; with blocked=True monai_weckd cannot be imported."""
    files = [str(bundle / "configs" / f"{name}.json") for name in (config, *overlays)]
    arguments = {"config_file": files, "bundle_root": str(bundle), **overrides}
    block = "sys.modules['monai_weckd'] = None" if blocked else ""
    return run_python(f"import sys; {block}\nfrom monai.bundle import run\nrun(**{arguments!r})", folder=folder)


def train(bundle, dataset_dir, output_dir, *, base=SCRATCH, overlays=(), **overrides):
    """Train a bundle in a copy of this process, which need not import everything again; returns its chain.json."""
    files = [str(bundle / "configs" / f"{name}.json") for name in (*base, *overlays)]
    options = {"config_file": files, "bundle_root": str(bundle), "dataset_dir": str(dataset_dir)}
    options |= {"output_dir": str(output_dir), **(SMALL if base == SCRATCH else {}), **overrides}
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log.txt"
        child = multiprocessing.get_context("fork").Process(target=_train, args=(log, options))
        child.start()
        child.join()
        if child.exitcode:
            raise RuntimeError(log.read_text()[-6000:])
    return json.loads((Path(output_dir) / "chain.json").read_text())


def _train(log, options):
    sys.stdout = sys.stderr = log.open("w", buffering=1)
    for descriptor in (1, 2):
        os.dup2(sys.stdout.fileno(), descriptor)
    torch.set_num_threads(1)  # a forked process has none of its parent's other threads
    warnings.simplefilter("ignore")
    run(**options)


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


def torchrun(bundle, dataset_dir, output_dir, *, processes=2, **overrides):
    """Train a bundle with several processes on this machine; returns the finished launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", f"--nproc_per_node={processes}"]
    command += ["--master_addr=127.0.0.1", f"--master_port={port}", "-m", "monai.bundle", "run"]
    options = {
        "config_file": str([str(bundle / "configs" / f"{name}.json") for name in (*SCRATCH, "multi_gpu_train")]),
        "bundle_root": bundle,
        "dataset_dir": dataset_dir,
        "output_dir": output_dir,
    }
    for key, value in {**options, **SMALL, **overrides}.items():
        command += [f"--{key}", str(value)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONFAULTHANDLER": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
