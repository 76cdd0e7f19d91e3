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
import random
import shutil

import pytest
import torch
from bundle_runs import OTOSCOPY
from faulty_runs import bits, run_once

# a machine may be busy with other things
pytestmark = pytest.mark.timeout(1800)

TRAIN = OTOSCOPY / "configs" / "train.json"
# three stages of two epochs each; all else as the bundle has it: active selection, averaging, calibration, the pool
SETTINGS = {
    "max_epochs": 6,
    "iterations_per_epoch": 2,
    "batch_size": 4,
    "label_fraction": 0.3,
    "missing_classes": "allow",
    "spatial_size": [24, 24],
    "network_def#block_inplanes": [8, 16, 32, 64],
    # what costs time and comes to nothing that could differ
    "train#monitors#2#seconds": 0.1,
    "train#recorder#target_layer": None,
    "run": [step for step in json.loads(TRAIN.read_text())["run"] if "write_report" not in step],
}
WORKERS = {"train#dataloader#num_workers": 2}
CHAINS = {
    "default": {},
    "workers": WORKERS,
    "cached teacher": {
        "chain#views": 2,
        "chain#teacher_cache": True,
        "loss_function#attention_weight": 1.0,
        "train#checkpoint#interval": 2,
    },
    "ensemble": {
        "chain#teacher": "ensemble",
        "chain#accept": "always",
        "chain#init": "initial",
        "chain#stage_epochs": [1, 3, 2],
    },
    "mean teacher": {**WORKERS, "chain#teacher": "average", "chain#alignment": True},
}
FILES = {"model.pt", "predictions.csv", "plan.json", "datalist.json", "chain.json", "history.json"}


@pytest.fixture(scope="module")
def dataset(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("data") / "otoscopy", 60)


@pytest.fixture
def chain(dataset, tmp_path):
    """Return a function that gives the settings of a run in a folder of its own."""

    def settings(folder, **changes):
        places = {"dataset_dir": str(dataset), "output_dir": str(tmp_path / folder)}
        return {**SETTINGS, **places, **changes}

    return settings


@pytest.fixture(scope="module")
def whole(dataset, tmp_path_factory):
    """What the default chain writes when nothing happens to it."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    status, last, _ = run_once({**SETTINGS, "dataset_dir": str(dataset), "output_dir": str(folder)})
    assert status == 0, last
    found = bits(folder)
    assert set(found) == FILES | {f"stage_{stage}/model.pt" for stage in (1, 2, 3)}
    return found


def test_a_chain_that_is_killed_three_times_ends_with_the_same_bits(chain, whole, tmp_path):
    fault = {"file": "checkpoint.pt", "number": 2}
    # also with other numbers of workers
    assert run_once(chain("run", resume=True), fault={**fault, "where": "within"})[0] == -9
    assert (tmp_path / "run" / "checkpoint.pt.part").exists()
    assert run_once(chain("run", resume=True, **WORKERS), fault={**fault, "where": "before"})[0] == -9
    assert run_once(chain("run", resume=True), fault={**fault, "where": "after"})[0] == -9
    status, last, _ = run_once(chain("run", resume=True, **WORKERS))
    assert status == 0, last
    assert bits(tmp_path / "run") == whole
    before = (tmp_path / "run" / "model.pt").stat().st_mtime_ns
    # complete, which is no error
    assert run_once(chain("run", resume=True))[0] == 0
    assert (tmp_path / "run" / "model.pt").stat().st_mtime_ns == before
    assert bits(tmp_path / "run") == whole


@pytest.mark.parametrize(
    ("file", "number"), [("checkpoint.pt", 3), pytest.param("model.pt", 2, marks=pytest.mark.faults)]
)
def test_a_full_disk_is_told_and_gone_on_from(chain, whole, tmp_path, file, number):
    status, last, _ = run_once(chain("run"), fault={"where": "full", "file": file, "number": number})
    assert status == 1
    assert file in last
    assert ": expected room for " in last
    assert "got 'File too large'. Free some space and go on with resume; what was written before is whole." in last
    assert not list((tmp_path / "run").rglob("*.part"))
    torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    status, last, _ = run_once(chain("run", resume=True))
    assert status == 0, last
    assert bits(tmp_path / "run") == whole


@pytest.mark.faults
@pytest.mark.parametrize("where", ["within", "before", "after"])
@pytest.mark.parametrize("file", ["checkpoint.pt", "model.pt"])
def test_killed_in_each_write_of_a_file(chain, whole, tmp_path, where, file):
    killed = 0
    while run_once(chain("run", resume=True), fault={"where": where, "file": file, "number": 1 + killed % 2})[0]:
        killed += 1
        assert killed < 20
        if (where, file) in (("within", "model.pt"), ("before", "model.pt"), ("before", "checkpoint.pt")) or killed > 3:
            break
    assert killed
    status, last, _ = run_once(chain("run", resume=True))
    assert status == 0, last
    assert bits(tmp_path / "run") == whole


@pytest.mark.faults
@pytest.mark.parametrize("name", CHAINS)
def test_killed_at_random_moments(chain, tmp_path, name):
    kills = 10 if name in ("default", "workers") else 3
    status, last, seconds = run_once(chain("whole", **CHAINS[name]))
    assert status == 0, last
    expected, moments, killed = bits(tmp_path / "whole"), random.Random(name), 0
    while killed < kills:
        status, last, took = run_once(
            chain("run", resume=True, **CHAINS[name]), kill_after=moments.uniform(0.0, 0.9 * seconds)
        )
        assert status in (0, -9), last
        killed += status == -9
        if status == 0:
            assert bits(tmp_path / "run") == expected
            seconds = min(seconds, took)  # the machine has become less busy
            shutil.rmtree(tmp_path / "run")
    status, last, _ = run_once(chain("run", resume=True, **CHAINS[name]))
    assert status == 0, last
    assert bits(tmp_path / "run") == expected
