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

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.label_efficiency.__main__ import SETS, STARTS, command
from benchmarks.label_efficiency.page import BEGIN, END, PAGE, load, rows, share, tables

ROOT = Path(__file__).resolve().parents[1]


def test_the_command_is_one_of_compare():
    args = argparse.Namespace(
        data=Path("sets"), output_dir=Path("out"), folds=5, repeats=2, arms="chain,paper", extra=["--set=seed=1"]
    )
    found = command("frozen", "hippocampus_mri_3d", 0.05, args)
    assert found[0] == "compare"
    assert "--bundle=bundles/brain_mri_3d_chain_classification" in found
    assert "--label_fraction=0.05" in found
    assert found[-2:] == ["--set=seed=1", "--arms=chain,paper"]
    assert set(STARTS["frozen"]) < set(found)


def test_every_set_has_its_bundle():
    for name in SETS.values():
        assert (ROOT / "bundles" / f"{name}_chain_classification" / "configs" / "train.json").exists()


def test_an_arm_is_a_line_of_the_table():
    figure = {"mean": 0.75, "sd": 0.02, "pooled": 0.74}
    arm = {
        "title": "the chain",
        "labels": 30.0,
        "seconds": 4.2,
        "metrics": dict.fromkeys(("balanced_accuracy", "macro_f1", "macro_auc", "ece"), figure),
        "difference": {"balanced_accuracy": {"value": 0.031, "interval": [-0.01, 0.07]}},
    }
    lines = list(rows({"arms": [arm, {**arm, "metrics": None}]}))
    assert len(lines) == 3
    assert lines[2] == "| the chain | 30 | .750 ± .020 | +3.1 (-1.0 to +7.0) | .750 | .750 | .750 | 4 |"
    assert share(None) == ""


def test_the_page_is_that_of_the_kept_results():
    found = load()
    assert found
    page = PAGE.read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == "\n" + tables(found) + "\n"
    for content in found:
        assert content["finished"] == content["runs"]
        assert str(ROOT.parent) not in json.dumps(content["about"])
