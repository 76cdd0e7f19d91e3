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
import unicodedata
from datetime import datetime, timezone

import numpy as np
import pytest
from dicom_files import write_dicom
from PIL import Image

from monai_weckd.annotation import LabelStore
from monai_weckd.annotation.export import export_labels
from monai_weckd.annotation.label_files import rebuild_labels
from monai_weckd.annotation.readers import Readers
from monai_weckd.cli.main import main
from monai_weckd.data import load_datalist
from monai_weckd.utils.enums import UNLABELED

NAMES = ["a/ear.png", "a/=1+1.png", 'b/eine "Ohr", links.png', "b/ohr_ä.png", "c/-x.png"]


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(folder / name)
    return folder


def write_labels(folder, labels):
    path = folder.parent / "labels.json"
    path.write_text(json.dumps({"format": 1, "labels": {key: {"label": label} for key, label in labels.items()}}))
    return path


def export(images, labels, *options):
    return main(["manifest", "--dataset_dir", str(images), "--labels", str(labels), *map(str, options)])


def rows_of(manifest):
    with manifest.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_bundle_finds_every_image_with_the_label_that_it_was_given(images, capsys):
    given = {NAMES[1]: "ill", NAMES[2]: "well, rather", NAMES[4]: "ill"}
    assert export(images, write_labels(images, {**given, "gone.png": "ill"})) == 0
    out = capsys.readouterr().out
    assert out == (
        f"items   3 labeled, 2 not\nlabels  1 passed over: of images that are gone\nwritten {images / 'manifest.csv'}\n"
    )
    items, classes, *_ = load_datalist(images)
    assert sorted(item["id"] for item in items) == sorted(NAMES)
    labels = {item["id"]: classes[item["label"]] for item in items if item["label"] != UNLABELED}
    assert labels == given


def test_a_name_in_another_unicode_form_keeps_its_label(images, capsys):
    assert unicodedata.normalize("NFD", NAMES[3]) != NAMES[3]
    assert export(images, write_labels(images, {unicodedata.normalize("NFD", NAMES[3]): "ill"})) == 0
    assert capsys.readouterr().out.startswith("items   1 labeled, 4 not\nwritten")


def test_groups_stay_and_a_manifest_is_not_overwritten(images, capsys):
    manifest = images / "manifest.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["file", "label", "group"], *([name, "other", name[0]] for name in NAMES)])
    before, labels = manifest.read_bytes(), write_labels(images, {NAMES[0]: "ill"})
    assert export(images, labels) == 1
    assert f"output: expected nothing at {manifest}, got a file. Pass another --output." in capsys.readouterr().err
    assert manifest.read_bytes() == before
    output = images.parent / "new.csv"
    assert export(images, labels, "--output", output) == 0
    with output.open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: (row["label"], row["group"]) for row in csv.DictReader(file)}
    assert rows == {name: ("ill" if name == NAMES[0] else "", name[0]) for name in NAMES}


def test_a_series_is_one_item_where_one_has_a_label(tmp_path):
    folder = tmp_path / "images"
    for series in ("one", "two"):
        uid = {"SeriesInstanceUID": f"1.2.{len(list(tmp_path.rglob('*.dcm'))) + 1}"}
        for number in range(2):
            (folder / series).mkdir(parents=True, exist_ok=True)
            write_dicom(folder / series / f"{number}.dcm", np.zeros((4, 4), np.uint16), PatientID=series, **uid)
    assert export(folder, write_labels(folder, {"one": "ill"})) == 0
    rows = rows_of(folder / "manifest.csv")
    assert [(row["file"], row["label"]) for row in rows] == [("one", "ill"), ("two", "")]
    assert len({row["group"] for row in rows}) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labels", "none.json"], "labels: expected labels.json of `label`, got no none.json. Correct the path."),
        (["--reports", "none", "--rebuild"], "rebuild: expected --labels, got --reports, which have no labels.log."),
        (["--labels", "labels.json", "--unverified"], "unverified: expected --reports, got --labels, which a"),
    ],
)
def test_errors_are_one_line(images, capsys, options, message):
    assert main(["manifest", "--dataset_dir", str(images), *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")
    assert not (images / "manifest.csv").exists()


def test_a_manifest_says_who_gave_a_label_and_when(images, tmp_path, capsys):
    store = LabelStore(tmp_path / "labels.json", ("ill", "well"))
    store.put(NAMES[0], "ill", who="Béla")
    store.put(NAMES[1], "well")
    when = datetime.fromtimestamp(store.info(NAMES[0])["ts"], timezone.utc)
    assert export(images, store.path) == 0
    found = {row["file"]: row for row in rows_of(images / "manifest.csv")}
    assert list(found[NAMES[0]]) == ["file", "label", "group", "labeled_by", "labeled_at", "answer", "readings"]
    assert (found[NAMES[0]]["labeled_by"], found[NAMES[0]]["labeled_at"]) == ("Béla", f"{when:%Y-%m-%dT%H:%M:%S}Z")
    assert found[NAMES[1]]["labeled_by"] == found[NAMES[2]]["labeled_by"] == found[NAMES[2]]["labeled_at"] == ""
    events = [json.loads(line) for line in store.path.with_suffix(".log").read_text().splitlines()]
    assert {**events[-1], "ts": 0} == {"ts": 0, "who": None, "what": "export", "to": "manifest.csv", "labels": 2}
    # the file is rebuilt on demand, and the command says whether it had been touched
    content = store.path.read_bytes()
    for other, said in ((content, "it was what"), (content.replace(b"ill", b"well"), "it was not what")):
        store.path.write_bytes(other)
        capsys.readouterr()
        assert export(images, store.path, "--output", tmp_path / said, "--rebuild") == 0
        assert f"rebuilt {store.path}: {said} labels.log adds up to" in capsys.readouterr().out
        assert store.path.read_bytes() == content


def test_an_answer_in_place_of_a_class_is_no_class(images, tmp_path, capsys):
    store = LabelStore(tmp_path / "labels.json", ("ill", "well"), answers=("cannot tell",))
    store.put(NAMES[0], "ill")
    store.put(NAMES[1], "cannot tell", who="Ada")
    assert export(images, store.path) == 0
    out = capsys.readouterr().out
    assert out.startswith("items   1 labeled, 4 not\nlabels  1 passed over: answers in place of a class\n")
    found = {row["file"]: row for row in rows_of(images / "manifest.csv")}
    assert (found[NAMES[1]]["label"], found[NAMES[1]]["answer"]) == ("", "cannot tell")
    assert {row["label"] for row in found.values()} == {"ill", ""}
    # it can be corrected, and is a class after that
    store.put(NAMES[1], "well")
    assert "answer" not in store.info(NAMES[1])
    assert rebuild_labels(store.path)


def test_a_manifest_tells_what_each_reader_says(images, tmp_path, capsys):
    readers = Readers(LabelStore(tmp_path / "labels.json", ("ill", "well")), share=1, policy="settle", seed=0)
    for name, said in zip(NAMES, ("ii", "iw", "iw", "i"), strict=False):
        for who, label in zip(("Ada", "B\u00e9la"), said, strict=False):
            readers.put(name, {"i": "ill", "w": "well"}[label], who=who, settle=False)
    readers.put(NAMES[2], "well", who="Cy", settle=True)
    assert export(images, readers.store.path) == 0
    assert capsys.readouterr().out.startswith("items   3 labeled, 2 not\nlabels  1 passed over: disagreements\n")
    found = {
        row["file"]: [row["label"], row["labeled_by"], row["readings"]] for row in rows_of(images / "manifest.csv")
    }
    assert [found[name] for name in NAMES] == [
        ["ill", "B\u00e9la", "Ada: ill; B\u00e9la: ill"],
        ["", "", "Ada: ill; B\u00e9la: well"],
        ["well", "Cy", "Ada: ill; B\u00e9la: well"],
        ["ill", "Ada", "Ada: ill"],
        ["", "", ""],
    ]
    # the class with the largest share, or the first one; it is read back as one label
    again = images.parent / "soft.csv"
    assert export_labels(images, readers.store.path, again, policy="soft")["labeled"] == 4
    found = {row["file"]: (row["label"], row["shares"]) for row in rows_of(again)}
    assert found[NAMES[1]] == ("ill", "ill: 0.500; well: 0.500")
    assert {found[name] for name in NAMES if name != NAMES[1]} == {("ill", ""), ("well", ""), ("", "")}
    assert export_labels(images, readers.store.path, again, policy="majority")["disagreements"] == 1
    assert export(images, readers.store.path, "--disagreements", "sofd", "--output", again.with_name("2")) == 1
    assert "disagreements: expected one of" in capsys.readouterr().err
