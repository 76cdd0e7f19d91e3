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
import subprocess
import sys
from pathlib import Path

import pytest
from held_out import held_out

from monai_weckd.cli.main import main
from monai_weckd.data.datalist import load_datalist
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.checks import check_plan
from monai_weckd.plan.planner import plan_chain
from monai_weckd.plan.settings import PlanSettings

HELD_OUT = ["--val_fraction", "0.15", "--test_fraction", "0.25"]


@pytest.fixture
def dataset(tmp_path) -> Path:
    """Return a folder of 120 empty files: 60 patients of two classes, the last ten files unlabeled."""
    lines = ["file,label,group"]
    for i in range(120):
        name = f"i{i:03}.png"
        (tmp_path / name).touch()
        lines.append(f"{name},{'' if i >= 110 else ('ill', 'well')[i % 2]},p{i // 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return tmp_path


def rows(text: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--policy", "comulative"], "error: policy: expected one of"),
        (["--num_stages", "0"], "error: num_stages: expected an integer of at least 1, got 0."),
        (["--label_fraction", "1.5"], "error: label_fraction: expected a fraction in (0, 1], got 1.5."),
        (
            ["--shards", "/no/such/plan.json"],
            "error: /no/such/plan.json: expected a file or folder to use, got no such",
        ),
        (["--label_fraction", "0.001"], "error: label_fraction: expected a label of each of 2 classes"),
        (
            ["--dataset_dir", "/no/such/folder"],
            "error: dataset_dir: expected an existing folder, got '/no/such/folder'.",
        ),
        (["--output", "/no/such/folder/plan.json"], "error: /no/such/folder/plan.json: expected a file"),
    ],
)
def test_errors_are_one_line_without_traceback(capsys, dataset, options, message):
    assert main(["plan", "--dataset_dir", str(dataset), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_all_problems_are_listed(capsys, dataset):
    lines = (dataset / "manifest.csv").read_text().splitlines()
    for number, label in ((1, "rare"), (2, "rarer")):
        lines[number] = lines[number].replace(lines[number].split(",")[1], label)
    (dataset / "manifest.csv").write_text("\n".join(lines))
    assert main(["plan", "--dataset_dir", str(dataset), *HELD_OUT]) == 1
    error = capsys.readouterr().err.splitlines()
    assert [line.split(":")[:2] for line in error] == [["error", " class 'rare'"], ["error", " class 'rarer'"]]


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("policy", ["disjoint", "cumulative", "shared"])
def test_the_table_is_the_plan(capsys, dataset, policy, held):
    output = dataset / "plan.json"
    options = ["--policy", policy, "--seed", "3", "--label_fraction", "0.2", "--output", str(output)]
    options += HELD_OUT if held else []
    assert main(["plan", "--dataset_dir", str(dataset), *options]) == 0
    out = capsys.readouterr().out
    items, classes, *_ = load_datalist(dataset)
    settings = (held_out if held else PlanSettings)(policy=policy, seed=3, label_fraction=0.2)
    plan = plan_chain(items, settings, classes=classes)
    assert ChainPlan.from_json(output.read_text()) == plan
    assert check_plan(plan, items) == []
    assert plan.digest[:12] in out

    table = rows(out)
    by_id = {item["id"]: item for item in items}

    def counts(ids):
        labels = [by_id[key]["label"] for key in ids]
        return [str(labels.count(0)), str(labels.count(1))]

    for split in ("train", "val", "test"):
        ids = getattr(plan, split)
        labeled = sum(by_id[key]["label"] >= 0 for key in ids)
        groups = len({by_id[key]["group"] for key in ids})
        assert table[split] == [*map(str, (len(ids), groups, labeled)), *counts(ids)]
    for stage in plan.stages:
        groups = len({by_id[key]["group"] for key in stage.labeled})
        assert table[str(stage.stage)] == [
            *map(str, (len(stage.labeled), len(stage.new), groups)),
            *counts(stage.labeled),
            str(len(plan.pool(stage.stage))),
        ]
    budget = plan.label_budget
    assert f"label budget: {sum(budget.values())} of 110 labels = {budget['train']} for training" in out
    assert (f"test: {len(plan.test)} labels, used for the final figures only" in out) == held
    assert ("test: none held out" in out) == ("validation: none held out" in out) == (not held)
    assert ("split: reads the labels of all items" in out) == held


def test_a_chain_that_chooses_its_labels_shows_none(capsys, dataset):
    assert main(["plan", "--dataset_dir", str(dataset), "--selection", "herding", "--policy", "cumulative"]) == 0
    out = capsys.readouterr().out
    table = rows(out)
    sizes = [int(table[stage][0]) for stage in "123"]
    assert sizes == [sizes[0], 2 * sizes[0], 3 * sizes[0]]
    assert [table[stage][1] for stage in "123"] == [str(sizes[0])] * 3
    # whose labels these will be, nobody knows: neither groups nor classes
    assert all(table[stage][2:5] == ["-"] * 3 for stage in "123")
    assert [int(table[stage][5]) for stage in "123"] == [int(table["train"][0]) - size for size in sizes]
    assert "selection: herding" in out
    assert f"{sizes[2]} for training" in out


def test_a_plan_takes_the_shards_of_another(capsys, dataset, tmp_path):
    path = tmp_path / "plan.json"
    assert main(["plan", "--dataset_dir", str(dataset), "--seed", "3", "--output", str(path)]) == 0
    first = rows(capsys.readouterr().out)
    assert main(["plan", "--dataset_dir", str(dataset), "--seed", "3", "--shards", str(path)]) == 0
    second = rows(capsys.readouterr().out)
    assert [first[stage] for stage in "123"] == [second[stage] for stage in "123"]


def test_split_file(capsys, dataset):
    splits = {f"i{i:03}.png": ("train", "val", "test")[max(0, i // 2 % 10 - 7)] for i in range(120)}
    (dataset / "splits.json").write_text(json.dumps(splits))
    assert main(["plan", "--dataset_dir", str(dataset), "--split_file", str(dataset / "splits.json")]) == 0
    out = capsys.readouterr().out
    table = rows(out)
    # of the last ten files, which have no label, two each are in validation and test
    assert "unused: 4 unlabeled items in validation and test" in out
    assert [table[split][0] for split in ("train", "val", "test")] == ["96", "10", "10"]


def test_columns_are_aligned(capsys, dataset):
    main(["plan", "--dataset_dir", str(dataset)])
    first, second, *_ = capsys.readouterr().out.split("\n\n")
    for table in (first, second):
        assert len({len(line) for line in table.splitlines()}) == 1


def test_unstratified_plan_shows_no_withheld_label(capsys, dataset):
    assert main(["plan", "--dataset_dir", str(dataset), "--stratify", "false", "--label_fraction", "0.3"]) == 0
    out = capsys.readouterr().out
    assert rows(out)["train"][-2:] == ["-", "-"]
    assert "stratification" not in out


def test_scarce_classes_are_told(capsys, dataset):
    assert main(["plan", "--dataset_dir", str(dataset), "--val_fraction", "0.04", "--seed", "5"]) == 0
    out = capsys.readouterr().out
    count = rows(out)["val"][-1]
    assert 0 < int(count) < 5
    assert f"note: val has only {count} of 'well'; label more, or pass another --val_fraction" in out
    assert "note: test" not in out


def test_twenty_labels(capsys, dataset):
    lines = [f"i{i:03}.png,{('ill', 'well')[i % 2] if i < 20 else ''},p{i // 2}" for i in range(120)]
    (dataset / "manifest.csv").write_text("\n".join(["file,label,group", *lines]))
    assert main(["plan", "--dataset_dir", str(dataset)]) == 0
    out = capsys.readouterr().out
    assert "label budget: 20 of 20 labels = 20 for training + 0 for validation" in out
    assert [rows(out)[stage][1] for stage in "123"] == ["6", "7", "7"]
    assert main(["plan", "--dataset_dir", str(dataset), "--labels_per_class", "2", *HELD_OUT]) == 0
    out = capsys.readouterr().out
    assert [rows(out)[stage][1] for stage in "123"] == ["4", "4", "4"]


def test_a_later_plan_keeps_the_groups_of_an_earlier_one(capsys, dataset, tmp_path):
    full, path, later = (dataset / "manifest.csv").read_text(), tmp_path / "plan.json", tmp_path / "later.json"
    (dataset / "manifest.csv").write_text("\n".join(full.splitlines()[:81]))
    assert main(["plan", "--dataset_dir", str(dataset), "--seed", "3", *HELD_OUT, "--output", str(path)]) == 0
    (dataset / "manifest.csv").write_text(full)
    options = ["--seed", "4", *HELD_OUT, "--plan", str(path), "--output", str(later)]
    assert main(["plan", "--dataset_dir", str(dataset), *options]) == 0
    plans = [ChainPlan.from_json(file.read_text()) for file in (path, later)]
    for split in ("train", "val", "test"):
        assert set(getattr(plans[0], split)) < set(getattr(plans[1], split))


def test_as_a_program_without_torch(dataset):
    # planning starts at once: neither torch nor MONAI is imported
    code = (
        "import sys; from monai_weckd.cli.main import main; code = main(sys.argv[1:]); "
        "heavy = {'torch', 'monai'} & set(sys.modules); sys.exit(f'imported {heavy}' if heavy else code)"
    )
    command = [sys.executable, "-c", code, "plan", "--dataset_dir", str(dataset)]
    subprocess.run(command, check=True, capture_output=True)


def test_module_and_version(dataset):
    run = subprocess.run([sys.executable, "-m", "monai_weckd", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("monai_weckd 0.")
    run = subprocess.run(
        [sys.executable, "-m", "monai_weckd", "plan", "--dataset_dir", "/no"], capture_output=True, text=True
    )
    assert run.returncode == 1
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("name", ["otoscopy", "blood_smear"])
def test_real_sets(capsys, shared_data, tmp_path, name):
    output = tmp_path / "plan.json"
    assert main(["plan", "--dataset_dir", str(shared_data(name)), "--output", str(output)]) == 0
    assert json.loads(output.read_text())["settings"]["num_stages"] == 3
    assert set(rows(capsys.readouterr().out)) >= {"train", "val", "test", "1", "2", "3"}


BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"


@pytest.fixture(scope="module")
def phantom(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("phantom") / "data", 80)


def test_for_solved_heads_the_time_of_the_images_is_told(capsys, phantom):
    options = ["--label_fraction", "0.3", "--set", "spatial_size=[64, 64]"]
    assert main(["plan", "--dataset_dir", str(phantom), "--bundle", str(BUNDLE), *options]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("predicted by a probe on this machine: 80 images go through the network once, ")
    assert line.endswith("after that, a stage takes seconds")


def test_a_bundle_passes_an_earlier_plan_on(phantom, tmp_path):
    path, later = tmp_path / "plan.json", tmp_path / "later.json"
    assert main(["plan", "--dataset_dir", str(phantom), "--seed", "3", *HELD_OUT, "--output", str(path)]) == 0
    options = ["--bundle", str(BUNDLE), "--set", f"plan#earlier={path}", "--set", "spatial_size=[32, 32]"]
    assert main(["plan", "--dataset_dir", str(phantom), *options, "--output", str(later)]) == 0
    assert ChainPlan.from_json(later.read_text()).val == ChainPlan.from_json(path.read_text()).val


def test_a_bundle_gives_the_settings_and_the_prediction(capsys, phantom):
    capsys.readouterr()
    options = ["--config_file", "scratch.json", "--set", "spatial_size=[32, 32]", "--set", "label_fraction=0.3"]
    options += ["--set", "max_epochs=6"]
    assert main(["plan", "--dataset_dir", str(phantom), "--bundle", str(BUNDLE), *options]) == 0
    text = capsys.readouterr().out
    assert "stratification" not in text  # the bundle's shards read no other labels, unlike the command's default
    assert "predicted by a probe on this machine, images of 3 x 32 x 32:" in text
    total = next(line.split() for line in text.splitlines() if line.startswith("  in all"))
    assert total[2:4] == ["120", "steps,"]  # six epochs of the bundle's twenty iterations
    assert 0 < float(total[4]) < 300
    plan = plan_chain(
        load_datalist(phantom).items,
        PlanSettings(policy="cumulative", stratify=False, label_fraction=0.3, seed=4),
        classes=load_datalist(phantom).classes,
    )
    stages = [line.split() for line in text.splitlines() if line.split()[:1] in (["1"], ["2"], ["3"])]
    assert [int(row[1]) for row in stages] == [len(stage.labeled) for stage in plan.stages]


def test_the_command_line_goes_before_the_bundle(capsys, phantom):
    options = ["--label_fraction", "0.3", "--policy", "disjoint", "--set", "plan#settings#stratify=true"]
    options += ["--set", "spatial_size=[64, 64]"]
    assert main(["plan", "--dataset_dir", str(phantom), "--bundle", str(BUNDLE), *options]) == 0
    stages = [line.split() for line in capsys.readouterr().out.splitlines() if line.split()[:1] in (["1"], ["3"])]
    assert stages[0][1] == stages[1][1]  # disjoint shards of one size, where the bundle's are cumulative


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "/no/bundle"], "error: bundle: expected configs/train.json in '/no/bundle', got none."),
        (["--bundle", str(BUNDLE), "--set", "labelfraction=8"], "error: set: expected a key of"),
        (["--bundle", str(BUNDLE), "--set", "seed"], "error: set: expected KEY=VALUE, got 'seed'."),
        (["--set", "seed=8"], "error: set: expected together with a bundle, got it alone."),
        (["--config_file", "scratch.json"], "error: config_file: expected together with a bundle, got it alone."),
        (["--bundle", str(BUNDLE), "--config_file", "none.json"], "error: config_file: expected a file, or the name"),
        (["--bundle", str(BUNDLE), "--set", "plan#settings#seed=x"], "error: seed: expected an integer of any size"),
        (["--bundle", str(BUNDLE), "--set", "plan#settings#sed=1"], "error: set: expected a key of plan#settings of"),
        (
            ["--bundle", str(BUNDLE), "--val_fraction", "2"],
            "error: val_fraction: expected a fraction in [0, 1), got 2.",
        ),
    ],
)
def test_errors_about_a_bundle_are_one_line(capsys, phantom, options, message):
    capsys.readouterr()
    assert main(["plan", "--dataset_dir", str(phantom), *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1


def test_findings_are_planned_and_counted(tmp_path, capsys):
    lines = [f"{n}.png,{int(n % 2 == 0)},{'' if n == 5 else int(n % 3 == 0)},p{n}" for n in range(24)]
    for n in range(24):
        (tmp_path / f"{n}.png").touch()
    (tmp_path / "manifest.csv").write_text("\n".join(["file,finding:effusion,finding:mass,group", *lines]))
    options = ["--num_stages", "1", "--shard_size", "6", "--val_fraction", "0", "--test_fraction", "0.25"]
    main(["plan", "--dataset_dir", str(tmp_path), "--findings", "true", *options])
    told = capsys.readouterr().out
    header, *rows = (line.split() for line in told.splitlines()[:4])
    assert header == ["split", "items", "groups", "labels", "effusion", "mass"]
    assert sum(int(row[4]) for row in rows if row[4] != "-") == 12
    assert sum(int(row[5]) for row in rows if row[5] != "-") == 8
    assert "to have every finding in each part" in told
    assert main(["plan", "--dataset_dir", str(tmp_path), *options]) == 1
    assert "one class an image, got findings. Pass findings=True" in capsys.readouterr().err
