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
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_files import PATIENT, write_dicom
from PIL import Image

from monai_weckd.cli.main import main
from monai_weckd.data.phantoms import make_phantom

BUNDLES = Path(__file__).resolve().parents[2] / "bundles"


def audit(dataset, output, *options, bundle="otoscopy", size="[64,64]"):
    command = ["audit", "--bundle", BUNDLES / f"{bundle}_chain_classification", "--dataset_dir", dataset]
    return main(list(map(str, [*command, "--output_dir", output, "--set", f"spatial_size={size}", *options])))


def table(output):
    with (output / "audit.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pictures(copy_ears, tmp_path_factory):
    """Return class folders of phantoms with a copied, a changed, a broken and a blank file."""
    folder = tmp_path_factory.mktemp("pictures")
    copy_ears(folder, 40)
    (folder / "manifest.csv").unlink()
    one, other, third = sorted(folder.rglob("*.png"))[:3]
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    shutil.copy(one, folder / names[-1] / "<b>copy.png")
    with Image.open(other) as image:
        image.convert("RGB").resize((100, 100)).save(folder / names[0] / "again.jpg", quality=80)
    (folder / names[0] / "broken.png").write_bytes(third.read_bytes()[:300])
    Image.new("RGB", (120, 120), (90, 90, 90)).save(folder / names[1] / "blank.png")
    return folder


def test_pictures(pictures, tmp_path, capsys):
    assert audit(pictures, tmp_path / "out") == 0
    rows = table(tmp_path / "out")
    by_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in {row["kind"] for row in rows}}
    assert [Path(row["file"]).name for row in by_kind["unreadable"]] == ["broken.png"]
    assert [Path(row["other_file"]).name for row in by_kind["exact_duplicate"]] == ["<b>copy.png"]
    assert by_kind["exact_duplicate"][0]["text"] == "different labels, different groups: same bytes"
    pairs = [{Path(row["file"]).name, Path(row["other_file"]).name} for row in by_kind["near_duplicate"]]
    assert any("again.jpg" in pair for pair in pairs)
    assert "blank.png" in [Path(row["file"]).name for row in by_kind["quality"]]
    page = (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;copy.png" in page
    assert "<b>copy" not in page
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert content["images"] == 44
    assert content["counts"]["unreadable"] == 1
    assert "Same file twice" in capsys.readouterr().out


def test_dicom_files_leave_nothing_of_the_patient(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(8):
        path = tmp_path / "data" / ("ill", "well")[number % 2] / f"{number}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(path, rng.integers(0, 255, (40, 50), dtype=np.uint8))
    shutil.copy(tmp_path / "data" / "ill" / "0.dcm", tmp_path / "data" / "well" / "copy.dcm")
    assert audit(tmp_path / "data", tmp_path / "out", bundle="brain_mri") == 0
    assert table(tmp_path / "out")[0]["kind"] == "exact_duplicate"
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert not [value for value in PATIENT.values() if value.encode() in written]


def test_volumes(tmp_path):
    make_phantom("brain_mri_3d", tmp_path / "data", items=6, seed=0)
    assert audit(tmp_path / "data", tmp_path / "out", bundle="brain_mri_3d", size="[32,32,32]") == 0
    assert json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))["images"] == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "chanels=1"], "error: set: expected a key of"),
        (["--bundle", "/no/such/bundle"], "error: bundle: expected configs/train.json in '/no/such/bundle', got none."),
        (["--dataset_dir", "/no/such/data"], "error: dataset_dir: expected an existing folder, got '/no/such/data'."),
        (["--set", "backbone#freeze=false"], "error: bundle: expected a frozen network"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_written(pictures, tmp_path, capsys, options, message):
    assert audit(pictures, tmp_path / "out", *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_an_earlier_audit_stays(pictures, tmp_path, capsys):
    (tmp_path / "audit.json").write_text("mine")
    assert audit(pictures, tmp_path) == 1
    assert capsys.readouterr().err.startswith("error: output_dir: expected a folder without an audit, got")
    assert (tmp_path / "audit.json").read_text() == "mine"
