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

import numpy as np

from monai_weckd.compare.statistics import RunPredictions

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.label_efficiency.__main__ import SETS, STARTS, command, keep_predictions
from benchmarks.label_efficiency.goals import goals
from benchmarks.label_efficiency.page import BEGIN, END, PAGE, ablations, load, rows, share, tables

ROOT = Path(__file__).resolve().parents[1]


def test_the_command_is_one_of_compare():
    args = argparse.Namespace(
        data=Path("sets"),
        output_dir=Path("out"),
        folds=5,
        repeats=2,
        seeds=[0, 1],
        variant="random",
        arms="chain,paper",
        extra=["--executor=dask", "--scheduler=tcp://127.0.0.1:8786"],
    )
    found = command("pretrained", "hippocampus_mri_3d", 0.05, args)
    assert found[0] == "compare"
    assert "--bundle=bundles/brain_mri_3d_chain_classification" in found
    assert "--label_fraction=0.05" in found
    assert "--output_dir=out/pretrained-hippocampus_mri_3d-0.05-random" in found
    assert found[-3:] == ["--executor=dask", "--scheduler=tcp://127.0.0.1:8786", "--arms=chain,paper"]
    assert set(STARTS["pretrained"]) < set(found)


def test_every_set_has_its_bundle():
    for name in SETS.values():
        assert (ROOT / "bundles" / f"{name}_chain_classification" / "configs" / "train.json").exists()


def test_predictions_of_each_item_are_kept():
    class Store:
        def predictions(self, arm, cell, task):
            assert task.names == ("a", "b")
            right = np.array([[0.9, 0.1], [0.2, 0.8]])
            return RunPredictions(*cell, ["x", "y"], np.array([0, 1]), right if arm == "chain" else right[::-1])

    content = {
        "classes": ["a", "b"],
        "results": [{"arm": arm, "repeat": 0, "fold": 1, "seed": 0} for arm in ("chain", "x")],
    }
    keep_predictions(content, Store())
    assert content["tests"] == {"0 1": {"ids": ["x", "y"], "labels": "01"}}
    assert [result["predicted"] for result in content["results"]] == ["01", "10"]


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


def arm(name, accuracy, ece=0.1, gain=None, stages=()):
    """Return an arm of a comparison; gain is that of the chain over it, in points, with an interval of one each way."""
    metrics = {"balanced_accuracy": {"mean": accuracy}, "ece": {"mean": ece}}
    difference = gain and {
        "balanced_accuracy": {"value": gain / 100, "interval": [gain / 100 - 0.01, gain / 100 + 0.01]}
    }
    stages = [{"test": {"balanced_accuracy": value}} for value in stages]
    return {"name": name, "metrics": metrics, "difference": difference, "stages": stages}


def comparison(name, fraction, *arms, variant="", runs=()):
    about = {"dataset_dir": name, "label_fraction": fraction, "start": "frozen", "variant": variant}
    results = [
        {"arm": "chain", "repeat": 0, "fold": fold, "seed": 0, "test": {"balanced_accuracy": value}}
        for fold, value in enumerate(runs)
    ]
    return {"about": about, "arms": arms, "results": results}


def test_goals():
    chain = arm("chain", 0.8, ece=0.05, stages=[0.6, 0.7, 0.65])
    first = [
        arm("single_long", 0.76, gain=4),
        arm("kd", 0.77, gain=3),
        arm("fixmatch", 0.81, gain=-1),
        arm("paper", 0.6, gain=20),
    ]
    second = [arm("single_long", 0.75, gain=5), arm("mean_teacher", 0.7, ece=0.04, gain=10), arm("paper", 0.6, gain=20)]
    everything = arm("everything", 0.83, gain=-3)
    lines = goals([comparison("ears", 0.1, chain, *first, everything), comparison("cells", 0.05, chain, *second)])
    assert [line.split(" | ")[0][2:] + " " + line.split(" | ")[-1][:-2] for line in lines[2:]] == [
        "G1 met",
        "G2 met",
        "G3 missed",
        "G4 missed",
        "G5 missed",
        "G5 missed",
    ]
    assert "| +4.0; ears +3.0 (+2.0 to +4.0), cells +5.0 (+4.0 to +6.0) |" in lines[3]
    assert "| -3.0 (-4.0 to -2.0) |" in lines[5]
    assert "0.050 against 0.070, lower in 1 of 2" in lines[6]
    assert "| 2 of 4 |" in lines[7]


def test_half_the_labels_and_the_first_stage():
    half = comparison("ears", 0.05, arm("chain", 0.8), arm("first", 0.64, gain=16))
    whole = comparison("ears", 0.1, arm("chain", 0.9), arm("single_long", 0.79, gain=11))
    lines = goals([half, whole])
    (line,) = [line for line in lines if line.startswith("| G4")]
    assert "| +1.0 | ≥ 0 | met |" in line
    assert "| at most +16.0;" in lines[-1]
    assert lines[-1].endswith("| met |")


def test_ablations_are_paired():
    found = [
        comparison("ears", 0.05, runs=[0.8, 0.7, 0.1]),
        comparison("ears", 0.05, variant="random", runs=[0.7, 0.6]),
    ]
    lines = list(ablations(found))
    assert lines[2:] == ["| none | .533 |  |", "| random | .650 | -10.0 |"]
    assert list(ablations(found[:1])) == []


def test_the_page_is_that_of_the_kept_results():
    found = load()
    assert found
    page = PAGE.read_text(encoding="utf-8")
    assert page.split(BEGIN)[1].split(END)[0] == "\n" + tables(found) + "\n"
    for content in found:
        assert content["finished"] == content["runs"]
        assert str(ROOT.parent) not in json.dumps(content["about"])
