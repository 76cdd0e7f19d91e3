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

import builtins
import logging
import os
import shutil

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

from monai_weckd.cli.main import main
from monai_weckd.data.datalist import load_datalist
from monai_weckd.data.duplicates import duplicate_notes, identical_images
from monai_weckd.data.verify import verify_images


def make(root, contents):
    for name, content in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return [str(root / name) for name in contents]


def test_sets_of_identical_files_and_folders(tmp_path):
    long = bytes(70_000)
    middle = long[:35_000] + b"x" + long[35_001:]
    paths = make(tmp_path, {"a.png": b"1", "b.png": b"1", "c.png": b"2", "e1.png": b"", "e2.png": b""})
    paths += make(tmp_path, {"l1.png": long, "l2.png": long, "l3.png": middle})
    make(tmp_path, {f"s{n}/{k}.dcm": bytes([k, 1 if n < 2 else n]) for n in range(3) for k in range(3)})
    folders = [str(tmp_path / f"s{n}") for n in range(3)]
    found = identical_images([*paths, *folders, str(tmp_path / "absent.png"), "a.npz::train/1"])
    assert found == [
        [str(tmp_path / name) for name in names] for names in (("a.png", "b.png"), ("l1.png", "l2.png"), ("s0", "s1"))
    ]


def test_a_file_without_an_equal_in_size_is_not_opened(tmp_path, monkeypatch):
    paths = make(tmp_path, {f"{n}.png": bytes(n + 1) for n in range(9)})
    monkeypatch.setattr(builtins, "open", lambda *_: pytest.fail("a file was opened"))
    assert identical_images(paths) == []


def items_of(root, rows):
    paths = make(root, {f"{name}.png": content for name, content, *_ in rows})
    return [
        {"id": f"{name}.png", "image": path, "label": label, "group": group, "split": split}
        for path, (name, _, label, group, split) in zip(paths, rows, strict=True)
    ]


@pytest.mark.parametrize(
    ("second", "kinds"),
    [
        ((1, "p", "train"), ["labels, first 'a.png' (ill) and 'b.png' (well)"]),
        ((0, "q", "train"), ["groups, first 'a.png' (p) and 'b.png' (q)"]),
        (
            (0, "q", "test"),
            ["splits, first 'a.png' (train) and 'b.png' (test)", "groups, first 'a.png' (p) and 'b.png' (q)"],
        ),
        ((-1, "p", "train"), []),
        ((0, "p", "train"), []),
    ],
)
def test_contradictions_are_told(tmp_path, second, kinds):
    items = items_of(tmp_path, [("a", b"1", 0, "p", "train"), ("b", b"1", *second), ("c", b"2", 1, "r", "val")])
    notes = duplicate_notes(items, ("ill", "well"))
    assert [note.partition(" with other ")[2].partition(". ")[0] for note in notes] == kinds
    assert all(note.startswith("2 images are byte-identical to another one") for note in notes)


@pytest.fixture
def dataset(tmp_path):
    lines = ["file,label,group"]
    for n in range(40):
        Image.new("L", (8, 8), n % 30).save(tmp_path / f"{n}.png")
        lines.append(f"{n}.png,{'ab'[(n + n // 35) % 2]},p{n}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    return tmp_path


def test_plan_and_verification_tell(dataset, capsys, caplog):
    options = ["--label_fraction", "0.5", "--val_fraction", "0.2", "--test_fraction", "0.3"]
    assert main(["plan", "--dataset_dir", str(dataset), *options]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if "byte-identical" in line]
    assert notes[0].startswith("note: 10 images are byte-identical to another one with other labels, first '5.png' (b)")
    assert any("with other splits" in note for note in notes)
    with caplog.at_level(logging.WARNING, logger="monai_weckd"):
        verify_images(load_datalist(dataset))
    assert [
        record.getMessage().partition(", first")[0] for record in caplog.records if "byte" in record.getMessage()
    ] == [
        "10 images are byte-identical to another one with other labels",
        "20 images are byte-identical to another one with other groups",
    ]


def test_a_name_that_is_not_utf_8_can_be_written(tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b \udcff.png"]
    for path in paths:
        path.write_bytes(b"the same")
    items = [{"id": path.name, "image": str(path), "label": 0, "group": path.name} for path in paths]
    (note,) = duplicate_notes(items, ["one"])
    assert r"b \udcff.png" in note
    note.encode()  # a lone surrogate could not be


PIXELS = np.random.default_rng(0).integers(0, 256, (20, 24), dtype=np.uint8)


def with_comment(path):
    Image.fromarray(PIXELS).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xfe\0\x06more" + content[2:])


# two ways to write the same pixels
WRITTEN = {
    "compression": ("a.png", "b.png", Image.Image.save, lambda image, path: image.save(path, compress_level=9)),
    "format": ("a.png", "b.bmp", Image.Image.save, Image.Image.save),
    "comment": ("a.jpg", "b.jpg", Image.Image.save, lambda _, path: with_comment(path)),
    "header": (
        "a.dcm",
        "b.dcm",
        lambda _, path: write_dicom(path, PIXELS, PatientID="A"),
        lambda _, path: write_dicom(path, PIXELS, PatientID="B"),
    ),
    "bytes at the end": (
        "a.png",
        "b.png",
        Image.Image.save,
        lambda image, path: (image.save(path), path.write_bytes(path.read_bytes() + b"\0")),
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
@pytest.mark.parametrize(("split", "kind"), [("test", "splits"), ("train", "groups")])
def test_equal_pixels_in_other_bytes_are_told_when_images_are_read(tmp_path, caplog, name, split, kind):
    first, second, write, write_again = WRITTEN[name]
    image = Image.fromarray(PIXELS)
    write(image, tmp_path / first)
    write_again(image, tmp_path / second)
    Image.fromarray(PIXELS[::-1].copy()).save(tmp_path / "c.png")
    lines = ["file,label,split", f"{first},x,train", f"{second},x,{split}", "c.png,y,train"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    datalist = load_datalist(tmp_path)
    assert duplicate_notes(datalist.items, datalist.classes) == []
    for _ in range(2):  # also if the images are known
        caplog.clear()
        verify_images(datalist)
        notes = [record.getMessage() for record in caplog.records if "same pixels" in record.getMessage()]
        assert len(notes) == (2 if kind == "splits" else 1)
        assert notes[0].startswith(f"2 images have the same pixels as another one with other {kind}, first '{first}' (")


def warned(caplog):
    """Return the warnings; an earlier test may have switched on other messages."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("link", ["copy", "hard", "symbolic"])
def test_equal_files_are_told_once(tmp_path, caplog, link):
    for folder in "xy":
        (tmp_path / folder).mkdir()
    Image.fromarray(PIXELS).save(tmp_path / "x" / "a.png")
    Image.fromarray(PIXELS).save(tmp_path / "x" / "other.bmp")
    make = {"copy": shutil.copy, "hard": os.link, "symbolic": os.symlink}[link]
    make(tmp_path / "x" / "a.png", tmp_path / "y" / "b.png")
    verify_images(load_datalist(tmp_path))
    assert [note.partition(", first")[0] for note in warned(caplog)] == [
        "2 images are byte-identical to another one with other labels",
        "2 images are byte-identical to another one with other groups",
        "3 images have the same pixels as another one with other labels",
        "3 images have the same pixels as another one with other groups",
    ]
    (tmp_path / "x" / "other.bmp").unlink()
    caplog.clear()
    verify_images(load_datalist(tmp_path))
    assert not [record for record in caplog.records if "same pixels" in record.getMessage()]


def test_blank_images_are_no_copies(tmp_path, caplog):
    for folder, suffix in (("x", "png"), ("y", "bmp")):
        (tmp_path / folder).mkdir()
        Image.new("L", (8, 8), 7).save(tmp_path / folder / f"a.{suffix}")
    verify_images(load_datalist(tmp_path))
    assert not warned(caplog)


@pytest.mark.parametrize("place", [1, 2, 50_001])
def test_images_that_differ_in_one_pixel_are_no_copies(tmp_path, caplog, place):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)
    for folder in "xy":
        (tmp_path / folder).mkdir()
        Image.fromarray(pixels).save(tmp_path / folder / "a.png")
        pixels.flat[place] ^= 1
    verify_images(load_datalist(tmp_path))
    assert not warned(caplog)
