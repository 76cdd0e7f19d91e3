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
from dataclasses import dataclass, fields

import pytest

from monai_weckd.cli import plan as command
from monai_weckd.cli.main import main
from monai_weckd.cli.options import add_fields, given_fields, parse_changes
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.utils.options import option


@dataclass(frozen=True)
class Options:
    """One option of each type."""

    number: int = option(3, "a number below 10 %")
    share: float = option(0.5, "a share")
    name: str = option("ann", "who", choices=("ann", "bob"))
    careful: bool = option(False, "how")
    epochs: tuple[int, ...] | None = option(None, "how long")


@pytest.fixture
def parser():
    found = argparse.ArgumentParser(allow_abbrev=False)
    add_fields(found, Options)
    return found


@pytest.fixture
def dataset(tmp_path):
    lines = ["file,label,group"]
    for i in range(120):
        (tmp_path / f"i{i:03}.png").touch()
        lines.append(f"i{i:03}.png,{('ill', 'well')[i % 2]},p{i // 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return tmp_path


def another(item):
    """Return another value of a field than its default, as text, and as it is in JSON."""
    choices = item.metadata["choices"]
    if choices:
        value = next(choice for choice in reversed(choices) if choice != item.default)
        return value, value
    if isinstance(item.default, bool):
        return json.dumps(not item.default), not item.default
    if item.default is None:
        value = 0.3 if item.name.endswith("_fraction") else 12
    else:
        value = item.default + 1 if isinstance(item.default, int) else item.default * 1.5
    return str(value), value


def test_fields_are_options_of_their_types(parser):
    text = ["--number", "4", "--share", "1", "--name", "bob", "--careful", "true", "--epochs", "[1,2]"]
    found = given_fields(parser.parse_args(text), Options)
    assert found == {"number": 4, "share": 1.0, "name": "bob", "careful": True, "epochs": [1, 2]}
    assert isinstance(found["share"], float)
    assert given_fields(parser.parse_args(["--careful", "False"]), Options) == {"careful": False}


def test_what_is_not_given_is_absent(parser):
    assert vars(parser.parse_args([])) == {}


def test_the_help_is_that_of_the_fields(parser):
    text = " ".join(parser.format_help().split())
    assert "--number NUMBER a number below 10 % (default: 3)" in text
    assert "--name NAME who: ann, bob (default: ann)" in text
    assert "--careful true|false how (default: false)" in text
    assert text.endswith("--epochs EPOCHS how long")


@pytest.mark.parametrize("text", ["yes", "1", ""])
def test_a_boolean_is_true_or_false(parser, capsys, text):
    with pytest.raises(SystemExit):
        parser.parse_args(["--careful", text])
    assert f"argument --careful: expected true or false, got {text!r}" in capsys.readouterr().err


def test_changes_are_parsed():
    assert parse_changes(["a=1", "b#c=[2]", "d=e=f"]) == {"a": 1, "b#c": [2], "d": "e=f"}
    with pytest.raises(ValueError, match=r"set: expected KEY=VALUE, got 'a'\."):
        parse_changes(["a"])


def planned(dataset, *options):
    """Return the settings of a plan by the command."""
    path = dataset / "plan.json"
    assert main(["plan", "--dataset_dir", str(dataset), *options, "--output", str(path)]) == 0
    return json.loads(path.read_text())["settings"]


@pytest.mark.parametrize("item", fields(PlanSettings), ids=lambda item: item.name)
def test_each_setting_of_a_plan_is_an_option_of_the_command(dataset, item):
    if item.name == "findings_per_image":
        rows = [f"i{place:03}.png,{place % 2},{place // 2 % 2}" for place in range(120)]
        (dataset / "manifest.csv").write_text("\n".join(["file,finding:ill,finding:old", *rows]))
        assert planned(dataset, "--findings", "true", "--findings_per_image", "1")[item.name] == 1
        return
    text, value = another(item)
    assert planned(dataset, f"--{item.name}", text)[item.name] == value


def test_a_new_setting_of_a_plan_needs_no_change_of_the_command(dataset, monkeypatch, capsys):
    @dataclass(frozen=True)
    class Later(PlanSettings):
        patience: int = option(2, "how long to wait")

        def __post_init__(self):
            super().__post_init__()
            if self.patience < 0:
                raise ValueError(f"patience: expected 0 or more, got {self.patience}. Raise it.")

    monkeypatch.setattr(command, "PlanSettings", Later)
    assert main(["plan", "--dataset_dir", str(dataset), "--patience", "4"]) == 0
    capsys.readouterr()
    assert main(["plan", "--dataset_dir", str(dataset), "--patience", "-1"]) == 1
    assert capsys.readouterr().err == "error: patience: expected 0 or more, got -1. Raise it.\n"
