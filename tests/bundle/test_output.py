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

import subprocess
import sys

import pytest
from bundle_runs import OTOSCOPY, refusal
from monai.bundle import ComponentLocator, ConfigParser

from monai_weckd.bundle import output
from monai_weckd.bundle.checks import refuse_unused_keys, show_cause_last, unknown_arguments, unused_keys
from monai_weckd.bundle.identity import run_settings
from monai_weckd.bundle.output import is_complete, prepare_output_dir

CONFIG = {
    "imports": ["$import monai_weckd"],
    "seed": 0,
    "val_interval": 1,
    "train": {
        "dataset": {"_target_": "Dataset", "data": []},
        "handlers": [{"_target_": "ValidationHandler", "interval": "@val_interval"}],
    },
    "initialize": ["$monai_weckd.bundle.refuse_unused_keys()"],
    "run": ["$print(@seed, @train#dataset)"],
}


@pytest.mark.parametrize(
    ("key", "value", "unused"),
    [
        ("sed", 1, {"sed": "Did you mean 'seed'?"}),
        ("val_intervl", 1, {"val_intervl": "Did you mean 'val_interval'?"}),
        ("network_def", {"_target_": "ResNet"}, {}),
        ("_notes_", "mine", {}),
        ("_meta_", {"version": "1"}, {}),
    ],
)
def test_a_key_that_nothing_reads_is_found(key, value, unused):
    assert unused_keys({**CONFIG, key: value}) == unused


def test_members_of_a_group_are_keys_and_those_of_a_component_arguments():
    config = {**CONFIG, "train": {**CONFIG["train"], "datset": {}, "dataset": {"_target_": "Dataset", "dta": []}}}
    assert unused_keys(config) == {"train#datset": "Did you mean 'train#dataset'?"}
    assert unknown_arguments(config, ComponentLocator()) == {"train#dataset#dta": "Did you mean 'data'?"}


def test_a_key_may_be_read_by_a_macro_or_with_either_separator():
    assert unused_keys({**CONFIG, "size": 1, "depth": {"a": 2}, "copy": "%size", "_b": "@copy + @depth::a"}) == {}


def test_a_configuration_with_a_mistyped_key_stops():
    parser = ConfigParser({**CONFIG, "sed": 1})
    with pytest.raises(RuntimeError) as error:
        parser.get_parsed_content("initialize#0")
    assert isinstance(error.value.__cause__, ValueError)
    assert "sed: expected a key that the configuration uses, got one that nothing reads. Did you mean 'seed'?" in str(
        error.value.__cause__
    )


def test_a_sound_configuration_passes():
    ConfigParser(CONFIG).get_parsed_content("initialize#0")


def test_called_from_elsewhere_it_says_so():
    with pytest.raises(RuntimeError, match="refuse_unused_keys: expected to be called from a bundle's configuration"):
        refuse_unused_keys()


def test_the_first_cause_comes_last(monkeypatch, capsys):
    monkeypatch.setattr("sys.excepthook", None)
    show_cause_last()
    try:
        try:
            raise ValueError("seed: expected a number")
        except ValueError as inner:
            raise RuntimeError("Failed to evaluate") from inner
    except RuntimeError as error:
        sys.excepthook(type(error), error, error.__traceback__)
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1] == "ValueError: seed: expected a number"
    assert "RuntimeError: Failed to evaluate" in lines


@pytest.mark.parametrize("kind", [ValueError, FileExistsError, ImportError])
def test_a_refusal_has_no_traceback(kind, monkeypatch, capsys):
    monkeypatch.setattr("sys.excepthook", None)
    show_cause_last()
    try:
        try:
            raise kind("seed: expected an integer, got None. Correct the value.")
        except kind as error:
            raise RuntimeError("Failed to evaluate") from error
    except RuntimeError as error:
        sys.excepthook(RuntimeError, error, error.__traceback__)
    assert (
        capsys.readouterr().err.strip() == f"{kind.__name__}: seed: expected an integer, got None. Correct the value."
    )


def test_output_dir_is_made_or_must_be_empty(tmp_path):
    path = prepare_output_dir(tmp_path / "a" / "b")
    assert path.is_dir()
    (path / "x").touch()
    with pytest.raises(
        FileExistsError, match=r"output_dir: expected an empty folder, got .*b with 1 entries. .*overwrite"
    ):
        prepare_output_dir(path)
    with pytest.raises(
        FileExistsError, match=r"output_dir: expected an earlier run to overwrite, got .* without plan.json"
    ):
        prepare_output_dir(path, overwrite=True)


def test_overwriting_removes_what_a_chain_wrote_and_nothing_else(tmp_path):
    for name in (
        "plan.json",
        "model.pt",
        "stage_1/model.pt",
        "stage_10/model.pt",
        "tensorboard/events",
        "notes/mine.txt",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "stages.txt").touch()
    prepare_output_dir(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "stages.txt"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match=r"output_dir: expected a folder to write to, got .*file"):
        prepare_output_dir(tmp_path / "file" / "sub")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="which is read-only"):
        prepare_output_dir(tmp_path)


def test_the_configuration_that_tracking_writes_first_is_no_earlier_run(tmp_path):
    (tmp_path / "config_20261122_101112.json").touch()
    assert prepare_output_dir(tmp_path) == tmp_path


def files(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("x")


@pytest.mark.parametrize("name", ["checkpoint.pt", "predictions.csv"])
def test_to_go_on_an_interrupted_and_a_complete_run_stay(tmp_path, name):
    files(tmp_path, "plan.json", "stage_1/model.pt", name)
    assert prepare_output_dir(tmp_path, resume=True) == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["plan.json", "stage_1", name])


@pytest.mark.parametrize("names", [(), ("tensorboard/events",), ("plan.json.part",), ("plan.json", "stage_1/model.pt")])
def test_to_go_on_a_run_without_a_checkpoint_begins_anew(tmp_path, names):
    files(tmp_path, *names)
    prepare_output_dir(tmp_path, resume=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("tensorboard/events",), ("plan.json.part",), ("mlruns.db", "tensorboard/events")])
def test_a_run_that_failed_before_its_plan_can_be_repeated(tmp_path, names):
    files(tmp_path, *names)
    with pytest.raises(FileExistsError, match="--overwrite true to remove it"):
        prepare_output_dir(tmp_path)
    prepare_output_dir(tmp_path, overwrite=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("tensorboard/events", "notes.txt"), ("model.pt",), ("stage_1/model.pt",)])
def test_overwriting_needs_the_plan_of_an_earlier_run(tmp_path, names):
    files(tmp_path, *names)
    with pytest.raises(FileExistsError, match=r"output_dir: expected an earlier run to overwrite, got .* without plan"):
        prepare_output_dir(tmp_path, overwrite=True)
    assert len(list(tmp_path.iterdir())) == len(names)


def test_to_go_on_is_no_reason_to_remove_what_no_chain_wrote(tmp_path):
    files(tmp_path, "model.pt")
    with pytest.raises(FileExistsError, match="--resume true to go on with an interrupted run, or --overwrite true"):
        prepare_output_dir(tmp_path, resume=True)
    with pytest.raises(ValueError, match="resume: expected False with overwrite, got True"):
        prepare_output_dir(tmp_path, resume=True, overwrite=True)
    assert (tmp_path / "model.pt").exists()


def test_a_run_is_complete_when_its_checkpoint_is_gone(tmp_path, caplog):
    caplog.set_level("INFO")
    files(tmp_path, "plan.json", "predictions.csv", "checkpoint.pt")
    assert not is_complete(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    assert not caplog.records
    assert is_complete(tmp_path)
    assert "holds a complete run, there is nothing to train: pass another output_dir, or overwrite" in caplog.text


def settings_of(changes, items):
    parser = ConfigParser({**CONFIG, "items": items, "found": "$monai_weckd.bundle.run_settings(@items)", **changes})
    parser.get_parsed_content("imports")
    return parser.get_parsed_content("found")


def test_settings_are_the_configuration_but_for_places_and_the_data(tmp_path):
    files(tmp_path, "a", "b")
    items = [{"id": name, "group": name, "label": 0, "image": str(tmp_path / name)} for name in "ab"]
    found = settings_of({"rates": [0.1, {"x": None}]}, items)
    assert (found["seed"], found["rates#0"], found["rates#1#x"]) == (0, 0.1, None)
    key = "images and their list"
    assert found[key].startswith("2 items, digest ")
    plain = settings_of({}, items)
    assert settings_of({"output_dir": "elsewhere", "cache_dir": "there"}, items) == plain
    loading = {"dataloader": {"num_workers": 3, "batch_size": 2}, "checkpoint": {"interval": 2}}
    changed = settings_of({"train": {**CONFIG["train"], **loading}}, items)
    assert changed == {**plain, "train#dataloader#batch_size": 2}
    # elsewhere, and in another order, the same files are the same
    files(tmp_path / "copy", "a", "b")
    moved = [{**item, "image": str(tmp_path / "copy" / item["id"])} for item in reversed(items)]
    assert settings_of({}, moved)[key] == found[key]
    assert settings_of({}, [{**items[0], "label": 1}, items[1]])[key] != found[key]
    (tmp_path / "b").write_text("y")
    assert settings_of({}, items)[key] != found[key]
    with pytest.raises(RuntimeError, match="run_settings: expected to be called from a bundle's configuration"):
        run_settings(items)


HOLD = """
import sys, time
from monai_weckd.bundle.output import prepare_output_dir
prepare_output_dir(sys.argv[1])
print("held", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"resume": True}])
def test_two_runs_do_not_meet_in_one_folder(tmp_path, monkeypatch, options):
    monkeypatch.setattr(output, "_PATIENCE", 0.2)
    folder = tmp_path / "output"
    run = subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True)
    try:
        assert run.stdout.readline() == "held\n"
        for name in (folder, tmp_path / "." / "output", tmp_path / "link"):
            if name.name == "link":
                name.symlink_to(folder)
            with pytest.raises(FileExistsError, match=r"output_dir: expected one run at a time in .*, got another"):
                prepare_output_dir(name, **options)
        prepare_output_dir(tmp_path / "other", **options)
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    assert prepare_output_dir(folder, **options) == folder
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("options", [{}, {"overwrite": True}, {"overwrite": True, "resume": True}])
def test_a_folder_that_is_not_free_is_refused_before_an_image_is_read(tmp_path, options):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    places = {"output_dir": str(folder), "dataset_dir": str(tmp_path / "no such folder")}
    found = refusal(OTOSCOPY, base=["train"], **places, **options)
    assert found.startswith(("output_dir: expected ", "resume: expected False with overwrite"))
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
