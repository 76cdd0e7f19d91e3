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

import os
from pathlib import Path

import pytest

from monai_weckd.bundle import shipped
from monai_weckd.bundle.shipped import bundle_names, copy_bundle
from monai_weckd.cli.main import main

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"
NAME = "otoscopy_chain_classification"


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(params=["installed", "checkout"])
def bundle(request, tmp_path, monkeypatch):
    """Return the folder of the only bundle, in or beside a package."""
    package = tmp_path / "site" / "monai_weckd"
    bundle = (package if request.param == "installed" else package.parent) / "bundles" / "ours"
    for name in ("configs/train.json", "networks/net.py", "LICENSE"):
        (bundle / name).parent.mkdir(parents=True, exist_ok=True)
        (bundle / name).write_text(name)
    (bundle.parent / "build.py").touch()
    package.mkdir(exist_ok=True)
    monkeypatch.setattr(shipped, "__file__", str(package / "bundle" / "shipped.py"))
    return bundle


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("otoscopy", "error: name: expected a bundle, got 'otoscopy'. "),
        ("otoscopy_chain_clasification", f"Did you mean '{NAME}'?"),
        ("", "Valid: 'blood_smear_chain_classification', 'brain_mri_3d_chain_classification', "),
        ("build.py", "error: name: expected a bundle, got 'build.py'. "),
    ],
)
def test_an_unknown_bundle_is_refused(capsys, tmp_path, name, message):
    assert main(["bundle", "--name", name, "--to", str(tmp_path / "new")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("present", [NAME, f"{NAME}/notes.txt"], ids=["a file", "a folder with a file"])
def test_what_is_there_is_not_overwritten(capsys, tmp_path, present):
    path = tmp_path / present
    path.parent.mkdir(exist_ok=True)
    path.write_text("mine")
    assert main(["bundle", "--name", NAME, "--to", str(tmp_path)]) == 1
    target = tmp_path / NAME
    assert capsys.readouterr().err == (
        f"error: to: expected a folder without {NAME}, got {target}, which is not empty. Pass another one.\n"
    )
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == [path]
    assert path.read_text() == "mine"


def test_the_names_are_those_of_the_bundles(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert bundle_names() == sorted(path.name for path in BUNDLES.iterdir() if (path / "configs").is_dir())
    with pytest.raises(SystemExit):
        main(["bundle", "--help"])
    words = capsys.readouterr().out.replace(",", " ").split()
    assert set(bundle_names()) <= set(words)


@pytest.mark.parametrize("name", bundle_names())
def test_a_copy_is_whole_and_an_empty_folder_is_filled(tmp_path, name):
    (tmp_path / name).mkdir()
    copied, source = contents(copy_bundle(name, tmp_path)), contents(BUNDLES / name)
    left = {key for key in source if {"models", "output", "__pycache__"} & set(Path(key).parts)}
    assert copied == {key: source[key] for key in source.keys() - left}
    assert copied.keys() >= {"LICENSE", "configs/train.json", "configs/metadata.json", "docs/README.md"}


def test_what_runs_leave_behind_is_left_behind(bundle, tmp_path):
    expected = contents(bundle)
    for name in ("models/model.pt", "output/report.html", "networks/__pycache__/net.pyc"):
        (bundle / name).parent.mkdir()
        (bundle / name).touch()
    assert bundle_names() == ["ours"]
    target = copy_bundle("ours", tmp_path / "a" / "b")
    assert target == tmp_path / "a" / "b" / "ours"
    assert contents(target) == expected


@pytest.mark.parametrize(
    ("mask", "file_mode", "folder_mode"),
    [(0o077, 0o600, 0o700), (0o022, 0o644, 0o755), (0o027, 0o640, 0o750), (0o002, 0o664, 0o775)],
)
def test_modes_of_a_copy_are_those_of_the_user(tmp_path, mask, file_mode, folder_mode):
    before = os.umask(mask)
    try:
        target = copy_bundle("otoscopy_chain_classification", tmp_path / "new")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in target.rglob("*") if path.is_file()} == {file_mode}
    assert {path.stat().st_mode & 0o777 for path in [target, *target.rglob("*")] if path.is_dir()} == {folder_mode}
