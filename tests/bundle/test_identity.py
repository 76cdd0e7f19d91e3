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
from dataclasses import asdict, fields

import pytest
from chain_runs import make_chain, make_items
from held_out import held_out
from monai.bundle import ConfigParser
from monai.data import Dataset
from torch.utils.data import DataLoader

from monai_weckd import PlanSettings, plan_chain
from monai_weckd.bundle import recorded_settings
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.engines import ChainOptions
from monai_weckd.handlers import ChainRecorder

CONFIG = {
    "imports": ["$import monai_weckd"],
    "bundle_root": ".",
    "dataset_dir": "data",
    "seed": 4,
    "selection": "herding",
    "cache": None,
    "stages": "@seed",
    "doubled": "$@seed * 2",
    "copied": "%seed",
    "size": [64, 64],
    "sizes": ["@seed", 64],
    "train": {"rate": 0.1},
    "loss_function": {"_target_": "monai_weckd.losses.DistillationLoss", "weight": "@seed", "temperature": 2.0},
    "run": ["a"],
    "found": "$monai_weckd.bundle.recorded_settings(@dataset_dir)",
}


def recorded(**changes):
    parser = ConfigParser({**CONFIG, **changes})
    parser.get_parsed_content("imports")
    return parser.get_parsed_content("found")


def test_plain_values_at_the_top_and_of_the_loss_are_recorded():
    expected = {"seed": 4, "selection": "herding", "cache": None, "copied": 4, "size": [64, 64], "temperature": 2.0}
    assert recorded() == {**expected, "synthetic": False}


def test_phantoms_are_recorded_as_synthetic(tmp_path):
    make_phantom("otoscopy", tmp_path / "data", items=8)
    assert recorded(dataset_dir=str(tmp_path / "data"))["synthetic"] is True


def test_what_was_not_used_is_recorded(tmp_path):
    for name in ("ill/a.png", "well/b.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    place = {"datalist": {"_target_": "monai_weckd.data.load_datalist", "dataset_dir": str(tmp_path)}}
    found = recorded(**place, found="$monai_weckd.bundle.recorded_settings(@dataset_dir, @datalist)")
    assert found["passed_over"] == "files passed over: 1 (.txt 1)"


def test_called_from_elsewhere_it_says_so():
    with pytest.raises(RuntimeError, match="recorded_settings: expected to be called from a bundle's configuration"):
        recorded_settings("data")


def test_chain_json_has_every_option_of_plan_and_chain(tmp_path):
    items = make_items(24)
    settings = held_out(policy="cumulative", label_fraction=0.2, seed=1)
    plan = plan_chain(items, settings, classes=("a", "b", "c"))
    recorder = ChainRecorder(tmp_path, None, val_data_loader=DataLoader(Dataset(plan.select(items, "val"))))
    options = {"averaging": 0.5, "stage_epochs": [2, 1, 1], "head_layer": "6"}
    trainer = make_chain(items=items, plan=plan, handlers=[recorder], max_epochs=4, epoch_length=1, **options)
    recorder.evaluator = trainer.walker.evaluator
    trainer.run()
    found = json.loads((tmp_path / "chain.json").read_text())["settings"]
    expected = {**asdict(settings), **asdict(ChainOptions(**options)), "stage_epochs": [2, 1, 1]}
    assert {field.name for kind in (PlanSettings, ChainOptions) for field in fields(kind)} == set(expected)
    assert {name: found[name] for name in expected} == expected
