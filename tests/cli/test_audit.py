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
from dicom_files import PATIENT, dicom_dataset, write_dicom, write_series
from PIL import Image
from pydicom.uid import BasicTextSRStorage, EncapsulatedPDFStorage, SegmentationStorage

from monai_weckd.cli.main import main
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.utils.records import sealed_json
from monai_weckd.utils.tables import table_text

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
        hidden = {"InstitutionName": "Mercy", "StationName": "MR-7"}
        write_dicom(path, rng.integers(0, 255, (40, 50), dtype=np.uint8), PatientAge="045Y", **hidden)
    shutil.copy(tmp_path / "data" / "ill" / "0.dcm", tmp_path / "data" / "well" / "copy.dcm")
    assert audit(tmp_path / "data", tmp_path / "out", bundle="brain_mri") == 0
    assert table(tmp_path / "out")[0]["kind"] == "exact_duplicate"
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    assert not [value for value in (*PATIENT.values(), "Mercy", "MR-7") if value.encode() in written]
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    values = {row["attribute"]: row["value"] for row in content["subgroups"]}
    assert values == {"all": "", "class": "well", "site": "site 1", "age": "40 to 49"}


def write_other_kinds(folder, rng):
    """Write DICOM objects of many kinds: a gray, a color, a truncated one, several frames, a mask, a report, a PDF."""
    folder.mkdir(parents=True, exist_ok=True)
    gray = rng.integers(0, 255, (40, 50), dtype=np.uint8)
    write_dicom(folder / "gray.dcm", gray)
    write_dicom(folder / "color.dcm", rng.integers(0, 255, (40, 50, 3), dtype=np.uint8))
    write_dicom(folder / "frames.dcm", rng.integers(0, 255, (6, 40, 50), dtype=np.uint8))
    write_dicom(folder / "mask.dcm", gray, SOPClassUID=SegmentationStorage)
    cut = Path(write_dicom(folder / "cut.dcm", gray))
    cut.write_bytes(cut.read_bytes()[:-500])
    for name, kind in {"report": BasicTextSRStorage, "letter": EncapsulatedPDFStorage}.items():
        dataset = dicom_dataset(gray, SOPClassUID=kind)
        for keyword in ("PixelData", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "SamplesPerPixel"):
            delattr(dataset, keyword)
        dataset.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    (folder / "empty.dcm").touch()
    (folder / "text.dcm").write_text("no image")


REASONS = {
    "cut.dcm": "cannot be decoded",
    "mask.dcm": "expected an image, got a mask (Segmentation). Leave it out.",
    "report.dcm": "expected an image, got a DICOM object without pixels (Basic Text SR). Leave it out.",
    "letter.dcm": "expected an image, got a DICOM object without pixels (Encapsulated PDF). Leave it out.",
    "empty.dcm": "expected an image, got an empty file.",
    "text.dcm": "expected a DICOM file",
}


def test_every_kind_of_dicom_object_is_used_or_listed_with_a_reason(tmp_path):
    rng = np.random.default_rng(0)
    write_other_kinds(tmp_path / "data" / "ill", rng)
    (tmp_path / "data" / "well").mkdir()
    for number in range(4):
        write_dicom(tmp_path / "data" / "well" / f"{number}.dcm", rng.integers(0, 255, (40, 50), dtype=np.uint8))
    assert audit(tmp_path / "data", tmp_path / "out") == 0
    found = {Path(row["file"]).name: row["text"] for row in table(tmp_path / "out") if row["kind"] == "unreadable"}
    expected = {**REASONS, "frames.dcm": "expected an image of 2 dimensions, got 3 (50 x 40 x 6)."}
    assert found.keys() == expected.keys()
    assert all(found[name].startswith(reason) for name, reason in expected.items())


def test_every_kind_is_used_or_listed_among_volumes(tmp_path, capsys):
    rng = np.random.default_rng(0)
    write_other_kinds(tmp_path / "data" / "ill", rng)
    for number in range(3):
        volume = rng.integers(0, 255, (12, 12, 6), dtype=np.uint8)
        write_series(tmp_path / "data" / "well" / str(number), volume, np.eye(4))
    assert audit(tmp_path / "data", tmp_path / "out", bundle="brain_mri_3d", size="[32,32,32]") == 0
    found = {Path(row["file"]).name: row["text"] for row in table(tmp_path / "out") if row["kind"] == "unreadable"}
    flat = "expected an image of 3 dimensions, got 2 (50 x 40). Convert it or leave it out."
    expected = {name: reason for name, reason in REASONS.items() if name not in ("report.dcm", "letter.dcm")}
    expected = {**expected, "gray.dcm": flat, "color.dcm": flat}
    assert found.keys() == expected.keys()
    assert all(found[name].startswith(reason) for name, reason in expected.items())
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert content["images"] == len(expected) + 4  # frames.dcm is a volume
    assert "files passed over: 2 (DICOM without pixels 2)" in capsys.readouterr().out


def test_a_reason_names_another_file_by_its_place_in_the_data(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        volume = rng.integers(0, 255, (12, 12, 4), dtype=np.uint8)
        for number, file in enumerate(write_series(tmp_path / name, volume, np.eye(4))):
            (tmp_path / "data" / "ill").mkdir(parents=True, exist_ok=True)
            Path(file).rename(tmp_path / "data" / "ill" / f"{name}{number}.dcm")
    cut = tmp_path / "data" / "ill" / "a1.dcm"
    cut.write_bytes(cut.read_bytes()[:-50])
    write_series(tmp_path / "data" / "well", volume, np.eye(4))
    assert audit(tmp_path / "data", tmp_path / "out", bundle="brain_mri_3d", size="[32,32,32]") == 0
    assert str(tmp_path) not in (tmp_path / "out" / "audit.csv").read_text(encoding="utf-8")
    texts = [row["text"] for row in table(tmp_path / "out") if row["kind"] == "unreadable"]
    assert len(texts) == 1
    assert "ill/a1.dcm" in texts[0]


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
        (["--config_file", "scratch.json"], "error: bundle: expected a frozen network"),
        (
            ["--run", "/no/such/run"],
            "error: run: expected the output folder of a finished training, got '/no/such/run'",
        ),
        (["--config_file", "no.json"], "error: config_file: expected a file, or the name of one in"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_written(pictures, tmp_path, capsys, options, message):
    assert audit(pictures, tmp_path / "out", *options) == 1
    error = capsys.readouterr().err
    assert error.startswith(message)
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("out/*"))


def test_columns_are_counted_and_a_training_is_measured(copy_ears, tmp_path, capsys):
    copy_ears(tmp_path / "data", 24)
    manifest = tmp_path / "data" / "manifest.csv"
    header, *lines = manifest.read_text(encoding="utf-8").split()
    lines = [f"{line},{'MF'[number % 2]},eye" for number, line in enumerate(lines)]
    manifest.write_text("\n".join([f"{header},Gender,notes", *lines]), encoding="utf-8")
    ids = [line.split(",")[0] for line in lines]
    names = sorted({line.split(",")[1] for line in lines})
    columns = ("id", "group", "split", "label", "predicted", *(f"probability_{name}" for name in names))
    rows = [dict(zip(columns, (key, "g", "test", names[0], names[0], 1.0, *[0.0] * 9))) for key in ids[:12]]  # noqa: B905
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "predictions.csv").write_text(table_text(columns, rows))
    (tmp_path / "run" / "chain.json").write_text(sealed_json({"classes": names}, indent=1))
    assert audit(tmp_path / "data", tmp_path / "out", "--run", tmp_path / "run") == 0
    assert "columns not used: notes\n" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert content["run"] == {"split": "test", "images": 12, "absent": 0}
    found = {row["value"]: row for row in content["subgroups"] if row["attribute"] == "sex"}
    assert {name: (row["images"], row["result"]["images"]) for name, row in found.items()} == {
        "female": (12, 6),
        "male": (12, 6),
    }
    assert "Results of the training" in (tmp_path / "out" / "audit.html").read_text(encoding="utf-8")


def test_an_overlay_is_merged(pictures, tmp_path, capsys):
    (tmp_path / "mine.json").write_text(json.dumps({"backbone#freeze": False}))
    assert audit(pictures, tmp_path / "out", "--config_file", tmp_path / "mine.json") == 1
    assert capsys.readouterr().err.startswith("error: bundle: expected a frozen network")
    (tmp_path / "mine.json").write_text(json.dumps({"cache_dir": str(tmp_path / "cache")}))
    assert audit(pictures, tmp_path / "out", "--config_file", tmp_path / "mine.json") == 0
    assert any((tmp_path / "cache").iterdir())


def test_an_earlier_audit_stays(pictures, tmp_path, capsys):
    (tmp_path / "audit.json").write_text("mine")
    assert audit(pictures, tmp_path) == 1
    assert capsys.readouterr().err.startswith("error: output_dir: expected a folder without an audit, got")
    assert (tmp_path / "audit.json").read_text() == "mine"
