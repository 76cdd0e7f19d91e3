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
from pathlib import Path

import pytest

from monai_weckd.annotation import LabelStore
from monai_weckd.annotation.label_files import labeled_findings, read_labels, rebuild_labels
from monai_weckd.annotation.readers import Readers

NAMES = ("effusion", "nodule")
ANSWERS = ("cannot tell",)


def store_in(folder, names=NAMES, *, findings=True):
    return LabelStore(Path(folder, "labels.json"), names, answers=ANSWERS, findings=findings)


def test_findings_are_named_in_log_and_file_and_both_say_the_same(tmp_path):
    store = store_in(tmp_path)
    assert store.put("a.png", {"nodule": 0, "effusion": 1}, who="Ada") is None
    assert store.put("a.png", "effusion=0", who="Ada") == "effusion=1|nodule=0"
    store.put("b.png", "cannot tell")
    lines = [json.loads(line) for line in store.path.with_suffix(".log").read_text().splitlines()]
    assert [(line["what"], line.get("names"), line.get("label")) for line in lines] == [
        ("findings", list(NAMES), None),
        ("label", None, "effusion=1|nodule=0"),
        ("correction", None, "effusion=0"),
        ("label", None, "cannot tell"),
    ]
    assert labeled_findings(store.path) == NAMES
    assert {key: entry["label"] for key, entry in read_labels(store.path).items()} == store.labels
    assert json.loads(store.path.read_text())["findings"] == list(NAMES)
    assert rebuild_labels(store.path)
    store.path.unlink()
    assert not rebuild_labels(store.path)
    assert store_in(tmp_path).labels == {"a.png": "effusion=0", "b.png": "cannot tell"}


def test_a_new_finding_comes_last_and_labels_stay(tmp_path):
    store_in(tmp_path).put("a.png", "nodule=1")
    more = store_in(tmp_path, (*NAMES, "mass"))
    assert more.labels == {"a.png": "nodule=1"}
    assert labeled_findings(more.path) == (*NAMES, "mass")
    for names in (NAMES, ("mass", *NAMES)):
        with pytest.raises(ValueError, match=r"expected findings \['effusion', 'nodule', 'mass'\], of which it has"):
            store_in(tmp_path, names)
    with pytest.raises(ValueError, match=r"of which it has labels, got classes\. Pass another folder"):
        store_in(tmp_path, findings=False)


def test_classes_are_not_taken_for_findings(tmp_path):
    store_in(tmp_path, findings=False).put("a.png", "nodule")
    assert labeled_findings(tmp_path / "labels.json") == ()
    with pytest.raises(ValueError, match=r"labels\.json: label: expected 1, 0 or null once for 'nodule'"):
        store_in(tmp_path)


def test_two_readers_who_do_not_contradict_each_other_are_one(tmp_path):
    readers = Readers(store_in(tmp_path), share=1.0, policy="settle", seed=0)
    said = {
        "both": ("effusion=1", "nodule=0"),
        "differ": ("effusion=1|nodule=0", "effusion=0|nodule=0"),
        "one": ("effusion=0|nodule=1", "cannot tell"),
    }
    for key, labels in said.items():
        for who, label in zip(("Ada", "Bob"), labels, strict=True):
            readers.put(key, label, who=who, settle=False)
    assert readers.decided() == {"both": "effusion=1|nodule=0"}
    assert [one["id"] for one in readers.disagreements(said, "Ada")] == ["differ", "one"]
    found = readers.agreement({key: {"id": key, "group": key} for key in said})
    assert (found["images"], found["agree"]) == (3, pytest.approx(1 / 3))
    assert {name: one["images"] for name, one in found["of"].items()} == {"effusion": 1, "nodule": 1}
    assert found["of"]["nodule"]["agree"] == 1
    assert rebuild_labels(readers.store.path)
    assert read_labels(readers.store.path)["both"]["label"] == "effusion=1|nodule=0"
