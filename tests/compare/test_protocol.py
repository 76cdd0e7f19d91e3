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
from collections import Counter
from pathlib import Path

import compared_runs
import pytest

from monai_weckd.cli.main import main
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.plan.chain_plan import ChainPlan


@pytest.fixture(scope="module")
def phantom(tmp_path_factory) -> Path:
    data = make_phantom("otoscopy", tmp_path_factory.mktemp("phantom") / "data", items=96)
    manifest = data / "manifest.csv"
    # without its own splits
    manifest.write_text("".join(line.rpartition(",")[0] + "\n" for line in manifest.read_text().splitlines()))
    return data


@pytest.fixture(autouse=True)
def trained_in_no_time(monkeypatch):
    monkeypatch.setattr(ComparedBundle, "train", compared_runs.train)
    monkeypatch.setattr(ComparedBundle, "prepare", compared_runs.prepare)


def groups_of(phantom):
    """Return the rows of the manifest, and the number of each row's group within its class."""
    rows = list(csv.DictReader((phantom / "manifest.csv").open()))
    rows = [{key: row[key] for key in ("file", "label", "group")} for row in rows]
    numbers = {}
    for row in rows:
        names = numbers.setdefault(row["label"], {})
        names.setdefault(row["group"], len(names))
    return rows, [numbers[row["label"]][row["group"]] for row in rows]


def with_column(phantom, folder, name, value_of):
    """Return a data set of the same images with one more column in its manifest."""
    rows, numbers = groups_of(phantom)
    folder.mkdir()
    for path in phantom.iterdir():
        if path.name != "manifest.csv":
            (folder / path.name).symlink_to(path)
    with (folder / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], name])
        writer.writeheader()
        writer.writerows({**row, name: value_of(number)} for row, number in zip(rows, numbers, strict=True))
    return folder


def split_file(phantom, path, value_of):
    rows, numbers = groups_of(phantom)
    path.write_text(json.dumps({row["file"]: value_of(number) for row, number in zip(rows, numbers, strict=True)}))
    return path


def third(number):
    return ("test", "train", "train")[number % 3]


def third_with_val(number):
    return ("test", "val", "train", "train")[number % 4]


def compare(data, output, *options):
    found = ["compare", "--bundle", str(compared_runs.BUNDLE), "--dataset_dir", str(data), "--output_dir", str(output)]
    found += ["--arms", "chain,single_long,first", "--set", "selection=random", "--set", "label_fraction=0.15"]
    return main([*found, "--set", "missing_classes=allow", *options])


def plans(output):
    return {path: ChainPlan.from_json(path.read_text()) for path in sorted((output / "runs").glob("*/*.plan.json"))}


def expected(phantom, value_of, wanted):
    rows, numbers = groups_of(phantom)
    return {row["file"] for row, number in zip(rows, numbers, strict=True) if value_of(number) == wanted}


@pytest.mark.parametrize("source", ["column", "file"])
@pytest.mark.parametrize("value_of", [third, third_with_val])
def test_a_given_test_split_is_all_that_arms_are_measured_on(phantom, tmp_path, capsys, source, value_of):
    if source == "column":
        data, options = with_column(phantom, tmp_path / "data", "split", value_of), []
    else:
        path = split_file(phantom, tmp_path / "splits.json", value_of)
        data, options = phantom, ["--set", f"split_file={path}"]
    assert compare(data, tmp_path / "output", *options, "--seeds", "0", "1") == 0
    test, val = (expected(phantom, value_of, part) for part in ("test", "val"))
    found = plans(tmp_path / "output")
    assert len(found) == 3 * 2
    for path, plan in found.items():
        assert set(plan.test) == test
        assert not test & {*plan.train, *plan.val}
        if val:
            assert set(plan.val) == val
        rows = list(csv.DictReader(path.with_name(path.name.replace(".plan.json", ".csv")).open()))
        assert {row["id"] for row in rows} == test
    sentence = f"Every arm is measured on the data's own test split alone ({len(test)} labeled items)."
    assert sentence in capsys.readouterr().out
    content = json.loads((tmp_path / "output" / "compare.json").read_text())
    assert content["splits"].startswith(sentence)
    assert ("of the data's validation split" if val else "drawn from them") in content["splits"]
    assert sentence in (tmp_path / "output" / "compare.html").read_text().replace("&#39;", "'")


@pytest.mark.parametrize("name", ["fold", "Fold", "k_fold"])
@pytest.mark.parametrize("names", [("0", "1", "2"), ("north", "south"), ("2", "10", "1", "-1")])
def test_folds_of_a_manifest_are_the_test_sets(phantom, tmp_path, capsys, name, names):
    value_of = lambda number: names[number % len(names)]  # noqa: E731
    data = with_column(phantom, tmp_path / "data", name, value_of)
    assert compare(data, tmp_path / "output") == 0
    tested = [set(plan.test) for path, plan in plans(tmp_path / "output").items() if path.parent.name == "chain"]
    assert tested == [
        expected(phantom, value_of, fold) for fold in sorted(set(names) - {"-1"}, key=lambda n: (len(n), n))
    ]
    assert "folds of the data (" in capsys.readouterr().out


def test_folds_of_a_split_file_are_the_test_sets(phantom, tmp_path):
    path = split_file(phantom, tmp_path / "folds.json", lambda number: number % 3)
    assert compare(phantom, tmp_path / "output", "--set", f"split_file={path}", "--folds", "3") == 0
    tested = [set(plan.test) for path, plan in plans(tmp_path / "output").items() if path.parent.name == "chain"]
    assert tested == [expected(phantom, lambda number: number % 3, fold) for fold in range(3)]


def test_with_a_given_test_split_each_fold_draws_labels_and_validation_anew(phantom, tmp_path):
    data = with_column(phantom, tmp_path / "data", "split", third)
    assert compare(data, tmp_path / "output", "--folds", "3") == 0
    found = [plan for path, plan in plans(tmp_path / "output").items() if path.parent.name == "chain"]
    assert {plan.test for plan in found} == {found[0].test}
    assert len({plan.stages for plan in found}) == 3
    content = json.loads((tmp_path / "output" / "compare.json").read_text())
    assert "with 3 draws of the training items" in content["splits"]


@pytest.mark.parametrize("number", [0, 4, 1000])
def test_of_a_given_validation_split_only_so_many_are_used(phantom, tmp_path, number):
    data = with_column(phantom, tmp_path / "data", "split", third_with_val)
    assert compare(data, tmp_path / "output", "--val_labels", str(number)) == 0
    for plan in plans(tmp_path / "output").values():
        given = expected(phantom, third_with_val, "val")
        assert set(plan.val) <= given
        # whole groups, one of each class at least
        assert (not plan.val) == (number == 0)
        assert (set(plan.val) == given) == (number == 1000)
        assert set(plan.train) == expected(phantom, third_with_val, "train")


def test_new_splits_ignore_those_of_the_data(phantom, tmp_path, capsys):
    data = with_column(phantom, tmp_path / "data", "split", third)
    assert compare(data, tmp_path / "output", "--new_splits", "--folds", "2") == 0
    counts = Counter(
        key for path, plan in plans(tmp_path / "output").items() if path.parent.name == "chain" for key in plan.test
    )
    assert set(counts.values()) == {1}
    assert len(counts) == 96
    assert "split anew: 2 folds" in capsys.readouterr().out


def test_a_column_of_training_items_alone_is_no_split(phantom, tmp_path):
    data = with_column(phantom, tmp_path / "data", "split", lambda number: "train")
    assert compare(data, tmp_path / "output", "--folds", "2") == 0
    assert len(plans(tmp_path / "output")) == 3 * 2


@pytest.mark.parametrize(
    ("column", "value_of", "options", "message"),
    [
        (
            "split",
            lambda n: "val" if n % 3 else "train",
            [],
            "split: expected a test split, got ['train', 'val'] alone. Add one",
        ),
        (
            "split",
            lambda n: "test" if n % 3 else "",
            [],
            "split: expected one for every item or for none, got none",
        ),
        ("fold", lambda n: str(n % 3), ["--folds", "5"], "folds: expected 3, since the data have 3 folds, got 5. L"),
        ("fold", lambda n: str(n % 3), ["--repeats", "2"], "repeats: expected 1, since the data have 3 folds, got 2."),
        ("fold", lambda n: "0", [], "fold: expected two folds or more, got ['0']. Name more, or none."),
        ("fold", lambda n: str(n % 3) if n else "", [], "fold: expected one for each labeled item, got none for"),
        ("group2", third, ["--set", "seed=3"], "set: expected a key that the comparison does not set, got 'seed'."),
        ("group2", third, ["--set", "test_fraction=0.3"], "set: expected a key that the comparison does not set, g"),
        (
            "group2",
            third,
            ["--set", "plan#settings#val_fraction=0"],
            "set: expected a key that the comparison does not set, got '",
        ),
        (
            "group2",
            third,
            ["--set", "plan#earlier=plan.json"],
            "set: expected a key that the comparison does not set, got '",
        ),
    ],
)
def test_what_cannot_be_honored_is_refused(phantom, tmp_path, capsys, monkeypatch, column, value_of, options, message):
    monkeypatch.setattr(ComparedBundle, "train", lambda *_, **__: pytest.fail("it was trained"))
    data = with_column(phantom, tmp_path / "data", column, value_of)
    capsys.readouterr()
    assert compare(data, tmp_path / "output", *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(("what", "values"), [("split", ["test", "train"]), ("fold", [0, 1])])
def test_a_group_in_two_places_is_refused(phantom, tmp_path, capsys, what, values):
    path = split_file(phantom, tmp_path / "file.json", lambda number: values[number % 2])
    rows, _ = groups_of(phantom)
    first, second, *_ = [row["file"] for row in rows if row["group"] == rows[0]["group"]]
    path.write_text(json.dumps({**json.loads(path.read_text()), first: values[0], second: values[1]}))
    capsys.readouterr()
    assert compare(phantom, tmp_path / "output", "--set", f"split_file={path}") == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {what}: expected all items of the group {rows[0]['group']!r} in one {what}, got ")
    assert error.count("\n") == 1


def test_folds_beside_a_test_split_and_half_a_file_of_folds_are_refused(phantom, tmp_path, capsys):
    data = with_column(phantom, tmp_path / "data", "fold,split", lambda number: f"{number % 2},{third(number)}")
    manifest = (data / "manifest.csv").read_text().replace('"', "")
    (data / "manifest.csv").write_text(manifest)
    capsys.readouterr()
    assert compare(data, tmp_path / "output") == 1
    assert capsys.readouterr().err.startswith("error: fold: expected folds or a test split, got both. Remove one")
    for value_of, message in (
        (lambda number: number % 3 or "test", "error: split_file: expected the number of a fold for "),
        (lambda number: [number], "error: split_file: expected one of ('train', 'val', 'test') for "),
    ):
        path = split_file(phantom, tmp_path / "mixed.json", value_of)
        assert compare(phantom, tmp_path / "output", "--set", f"split_file={path}") == 1
        error = capsys.readouterr().err
        assert error.startswith(message)
        assert error.count("\n") == 1
