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

"""Bundles on data sets without validation, without a test split, and without both."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
from bundle_runs import OTOSCOPY, run_bundle, train

from monai_weckd.handlers import ChainRecorder
from monai_weckd.utils.files import finish_writing
from monai_weckd.utils.tables import read_table

HEAD = "id,group,split,label,predicted,"


@pytest.fixture(scope="module")
def datasets(copy_ears, tmp_path_factory):
    """Return a function from the lists that are held out to a data set with these."""
    root = tmp_path_factory.mktemp("phantoms")
    made = copy_ears(root / "all", 72)
    with (made / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))

    def dataset(*lists):
        folder = root / "_".join(("with", *lists))
        if not folder.exists():
            folder.mkdir()
            for path in made.iterdir():
                if path.is_dir():
                    (folder / path.name).symlink_to(path, target_is_directory=True)
            with (folder / "manifest.csv").open("w", newline="") as file:
                table = csv.DictWriter(file, rows[0])
                table.writeheader()
                table.writerows(row if row["split"] in lists else {**row, "split": "train"} for row in rows)
        return folder

    return dataset


@pytest.fixture(scope="module")
def output(datasets, tmp_path_factory):
    """Return the output folder of a run with neither validation nor test."""
    folder = tmp_path_factory.mktemp("run") / "output"
    train(OTOSCOPY, datasets(), folder, report=True)
    return folder


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.suffix in (".pt", ".csv") or path.name in ("plan.json", "datalist.json")
    }


def test_all_items_train_and_every_stage_is_accepted(output):
    chain, plan = read(output / "chain.json"), read(output / "plan.json")
    assert (len(plan["train"]), plan["val"], plan["test"]) == (72, [], [])
    assert chain["label_budget"]["val"] == 0
    assert [(s["val"], s["test"], s["accepted"], s["calibration"]) for s in chain["stages"]] == [
        (None,) * 2 + (True, None)
    ] * 3
    assert [stage["teacher"] for stage in chain["stages"]] == [None, 1, 2]
    assert (chain["final"]["stage"], chain["final"]["test"]) == (3, None)
    assert {line["purpose"] for line in chain["ledger"]} == {"shard"}
    assert [epoch["val"] for epoch in read(output / "history.json")["epochs"]] == [None] * 3
    text = (output / "predictions.csv").read_text()
    assert text.startswith(HEAD)
    assert read_table(text) == []
    assert read(output / "datalist.json") == {}
    assert (output / "report.html").is_file()
    assert digests(output)["model.pt"] == digests(output)["stage_3/model.pt"] != digests(output)["stage_2/model.pt"]


def test_such_a_run_is_gone_on_with_to_the_same_bits(datasets, output, tmp_path, monkeypatch):
    folder = tmp_path / "output"

    def stop(self, engine):
        if engine.state.stage == 3:
            finish_writing(folder / "checkpoint.pt")
            raise OSError("the power is off")

    with monkeypatch.context() as patch:
        patch.setattr(ChainRecorder, "_begin_stage", stop)
        with pytest.raises(RuntimeError, match="the power is off"):
            train(OTOSCOPY, datasets(), folder)
    assert (folder / "checkpoint.pt").is_file()
    assert not (folder / "predictions.csv").exists()
    train(OTOSCOPY, datasets(), folder, resume=True)
    assert digests(folder) == digests(output)
    # complete, so there is nothing to train again
    before = (folder / "model.pt").stat().st_mtime_ns
    train(OTOSCOPY, datasets(), folder, resume=True)
    assert (folder / "model.pt").stat().st_mtime_ns == before


def test_an_evaluation_without_a_test_list_says_so_in_one_line(datasets, output, tmp_path):
    places = {"dataset_dir": str(datasets()), "ckpt_path": str(output / "model.pt"), "output_dir": str(tmp_path)}
    done = run_bundle(OTOSCOPY, "evaluate", blocked=True, **places)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1] == (
        f"split: expected a list in {output / 'datalist.json'}, which has [], got 'test'. "
        "Train with test_fraction above 0, or pass another datalist_path."
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "metrics.csv").exists()


@pytest.mark.parametrize("lists", [("val",), ("test",)])
def test_one_list_alone_has_its_figures(datasets, tmp_path, lists):
    chain = train(OTOSCOPY, datasets(*lists), tmp_path / "output")
    for stage in chain["stages"]:
        assert {split for split in ("val", "test") if stage[split] is not None} == set(lists)
        assert (stage["gate"]["value"] is not None) == (lists == ("val",))
    assert {row["split"] for row in read_table((tmp_path / "output" / "predictions.csv").read_text())} == set(lists)
    names = {"val": "validation", "test": "test"}
    assert set(read(tmp_path / "output" / "datalist.json")) == {names[split] for split in lists}


@pytest.mark.slow
def test_the_paper_needs_neither_list(datasets, tmp_path):
    chain = train(OTOSCOPY, datasets(), tmp_path / "output", overlays=["paper"])
    assert [stage["accepted"] for stage in chain["stages"]] == [True] * 3
    assert chain["final"]["test"] is None
