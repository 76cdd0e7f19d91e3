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
import re
import shutil
from pathlib import Path

import pytest

from monai_weckd.cli.main import main
from monai_weckd.compare.store import RunStore
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.metrics import classification_metrics
from monai_weckd.plan.chain_plan import ChainPlan

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"
SMALL = {
    "max_epochs": 3,
    "iterations_per_epoch": 2,
    "batch_size": 8,
    "spatial_size": [32, 32],
    "label_fraction": 0.15,
    "selection": "random",
}


@pytest.fixture(scope="module")
def data(copy_ears, tmp_path_factory) -> Path:
    return copy_ears(tmp_path_factory.mktemp("phantom") / "data", 96)


def command(data, output, *options, arms="chain,single,first", overlays=("scratch.json",), **settings):
    found = ["compare", "--bundle", str(BUNDLE), "--dataset_dir", str(data), "--output_dir", str(output)]
    found += ["--folds", "2", "--new_splits", "--arms", arms, *(["--config_file", *overlays] if overlays else [])]
    for key, value in {**SMALL, **settings}.items():
        found += ["--set", f"{key}={json.dumps(value)}"]
    return [*found, *options]


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("compare") / "output"
    assert main(command(data, output)) == 0
    return output


@pytest.fixture
def no_training(monkeypatch):
    monkeypatch.setattr(ComparedBundle, "train", lambda *_, **__: pytest.fail("it was trained again"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "/no/bundle"], "error: bundle: expected configs/train.json in '/no/bundle', got none."),
        (["--config_file", "no.json"], "error: config_file: expected a file, or the name of one in"),
        (["--set", "batchsize=8"], "error: set: expected a key of"),
        (["--set", "batch_size"], "error: set: expected KEY=VALUE, got 'batch_size'."),
        (["--arms", "chain,sngle"], "error: arms: expected some of chain, paper,"),
        (
            ["--reference", "fixmatch"],
            "error: reference: expected one of the arms chain, first, single, got 'fixmatch'.",
        ),
        (["--folds", "1"], "error: folds, repeats: expected at least 2 folds and 1 repeat, got 1 and 1."),
        (["--folds", "60"], "error: folds: expected at least 60 groups of every class, got"),
        (["--label_fraction", "0.001"], "error: label_fraction: expected a label of each of 4 classes in a shard"),
    ],
)
def test_wrong_usage_is_told_in_one_line(capsys, data, tmp_path, options, message):
    capsys.readouterr()
    assert main(command(data, tmp_path, *options)) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_what_is_written(finished):
    content = json.loads((finished / "compare.json").read_text())
    assert [(arm["name"], arm["runs"], arm["failed"]) for arm in content["arms"]] == [
        ("chain", 2, 0),
        ("first", 2, 0),
        ("single", 2, 0),
    ]
    assert content["verdicts"][0].startswith("The balanced accuracy of the chain ")
    chain, first, single = content["arms"]
    assert (chain["labels"], first["labels"]) == (single["labels"], single["labels"] / 3)
    assert [stage["stage"] for stage in chain["stages"]] == [1, 2, 3]
    assert chain["difference"] is None
    gap = chain["metrics"]["accuracy"]["pooled"] - single["metrics"]["accuracy"]["pooled"]
    assert single["difference"]["accuracy"]["value"] == pytest.approx(gap)
    rows = list(csv.DictReader((finished / "compare.csv").open()))
    assert len(rows) == 2 * (4 + 2 + 2)
    for name in ("differences", "stages"):
        assert all((finished / "figures" / f"{name}.{kind}").stat().st_size for kind in ("png", "pdf", "svg"))
    assert (finished / "tables" / "arms.md").read_text().count("\n") == 2 + 3
    assert (finished / "tables" / "arms.tex").read_text().startswith("\\begin{tabular}")
    assert len(list(csv.DictReader((finished / "tables" / "arms.csv").open()))) == 3
    page = (finished / "compare.html").read_text()
    assert content["verdicts"][0] in page
    assert not re.search(r"(src|href)=\"(?!data:)", page)


def test_an_arm_that_learns_nothing_from_the_pool_is_named_and_no_competitor(data, tmp_path, capsys):
    """After so few steps no network is sure enough of any image of the pool."""
    capsys.readouterr()
    assert main(command(data, tmp_path, arms="chain,single,fixmatch")) == 0
    out = capsys.readouterr().out
    assert out.count("fixmatch, repeat 0, fold") == out.count(", 0 % of the pool passed the threshold") == 2
    reason = "no image of the pool ever passed the threshold"
    assert f"fixmatch was inert ({reason}), so the verdict leaves it out." in out
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "tables" / "arms.csv").open())}
    assert [(row["pool_share"], row["inert"]) for row in rows.values()] == [("", ""), ("", ""), ("0.0", reason)]
    assert "& inert &" in (tmp_path / "tables" / "arms.tex").read_text()
    assert "| inert |" in (tmp_path / "tables" / "arms.md").read_text()
    for kind, start in {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}.items():
        assert (tmp_path / "figures" / f"differences.{kind}").read_bytes().startswith(start)
    # it has no place in the figure
    assert "fixmatch" not in (tmp_path / "figures" / "differences.svg").read_text()
    assert "single" in (tmp_path / "figures" / "differences.svg").read_text()
    predicted = [row for path in (tmp_path / "runs" / "fixmatch").glob("*.csv") for row in csv.DictReader(path.open())]
    assert len({row["id"] for row in predicted}) == 96


def test_predictions_are_those_of_the_figures_and_cover_each_item_once(finished, data):
    rows = [row for path in (finished / "runs" / "chain").glob("*.csv") for row in csv.DictReader(path.open())]
    assert len(rows) == len({row["id"] for row in rows}) == 96
    result = json.loads((finished / "runs" / "chain" / "0-1-0.json").read_text())
    found = RunStore(finished / "runs").predictions("chain", (0, 1, 0), ComparedBundle(BUNDLE, data).task)
    figures = classification_metrics(found.probabilities, found.labels)
    assert result["test"] == pytest.approx(figures, abs=1e-6)


def test_the_single_model_has_the_labels_of_the_chain(finished):
    for fold in (0, 1):
        plans = {
            arm: ChainPlan.from_json((finished / "runs" / arm / f"0-{fold}-0.plan.json").read_text())
            for arm in ("chain", "single", "first")
        }
        chain = [key for stage in plans["chain"].stages for key in stage.new]
        assert set(plans["single"].stages[0].labeled) == set(chain)
        assert set(plans["first"].stages[0].labeled) == set(plans["chain"].stages[0].new)
        assert len({(plan.test, plan.val) for plan in plans.values()}) == 1
    # another split draws other labels
    other = ChainPlan.from_json((finished / "runs" / "chain" / "0-0-0.plan.json").read_text())
    assert plans["chain"].settings.seed != other.settings.seed


def test_a_second_call_trains_nothing(finished, data, no_training):
    assert main(command(data, finished)) == 0
    assert main(command(data, finished, "--report_only")) == 0


def test_a_run_is_the_same_whatever_ran_before_it(finished, data):
    path = finished / "runs" / "first" / "0-1-0"
    before = [path.with_suffix(suffix).read_text() for suffix in (".csv", ".plan.json")]
    path.with_suffix(".json").unlink()
    assert main(command(data, finished)) == 0
    assert [path.with_suffix(suffix).read_text() for suffix in (".csv", ".plan.json")] == before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0-1-0.json", "0-1-0.json: expected the result as it was written, got a changed one. Remove the file."),
        ("0-1-0.csv", "0-1-0.csv: expected the predictions of its run, got changed ones. Remove 0-1-0.json."),
    ],
)
def test_a_damaged_result_is_told_in_one_line(finished, data, tmp_path, capsys, no_training, name, message):
    shutil.copytree(finished / "runs", tmp_path / "runs")
    path = tmp_path / "runs" / "chain" / name
    path.write_text(path.read_text().replace("0.1", "0.7", 1))
    capsys.readouterr()
    assert main(command(data, tmp_path)) == 1
    assert capsys.readouterr().err == f"error: {path.parent}/{message}\n"


def test_other_settings_are_other_runs(finished, data, capsys, no_training):
    capsys.readouterr()
    for options in (["--label_fraction", "0.2"], ["--val_labels", "16"], ["--set", "learning_rate=0.01"]):
        assert main(command(data, finished, *options, "--report_only")) == 0
        assert "0 of 6 runs finished" in capsys.readouterr().out
    # where things are is no setting
    options = ["--set", "train#dataloader#num_workers=0", "--set", "overwrite=true"]
    assert main(command(data, finished, *options, "--report_only")) == 0
    assert "6 of 6 runs finished" in capsys.readouterr().out
    assert main(command(data, finished, "--report_only", overlays=["scratch.json", "pretrained.json"])) == 0
    assert "0 of 6 runs finished" in capsys.readouterr().out


def test_a_comparison_with_nothing_finished(data, tmp_path, capsys):
    assert main(command(data, tmp_path / "new", "--report_only")) == 0
    out = capsys.readouterr().out
    assert "No verdict: it needs finished runs of 'chain' and 'single_long' on the same splits." in out
    assert "0 of 6 runs finished" in out
    assert "no other arm has a run" in (tmp_path / "new" / "compare.html").read_text()


def test_the_default_is_a_solved_head_beside_networks_trained_step_by_step(copy_ears, tmp_path, capsys):
    data = copy_ears(tmp_path / "data", 56)
    settings = {"spatial_size": [64, 64], "selection": "typical", "label_fraction": 0.2, "chain#accept": "always"}
    settings |= {"num_stages": 2, "max_epochs": 4, "missing_classes": "allow"}
    # one view of each image, for speed; a network that is trained step by step has no such keys
    settings |= {"network_def#flip_average": [], "network_def#shrink": [1]}
    output = tmp_path / "output"
    capsys.readouterr()
    assert main(command(data, output, arms="chain,solved,solved+labels,single", overlays=(), **settings)) == 0
    assert "8 of 8 runs finished" in capsys.readouterr().out
    content = json.loads((output / "compare.json").read_text())
    found = {arm["name"]: arm for arm in content["arms"]}
    assert {name: (arm["runs"], len(arm["stages"])) for name, arm in found.items()} == {
        "chain": (2, 2),
        "single": (2, 1),
        "solved": (2, 1),
        "solved+labels": (2, 1),
    }
    assert found["chain"]["labels"] == found["single"]["labels"] == found["solved"]["labels"] > 0
    page = (output / "compare.html").read_text()
    for arm in found.values():
        assert 0 <= arm["metrics"]["balanced_accuracy"]["mean"] <= 1
        assert arm["title"] in page
    # a chain of solved heads is held against one head on random labels
    assert len(content["verdicts"]) == 1
    plans = {
        name: ChainPlan.from_json((output / "runs" / name / "0-0-0.plan.json").read_text())
        for name in ("single", "solved")
    }
    assert plans["solved"].stages[0].labeled == plans["single"].stages[0].labeled
    # the labels of a solved chain make its last stage
    store, task = RunStore(output / "runs"), ComparedBundle(BUNDLE, data).task
    chain, alone = (store.predictions(name, (0, 0, 0), task) for name in ("chain", "solved+labels"))
    assert alone.probabilities == pytest.approx(chain.probabilities, abs=1e-4)


def test_a_failure_is_written_down_and_the_others_go_on(data, tmp_path, capsys, monkeypatch):
    genuine = ComparedBundle.train

    def train(self, arm, split, output_dir, overrides, **options):
        if overrides.get("num_stages") == 1 and overrides["max_epochs"] == 1:
            try:
                raise ValueError("threshold: expected less,\ngot <b>more</b>.")
            except ValueError as error:
                raise RuntimeError("evaluating") from error
        genuine(self, arm, split, output_dir, overrides, **options)

    monkeypatch.setattr(ComparedBundle, "train", train)
    capsys.readouterr()
    arms = "single,single_long,ensemble"
    assert main(command(data, tmp_path, "--reference", "single_long", arms=arms)) == 1
    text = capsys.readouterr()
    reason = "ValueError: threshold: expected less, got <b>more</b>."
    assert text.err == f"error: 4 runs failed, first one of 'single': {reason}\n"
    assert f"single, repeat 0, fold 0, seed 0: failed: {reason}" in text.out
    assert "2 of 6 runs finished" in text.out
    assert "No verdict: it needs finished runs of 'single_long' and 'single' on the same splits." in text.out
    content = json.loads((tmp_path / "compare.json").read_text())
    assert {failure["arm"]: failure["error"].partition(":")[2][:40] for failure in content["failures"]} == {
        "single": " threshold: expected less, got <b>more</b>"[:40],
        "ensemble": " arms: expected a finished run of 'single'"[:40],
    }
    page = (tmp_path / "compare.html").read_text()
    assert "&lt;b&gt;more&lt;/b&gt;" in page
    assert "<b>" not in page
