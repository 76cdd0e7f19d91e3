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
import shlex
import threading
from concurrent.futures import ThreadPoolExecutor, wait

import fire
import pytest
from study_trials import TRIALS

from monai_weckd.tune.result import best_trial, own_trial, run_command, write_overlay, write_trials


def test_the_best_is_completed_and_of_equals_the_first():
    assert best_trial(TRIALS).number == 1
    assert best_trial(TRIALS, lower_is_better=True).number == 0
    assert own_trial(TRIALS).number == 0
    assert own_trial(TRIALS[1:]) is None


def test_no_completed_trial_is_an_error():
    with pytest.raises(ValueError, match=r"trials: expected at least one completed trial, got none. Look into"):
        best_trial(TRIALS[2:5])


def test_the_table_has_all_trials(tmp_path):
    write_trials(tmp_path / "trials.csv", TRIALS, names=["learning_rate"])
    with open(tmp_path / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == [
        "completed",
        "completed",
        "pruned",
        "failed",
        "abandoned",
        "completed",
        "waiting",
    ]
    assert [row["note"] for row in rows] == ["own values", "", "", "loss: nan", "", "", ""]
    assert float(rows[1]["learning_rate"]) == 2e-4
    assert (rows[0]["epochs"], rows[3]["epochs"], rows[3]["value"]) == ("3", "", "")


def test_the_overlay_keeps_every_digit(tmp_path):
    values = {"learning_rate": 0.1 + 0.2, "pool_ratio": 2}
    write_overlay(tmp_path / "tuned.json", values)
    text = (tmp_path / "tuned.json").read_text()
    assert json.loads(text) == values
    assert text == json.dumps(values, indent=4) + "\n"


def test_workers_that_end_together_do_not_disturb_each_other(tmp_path, monkeypatch):
    path, fsync, began, go_on = tmp_path / "tuned.json", os.fsync, threading.Event(), threading.Event()

    def wait_once(number):
        if not began.is_set():
            began.set()
            go_on.wait(30)
        fsync(number)

    monkeypatch.setattr(os, "fsync", wait_once)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(write_overlay, path, {"pool_ratio": 1})
        assert began.wait(30)
        second = pool.submit(write_overlay, path, {"pool_ratio": 2})
        wait([second], timeout=0.3)
        go_on.set()
        first.result()
        second.result()
    assert json.loads(path.read_text()) == {"pool_ratio": 2}


@pytest.mark.parametrize(
    "options",
    [
        {"dataset_dir": "my data", "output_dir": "it's $HOME", "seed": 3},
        {"spatial_size": [32, 32], "overwrite": True, "cache_dir": None, "learning_rate": 1e-05},
        {"plan#settings#policy": "disjoint", "dataset_dir": "2020", "device": "$torch.device('cpu')", "x": "[a, b]"},
        {"network_def#norm": ["batch", {"affine": False}]},
    ],
)
@pytest.mark.parametrize(
    "files", [["train.json", "tuned.json"], ["a b/it's $x/train.json", "tuned.json"], ["train.json"]]
)
def test_the_command_is_read_back_as_it_was_meant(options, files):
    words = shlex.split(run_command(files, options))
    assert words[:4] == ["python", "-m", "monai.bundle", "run"]
    # monai.bundle reads its command line by fire
    found = fire.Fire(lambda **read: json.dumps(read), command=words[4:], serialize=lambda text: "")
    assert json.loads(found) == {"config_file": files, **options}


def test_the_command_is_readable():
    command = run_command(["b/train.json", "o/tuned.json"], {"dataset_dir": "d"})
    assert command == """python -m monai.bundle run --config_file "['b/train.json', 'o/tuned.json']" --dataset_dir d"""
