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

from monai_weckd.cli.main import main


def test_report_says_where_things_are_and_what_the_numbers_mean(tmp_path, monkeypatch, capsys):
    figures = {"balanced_accuracy": 0.5}
    chain = {
        "classes": ["a", "b"],
        "label_budget": {"train": 6, "val": 4},
        "settings": {"synthetic": True, "passed_over": "columns not used: age"},
        "stages": [{"test": figures}, {"test": {"balanced_accuracy": 0.75}}],
        "final": {"stage": 2, "test": {"balanced_accuracy": 0.75}},
    }
    (tmp_path / "chain.json").write_text(json.dumps(chain))
    monkeypatch.setattr("monai_weckd.visualize.write_report", lambda folder: folder / "report.html")
    assert main(["report", "--output_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert str(tmp_path / "report.html") in out
    assert f"{tmp_path / 'model.pt'}: stage 2 of 2" in out
    assert "6 for training and 4 for validation" in out
    assert "balanced accuracy 0.750 (stage 1: 0.500; chance: 0.500)" in out
    assert "prove nothing about patients" in out
    assert "columns not used: age\n" in out


def test_report_without_test_says_so(tmp_path, monkeypatch, capsys):
    chain = {
        "classes": ["a", "b"],
        "label_budget": {"train": 6, "val": 0},
        "settings": {},
        "stages": [{"test": None}],
        "final": {"stage": 1, "test": None},
    }
    (tmp_path / "chain.json").write_text(json.dumps(chain))
    monkeypatch.setattr("monai_weckd.visualize.write_report", lambda folder: folder / "report.html")
    assert main(["report", "--output_dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "6 for training and 0 for validation" in out
    assert "test    none held out, so no figure says how good the model is on new data" in out
    assert "not used" not in out


def test_report_of_no_run_is_one_line(tmp_path, capsys):
    assert main(["report", "--output_dir", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
