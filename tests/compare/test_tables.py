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
import io
import re

import pytest

from monai_weckd.compare.tables import arm_tables

FIGURE = {"mean": 0.75, "sd": 0.02, "pooled": 0.7412345}
METRICS = dict.fromkeys(("balanced_accuracy", "accuracy", "macro_f1", "macro_auc", "ece"), FIGURE)
ARM = {
    "name": "single_long",
    "title": "one model on 30 % of the labels",
    "runs": 10,
    "failed": 0,
    "labels": 30.0,
    "val_labels": 4.0,
    "seconds": 4.24,
    "cpu_seconds": 4.0,
    "metrics": METRICS,
    "difference": {"balanced_accuracy": {"value": 0.031, "interval": (-0.01, 0.07)}},
    "pool_share": None,
    "inert": None,
}


def tables(*arms):
    return arm_tables({"reference": "chain", "arms": [{**ARM, **arm} for arm in arms]})


def test_a_table_for_readers():
    lines = tables({})["arms.md"].splitlines()
    assert lines[0].endswith("| ECE | chain minus arm | s per run |")
    assert lines[2] == (
        "| single_long | one model on 30 % of the labels | 10 | 30 | 0.750 ± 0.020 | 0.750 ± 0.020 | 0.750 ± 0.020 | "
        "0.750 ± 0.020 | +3.1 (-1.0 to +7.0) | 4.2 |"
    )
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("changes", "cell"),
    [
        ({"difference": None}, "-"),
        ({"difference": None, "inert": "its predictions are those of single"}, "inert"),
        ({"difference": {"balanced_accuracy": {"value": -0.031, "interval": None}}}, "-3.1"),
        ({"difference": {}}, "-"),
    ],
)
def test_what_an_arm_may_lack(changes, cell):
    assert tables(changes)["arms.md"].splitlines()[2].split(" | ")[8] == cell
    assert tables({"metrics": None})["arms.md"].count("\n") == 2


@pytest.mark.parametrize("title", ["a & b", "50 %", "$x$", "#1", "{a}", "a~b", "a^b", "a\\b"])
def test_latex_escapes_what_it_would_read_as_a_command(title):
    text = tables({"title": title}, {})["arms.tex"]
    rows = text.splitlines()
    assert rows[0] == r"\begin{tabular}{llrrrrrrrr}"
    assert [rows.index(f"\\{rule}rule") for rule in ("top", "mid", "bottom")] == [1, 3, 6]
    row = rows[4]
    assert row.startswith(r"single\_long & ")
    assert row.endswith(r"4.2 \\")
    assert r"0.750 $\pm$ 0.020" in row
    # unescaped separators: one less than columns
    assert len(re.findall(r"(?<!\\)&", row)) == 9
    assert not re.search(r"(?<!\\)[%#]", row)


def test_numbers_are_not_rounded():
    [row] = csv.DictReader(io.StringIO(tables({"pool_share": 0.125})["arms.csv"]))
    assert float(row["macro_auc pooled"]) == 0.7412345
    assert (row["balanced_accuracy difference"], row["balanced_accuracy high"]) == ("0.031", "0.07")
    assert (row["ece difference"], row["pool_share"], row["inert"]) == ("", "0.125", "")


def test_findings_have_figures_of_their_own():
    names = ("macro_auc", "macro_average_precision", "macro_f1", "macro_ece")
    arm = {
        **ARM,
        "metrics": dict.fromkeys(names, FIGURE),
        "difference": {"macro_auc": {"value": 0.02, "interval": None}},
    }
    found = arm_tables({"reference": "chain", "arms": [arm], "findings": True})
    assert "| macro AUC | average precision | F1 | ECE | chain minus arm |" in found["arms.md"]
    assert "| +2.0 |" in found["arms.md"]
    [row] = csv.DictReader(io.StringIO(found["arms.csv"]))
    assert (row["macro_auc difference"], row["macro_ece mean"]) == ("0.02", "0.75")
