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
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from process_copies import run_module

from monai_weckd.cli.main import main
from monai_weckd.tune.objective import METRIC, ChainObjective
from monai_weckd.tune.space import SPACE, suggest_values

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"
SMALL = {
    "max_epochs": 3,
    "iterations_per_epoch": 2,
    "batch_size": 8,
    "label_fraction": 0.2,
    "spatial_size": [32, 32],
}


@pytest.fixture(scope="module")
def dataset(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("phantom") / "data", 96)


def arguments(dataset, output, *options, changes=SMALL):
    command = ["tune", "--bundle", BUNDLE, "--dataset_dir", dataset, "--output_dir", output, *options]
    if "--config_file" not in options:
        command += ["--config_file", "scratch.json"]
    for key, value in changes.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    return list(map(str, command))


def python(code, *argv):
    return subprocess.run([sys.executable, "-W", "ignore", "-c", code, *argv], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trials", "0"], "trials: expected a number of at least 1, got 0. Raise it."),
        (["--timeout", "0"], "timeout: expected seconds above 0, got 0.0. Leave it out for no limit."),
        (["--seed", "-1"], "seed: expected a number from 0 up, got -1. Pass another one."),
        (["--parameters", "learning_rat"], "parameters: expected some of"),
        (["--set", "batch_size"], "set: expected KEY=VALUE, got 'batch_size'. Write for example --set batch_size=8."),
        (["--set", "batchsize=4"], "set: expected a key of"),
        (["--config_file", "none.json"], "config_file: expected a file, or the name of one in"),
        (["--bundle", "/no/bundle"], "bundle: expected configs/train.json in '/no/bundle', got none."),
        (["--storage", "study.db"], "storage: expected the URL of a database, got 'study.db'"),
    ],
)
def test_errors_are_one_line_without_traceback(capsys, dataset, tmp_path, options, message):
    assert main(arguments(dataset, tmp_path / "out", *options)) == 1
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith(f"error: {message}")
    assert not any("Traceback" in line for line in error)


def test_two_trials_and_the_command_that_follows(capfd, dataset, tmp_path):
    output = tmp_path / "out"
    assert main(arguments(dataset, output, "--trials", "2")) == 0
    out, err = capfd.readouterr()
    assert "Trial" not in err
    assert "Logging file" not in err
    note, *lines = out.splitlines()
    assert note.startswith("selection: trials train on random shards in place of 'herding', with which each tr")
    assert lines[0] == "label budget: 30 for training + 10 for validation; no test label is read"
    assert lines[1].startswith("validation: 10 of 20 labels, as many as a shard has")
    assert [line.partition(":")[0] for line in lines[2:4]] == ["trial 0", "trial 1"]
    assert "trials: 2 of 2: 2 completed, 0 pruned, 0 failed" in lines
    rows = list(csv.DictReader((output / "trials.csv").open(newline="")))
    assert [row["note"] for row in rows] == ["own values", ""]
    best = max(rows, key=lambda row: float(row["value"]))
    tuned = json.loads((output / "tuned.json").read_text())
    keys = ("learning_rate", "distillation_weight", "loss_function#temperature")
    assert tuned == {key: float(best[key.rpartition("#")[2]]) for key in keys}

    program, option, *words = shlex.split(lines[-1])
    assert (program, option) == ("python", "-m")
    done = run_module(words)
    assert done.returncode == 0, done.stderr[-3000:]
    settings = json.loads((output / "run" / "chain.json").read_text())["settings"]
    assert {key: settings[key.rpartition("#")[2]] for key in tuned} == tuned
    assert {name: settings[name] for name in SMALL if name in settings} == {
        name: value for name, value in SMALL.items() if name in settings
    }
    # what has been done is not done again, and under other settings it is another study
    assert main(arguments(dataset, output, "--trials", "2")) == 0
    assert "\ntrial 0: " not in capfd.readouterr().out
    assert main(arguments(dataset, output, "--trials", "3", changes={**SMALL, "batch_size": 4})) == 1
    assert "error: study: expected 'tune' to go on with batch_size = 8, got 4." in capfd.readouterr().err


def test_values_outside_the_ranges_are_told(capsys, dataset, tmp_path):
    options = ("--trials", "1", "--parameters", "attention_weight,pool_ratio")
    assert main(arguments(dataset, tmp_path / "out", *options)) == 0
    out = capsys.readouterr().out
    assert "note: some of the configuration's own values are outside the ranges" in out
    assert set(json.loads((tmp_path / "out" / "tuned.json").read_text())) == {
        "loss_function#attention_weight",
        "chain#pool_ratio",
    }


def test_what_there_is_when_it_is_stopped_is_a_result(capsys, dataset, tmp_path, monkeypatch):
    def train(self, trial):
        suggest_values(trial, self.bundle.parameters)
        if trial.number == 2:
            raise KeyboardInterrupt
        trial.set_user_attr(METRIC, "val_macro_auc")
        return 0.5 + trial.number / 10

    monkeypatch.setattr(ChainObjective, "__call__", train)
    assert main(arguments(dataset, tmp_path / "out")) == 0
    out = capsys.readouterr().out
    assert "stopped; run the same command again to continue" in out
    assert "trials: 2 of 20: 2 completed, 0 pruned, 0 failed; 1 abandoned, not counted" in out
    assert "best:   val_macro_auc 0.6000 in trial 1; the configuration's own values: 0.5000" in out
    assert (tmp_path / "out" / "tuned.json").is_file()


def test_without_a_completed_trial_there_is_one_line(capsys, dataset, tmp_path):
    assert main(arguments(dataset, tmp_path / "out", "--timeout", "1e-9")) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: trials: expected at least one completed trial")


def test_without_optuna_there_is_one_line(dataset, tmp_path):
    code = (
        "import sys; sys.modules['optuna'] = None; from monai_weckd.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    done = python(code, *arguments(dataset, tmp_path / "out"))
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: optuna: expected to be installed, got none. Run pip install 'monai-weckd[tune]'"
    )
    assert done.stderr.count("\n") == 1


def test_the_other_commands_do_not_import_optuna(dataset):
    code = (
        "import sys; from monai_weckd.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'monai', 'optuna', 'sqlalchemy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = python(code, "plan", "--dataset_dir", str(dataset), "--label_fraction", "0.3")
    assert done.returncode == 0, done.stderr


def test_help_names_every_parameter(capsys):
    with pytest.raises(SystemExit):
        main(["tune", "--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in SPACE)
