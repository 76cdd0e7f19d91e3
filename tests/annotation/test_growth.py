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
import threading

import numpy as np
import pytest
import torch
from annotation_runs import OTOSCOPY, SMALL, class_of

from monai_weckd.annotation import AnnotatedBundle, AnnotatedChain, AnnotationSession, StageRunningError, find_items
from monai_weckd.annotation.growth import grow_chain
from monai_weckd.cli.main import main
from monai_weckd.utils.records import model_chain

CLASSES = ["chronic_otitis_media", "earwax_plug", "myringosclerosis", "normal"]


def chain_of(classes, studies, output_dir):
    bundle = AnnotatedBundle(OTOSCOPY, studies, changes=SMALL, classes=classes, cache_dir=output_dir / "cache")
    return AnnotatedChain(bundle, output_dir)


@pytest.fixture(scope="module")
def studies(copy_ears, tmp_path_factory):
    return copy_ears(tmp_path_factory.mktemp("ears") / "images", 40)


@pytest.fixture(scope="module")
def begun(studies, tmp_path_factory):
    """Return the output folder of a chain of three classes with a stage, and its labels."""
    output_dir = tmp_path_factory.mktemp("begun") / "output"
    chain, items = chain_of(CLASSES[:3], studies, output_dir), find_items(studies, spatial_dims=2)
    labels = {item["id"]: class_of(item["id"]) for item in items[::2] if class_of(item["id"]) in CLASSES[:3]}
    chain.append_stage(items, labels)
    return output_dir, labels


@pytest.fixture
def output_dir(begun, tmp_path):
    shutil.copytree(begun[0], tmp_path / "output", symlinks=True)
    return tmp_path / "output"


def test_a_class_is_added_to_a_chain_that_exists(studies, begun, output_dir, capsys):
    items, labels = find_items(studies, spatial_dims=2), dict(begun[1])
    paths = [item["image"] for item in items[:6]]
    before = [chain_of(CLASSES[:3], studies, output_dir).predictor().predict(path) for path in paths]
    chain = chain_of(CLASSES, studies, output_dir)
    assert model_chain(output_dir / "chain" / "model.pt")["classes"] == CLASSES
    for path, old in zip(paths, before, strict=True):
        new = chain.predictor().predict(path)
        assert new[3] < 0.01
        np.testing.assert_allclose(new[:3] / new[:3].sum(), old, atol=1e-5)
    assert chain.given.touched == labels.keys()
    # what people labeled before stays, and the next stage learns the new class
    normal = [item["id"] for item in items if class_of(item["id"]) == "normal"]
    labels.update(dict.fromkeys(normal[:6], "normal"))
    chain.append_stage(items, labels)
    first, second = chain.stages
    assert (first["accepted"], second["accepted"]) == (True, True)
    assert second["labeled"] == first["labeled"] + 6
    image = next(item["image"] for item in items if item["id"] == normal[0])
    assert chain.predictor().predict(image).argmax() == 3
    assert main(["report", "--output_dir", str(output_dir / "chain")]) == 0
    with (output_dir / "chain" / "stage_1" / "out_of_fold.csv").open(newline="") as file:
        assert {row["probability_normal"] for row in csv.DictReader(file)} == {"0"}
    assert not (output_dir / "chain_1").exists()  # which has been replaced twice


def test_an_interruption_leaves_the_chain_as_it_was(studies, output_dir, monkeypatch):
    def fail(self, part):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AnnotatedChain, "_replace", fail)
        with pytest.raises(KeyboardInterrupt):
            chain_of(CLASSES, studies, output_dir)
    assert len(chain_of(CLASSES[:3], studies, output_dir).stages) == 1
    assert len(chain_of(CLASSES, studies, output_dir).stages) == 1


@pytest.mark.parametrize("classes", [CLASSES[:2], [*CLASSES[1:], CLASSES[0]], ["normal", *CLASSES[:3]]])
def test_a_class_that_does_not_come_last_is_refused(studies, output_dir, classes):
    with pytest.raises(ValueError, match=r"output_dir: expected a chain of the classes .*; new ones come last\."):
        chain_of(classes, studies, output_dir)


def test_a_head_that_cannot_grow_is_refused(output_dir, tmp_path):
    with pytest.raises(ValueError, match="classes: expected a student whose head 'fc' is linear with 3 outputs, got"):
        grow_chain(output_dir / "chain", tmp_path / "new", CLASSES, head="fc")


def test_students_grow_by_rows_of_zeros_and_a_low_bias(output_dir, tmp_path):
    grow_chain(output_dir / "chain", tmp_path / "new", [*CLASSES, "other"], head="classifier")
    old, new = (
        torch.load(folder / "model.pt", weights_only=True) for folder in (output_dir / "chain", tmp_path / "new")
    )
    assert new["classifier.weight"].shape == (5, old["classifier.weight"].shape[1])
    assert torch.equal(new["classifier.weight"][:3], old["classifier.weight"])
    assert not new["classifier.weight"][3:].any()
    assert torch.equal(new["classifier.bias"][3:], (old["classifier.bias"].min() - 5).expand(2))
    assert all(torch.equal(value, new[name]) for name, value in old.items() if not name.startswith("classifier"))
    assert json.loads((tmp_path / "new" / "plan.json").read_text())["classes"] == [*CLASSES, "other"]


def lines_about(output_dir, what):
    lines = (output_dir / "labels.log").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if line["what"] == what]


def test_a_class_is_added_while_people_label(studies, begun, output_dir, monkeypatch):
    monkeypatch.setattr(AnnotationSession, "learn", lambda self: None)  # the test itself has it learn
    here = AnnotationSession(chain_of(CLASSES[:3], studies, output_dir), studies)
    for key, label in begun[1].items():
        here.put_label(key, label, who="Bob")
    before, items = here.chain.scores, list(here.items.values())
    assert here.add_class(" normal ", who="Ada") == ("normal", True)
    assert here.add_class("Normal", who="Bob") == ("normal", False)
    [line] = lines_about(output_dir, "classes")
    assert (line["who"], line["names"]) == ("Ada", CLASSES)
    assert here.state()["classes"] == CLASSES
    # what the network has seen is not seen again, and the head that has grown says what a new look would
    assert here.chain.knows(items)
    assert here.chain.scores.ids == before.ids
    student = output_dir / "chain" / "model.pt"
    _, [looked] = here.chain.bundle.embed(items, [student])
    by_id = dict(zip(here.chain.scores.ids, here.chain.scores.probabilities, strict=True))
    np.testing.assert_allclose(np.stack([by_id[item["id"]] for item in items]), looked, atol=1e-5)
    assert len(here.predict(items[0]["image"])["prediction"]) == 4
    # the order, the head of all labels and the next stage take it up
    normal = [item["id"] for item in items if class_of(item["id"]) == "normal"]
    for key in normal[:6]:
        here.put_label(key, "normal", who="Bob")
    here.chain.learn(items, here.labels)
    assert here.chain.live.probabilities.shape == (len(here.chain.live.ids), 4)
    assert here.next()[0].probabilities.shape == (4,)
    here.train()
    assert here.predict(here.items[normal[0]]["image"])["label"] == "normal"
    # a restart with the old command knows it
    again = AnnotationSession(chain_of(CLASSES[:3], studies, output_dir), studies)
    assert (again.classes, len(again.chain.stages)) == (tuple(CLASSES), 2)


def test_a_kill_right_after_a_class_was_logged_loses_nothing(studies, output_dir, monkeypatch):
    here = AnnotationSession(chain_of(CLASSES[:3], studies, output_dir), studies)
    with monkeypatch.context() as patch:
        patch.setattr(AnnotatedChain, "again", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            here.add_class("normal")
    assert here.classes == tuple(CLASSES[:3])  # nothing has changed here, and it can be added once more
    assert AnnotationSession(chain_of(CLASSES[:3], studies, output_dir), studies).classes == tuple(CLASSES)


def test_two_windows_add_at_once(studies, tmp_path):
    here = AnnotationSession(chain_of(CLASSES[:2], studies, tmp_path / "output"), studies)
    barrier, found = threading.Barrier(4), []

    def add(name):
        barrier.wait()
        found.append(here.add_class(name, who=name))

    threads = [threading.Thread(target=add, args=(name,)) for name in ("normal", "Normal", "polyp", "normal")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(name.lower() for name, added in found if added) == ["normal", "polyp"]
    assert sorted(map(str.lower, here.classes[2:])) == ["normal", "polyp"]
    assert lines_about(tmp_path / "output", "classes")[-1]["names"] == list(here.classes)
    assert here.put_label(next(iter(here.items)), "polyp") is None


def test_a_class_waits_for_images_that_are_being_examined(studies, output_dir, monkeypatch):
    here = AnnotationSession(chain_of(CLASSES[:3], studies, output_dir), studies)
    monkeypatch.setattr("monai_weckd.annotation.growth._PATIENCE", 0.01)
    with here.chain._alone(), pytest.raises(StageRunningError, match="class: expected no images that are being exam"):
        here.add_class("normal")
    assert not (output_dir / "labels.log").exists()
    assert here.add_class("normal") == ("normal", True)


def test_a_head_that_cannot_grow_is_refused_before_anything_is_logged(studies, output_dir, monkeypatch):
    here = AnnotationSession(chain_of(CLASSES[:3], studies, output_dir), studies)
    monkeypatch.setattr(AnnotatedBundle, "head", "")  # the whole network
    with pytest.raises(ValueError, match="class: expected a student whose head '' is linear, got"):
        here.add_class("normal")
    assert not (output_dir / "labels.log").exists()
