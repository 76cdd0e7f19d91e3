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
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from annotation_runs import OTOSCOPY, SCRATCH, class_of, label_next, make_annotated, make_bundle
from filelock import FileLock

from monai_weckd import ChainPlan
from monai_weckd.annotation import AnnotatedChain, StageRunningError, find_items
from monai_weckd.annotation.shards import labeled_items
from monai_weckd.cli.main import main
from monai_weckd.data.datalist import Datalist
from monai_weckd.data.verify import find_faults
from monai_weckd.plan.label_kind import LabelKind


@pytest.fixture(scope="module")
def grown(studies, tmp_path_factory):
    """Return the folder of a chain of two stages, what was labeled at each, and what was reported."""
    output_dir = tmp_path_factory.mktemp("grown") / "output"
    chain, items = make_annotated(studies, output_dir)
    chain.score(items)
    labels, history, reports = {}, [], []
    for _ in range(2):
        label_next(chain, items, labels, 16)
        chain.append_stage(items, labels, progress=lambda *place: reports.append(place))
        history.append(dict(labels))
    return output_dir, history, reports


@pytest.fixture
def copy(grown, tmp_path):
    """Return the chain of two stages in a folder of its own, and its labels."""
    shutil.copytree(grown[0], tmp_path / "output", symlinks=True)
    return tmp_path / "output", dict(grown[1][-1])


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val_fraction": 1.0}, r"val_fraction: expected a fraction in \[0, 1\), got 1\.0\. Pass e\.g\. 0\.25\."),
        ({"val_fraction": -0.1}, r"val_fraction: expected a fraction in \[0, 1\), got -0\.1\. Pass e\.g\. 0\.25\."),
        ({"ahead": 0}, r"ahead: expected 1 image or more, got 0\. Pass e\.g\. 24\."),
    ],
)
def test_refuses_numbers_out_of_range(studies, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        make_annotated(studies, tmp_path, **options)


def test_refuses_a_model_that_is_not_the_chain_s(studies, copy):
    path = copy[0] / "chain" / "model.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.pt: expected a model of the chain\.json beside it, got another one"):
        AnnotatedChain(make_bundle(studies, copy[0]), copy[0])


def test_refuses_a_chain_of_other_classes(studies, copy):
    bundle = make_bundle(studies, copy[0])
    bundle.kind = LabelKind(("a", "b"))
    with pytest.raises(ValueError, match=r"output_dir: expected a chain of the classes \['a', 'b'\], got \['chronic"):
        AnnotatedChain(bundle, copy[0])


def test_the_gate_is_as_tolerant_as_configured(studies, tmp_path):
    overlay = tmp_path / "tolerant.json"
    overlay.write_text('{"chain#tolerance": 0.1}')
    assert make_bundle(studies, tmp_path).tolerance is None
    assert make_bundle(studies, tmp_path, overlays=[overlay]).tolerance == 0.1
    assert make_bundle(studies, tmp_path, **{"chain#tolerance": 0}).tolerance == 0
    chain = AnnotatedChain(make_bundle(studies, tmp_path / "output", **{"chain#tolerance": 0}), tmp_path / "output")
    items = find_items(studies, spatial_dims=2)
    labels = {item["id"]: class_of(item["id"]) for item in items if "broken" not in item["id"]}
    assert chain.append_stage(items, labels)["gate"]["tolerance"] == 0


def test_each_stage_has_the_labels_that_came_since_the_last(studies, grown):
    output_dir, history, _ = grown
    plan = ChainPlan.from_json((output_dir / "chain" / "plan.json").read_text())
    given = read(output_dir / "chain" / "given.json")
    group = {item["id"]: item["group"] for item in find_items(studies, spatial_dims=2)}
    train, val = ({g for g, split in given["split_of"].items() if split == name} for name in ("train", "val"))
    assert not train & val
    assert given["split_of"].keys() == {group[key] for key in history[1]}
    assert set(plan.val) == {key for key in history[1] if group[key] in val}
    assert set(plan.stages[0].new) == {key for key in history[0] if group[key] in train}
    assert set(plan.stages[1].labeled) == {key for key in history[1] if group[key] in train}
    everything = {key for key in group if key != "normal/broken.png" and group[key] not in val}
    assert set(plan.pool(2)) == everything - history[1].keys()
    assert plan.skipped == ("normal/broken.png",)


def test_one_chain_json_tells_of_all_stages(grown):
    folder = grown[0] / "chain"
    chain = read(folder / "chain.json")
    first, second = chain["stages"]
    assert [first["stage"], second["stage"]] == [1, 2]
    assert (first["teacher"], second["teacher"]) == (None, 1)
    assert second["gate"]["previous"] is not None
    plan = read(grown[0] / "chain" / "plan.json")
    assert second["gate"]["tolerance"] == 1 / len(plan["val"]) < first["gate"]["tolerance"]
    epochs = read(folder / "history.json")["epochs"]
    assert [(one["epoch"], one["stage"]) for one in epochs] == [(1, 1), (2, 2)]
    assert [line["purpose"] for line in chain["ledger"]] == ["shard", "shard", "validation"]
    accepted = [stage for stage in chain["stages"] if stage["accepted"]][-1]
    assert (folder / accepted["checkpoint"]).read_bytes() == (folder / "model.pt").read_bytes()
    assert all((folder / stage["checkpoint"]).is_file() for stage in chain["stages"])


def test_report_and_predict_understand_it(studies, copy, tmp_path):
    folder = copy[0] / "chain"
    assert main(["report", "--output_dir", str(folder)]) == 0
    command = ["predict", "--bundle", str(OTOSCOPY), "--ckpt", str(folder / "model.pt"), "--input", str(studies)]
    command += ["--set", "spatial_size=[64,64]"]
    assert main([*command, "--output", str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    chain, items = make_annotated(studies, copy[0])
    predictor = chain.predictor()
    for item in items[:3]:
        expected = [float(rows[item["id"]][f"probability_{name}"]) for name in chain.bundle.classes]
        np.testing.assert_allclose(predictor.predict(item["image"]), expected, atol=1e-4)


def test_progress_is_reported(grown):
    assert grown[2] == [(1, 0, 1), (1, 1, 1), (2, 0, 1), (2, 1, 1)]


@pytest.mark.parametrize(
    "settings", [pytest.param({}, id="solved"), pytest.param(SCRATCH, id="scratch", marks=pytest.mark.slow)]
)
def test_stages_one_by_one_are_those_of_one_training(studies, tmp_path, settings):
    chain, items = make_annotated(studies, tmp_path / "output", settings=settings, val_fraction=0)
    chain.score(items)
    labels, reports = {}, []
    for _ in range(3):
        label_next(chain, items, labels, 8)
        chain.append_stage(items, labels, progress=lambda *place: reports.append(place))
    epochs = chain.bundle.epochs_of(1)
    assert reports == [(stage, epoch, epochs) for stage in (1, 2, 3) for epoch in range(epochs + 1)]
    (tmp_path / "whole").mkdir()
    changes = {
        "num_stages": 3,
        "max_epochs": 3 * epochs,
        "chain#stage_epochs": [epochs] * 3,
        "output_dir": str(tmp_path / "whole"),
    }
    plan = ChainPlan.from_json((chain.path / "plan.json").read_text())
    datalist = Datalist(labeled_items(items, labels, chain.words), chain.bundle.classes)
    config = make_bundle(studies, tmp_path / "other", **settings).config
    config.copy(changes, datalist=datalist, plan=plan).trainer().run()
    for stage in (1, 2, 3):
        grown, whole = (
            torch.load(folder / f"stage_{stage}" / "model.pt", weights_only=True)
            for folder in (chain.path, tmp_path / "whole")
        )
        torch.testing.assert_close(grown, whole, rtol=0, atol=1e-3)


def test_images_that_are_classified_at_once_do_not_mix(studies, copy):
    chain, items = make_annotated(studies, copy[0])
    predictor, paths = chain.predictor(), [item["image"] for item in items if "broken" not in item["id"]][:4]
    alone = [predictor.predict(path) for path in paths]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(predictor.predict, paths * 4))
    np.testing.assert_allclose(together, alone * 4, atol=1e-5)


def test_a_changed_image_is_read_again(studies, copy, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(studies, folder)
    bundle = make_bundle(folder, tmp_path / "output")
    items = find_items(folder, spatial_dims=2)[:4]
    before = bundle.embed(items, [])[0]
    shutil.copy(items[0]["image"], items[1]["image"])
    find_faults(items)  # as each stage does
    after = bundle.embed(items, [])[0]
    np.testing.assert_allclose(after, before[[0, 0, 2, 3]], atol=1e-5)


def test_earlier_students_and_features_are_kept_once(grown):
    folder = grown[0] / "chain"
    chain = read(folder / "chain.json")
    assert {stage["sha256"] for stage in chain["stages"]} == {
        hashlib.sha256((folder / stage["checkpoint"]).read_bytes()).hexdigest() for stage in chain["stages"]
    }


def test_the_next_images_are_known_after_a_stage_and_a_restart(studies, copy):
    chain, items = make_annotated(studies, copy[0])
    found = chain.next(items, copy[1], count=5)
    assert len({one.id for one in found}) == 5
    assert not {one.id for one in found} & copy[1].keys()
    assert all("margin" in one.reason for one in found)
    predictor, image = chain.predictor(), {item["id"]: item["image"] for item in items}
    # the chain keeps images in steps of 1 / 255, and the predictor does not
    np.testing.assert_allclose(found[0].probabilities, predictor.predict(image[found[0].id]), atol=1e-2)
    assert chain.unreadable.keys() == {"normal/broken.png"}
    assert chain.budget(copy[1]) == 32


def test_new_images_come_first_until_they_have_been_looked_at(studies, copy, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(studies, folder)
    (folder / "new.png").write_bytes((studies / sorted(copy[1])[0]).read_bytes())
    chain, items = make_annotated(folder, copy[0])
    first = chain.next(items, copy[1])[0]
    assert (first.id, first.reason, first.probabilities) == ("new.png", "not yet seen by the network", None)
    looked = []
    embed = chain.bundle.embed
    chain.bundle.embed = lambda found, students: (
        looked.append([item["id"] for item in found]),
        embed(found, students),
    )[1]
    chain.score(items)
    chain.score(items)
    assert looked == [["new.png"]]  # each image once for each student
    assert chain.next(items, copy[1])[0].reason != first.reason


def test_an_image_that_is_gone_is_not_asked_for_by_two_at_once(studies, copy):
    chain, items = make_annotated(studies, copy[0])
    gone = chain.next(items, copy[1])[0].id
    items = [item for item in items if item["id"] != gone]

    class Slow(dict):
        """Labels that somebody else has asked with by the time that they are looked at."""

        def __contains__(self, key):
            chain.next(items, copy[1])
            return super().__contains__(key)

    chain.next(items, Slow(copy[1]))
    assert chain.next(items, copy[1])[0].id != gone


def test_an_image_that_was_on_its_way_into_the_folder_is_looked_at_again(studies, copy, tmp_path):
    folder = tmp_path / "more"
    shutil.copytree(studies, folder)
    content = (studies / sorted(copy[1])[0]).read_bytes()
    (folder / "new.png").write_bytes(content[:100])
    chain, items = make_annotated(folder, copy[0])
    chain.score(items)
    assert chain.unreadable.keys() == {"new.png", "normal/broken.png"}
    assert chain.knows(items)
    (folder / "new.png").write_bytes(content)
    assert not chain.knows(items)
    chain.score(items)
    assert chain.unreadable.keys() == {"normal/broken.png"}
    assert chain.knows(items)
    assert "new.png" in {one.id for one in chain.next(items, copy[1], count=len(items))}


def test_imports_of_other_threads_do_not_disturb(studies, copy, monkeypatch):
    output_dir, labels = copy
    chain, items = make_annotated(studies, output_dir)

    def listed(self):  # as listing sys.modules ends while another thread imports
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr("monai.bundle.ComponentLocator._find_module_names", listed)
    label_next(chain, items, labels, 8)
    assert chain.append_stage(items, labels)["stage"] == 3
    assert chain.predictor().predict(items[0]["image"]).shape == (4,)


def test_a_stage_that_failed_may_be_begun_again_at_once(studies, copy):
    chain, items = make_annotated(studies, copy[0])
    label_next(chain, items, copy[1], 8)

    def fail(stage, epoch, epochs):
        if epoch:
            assert (copy[0] / "chain_3").is_dir()
            raise RuntimeError("no room")

    with pytest.raises(RuntimeError, match="no room") as failure:
        chain.append_stage(items, copy[1], progress=fail)
    assert not (copy[0] / "chain_3").exists()  # what is on a full disk leaves it, so that labels have room
    assert chain.append_stage(items, copy[1])["stage"] == 3
    assert failure.value.__traceback__ is not None  # which holds all that the failed call had


def test_refuses_a_stage_while_one_is_running(studies, copy):
    chain, items = make_annotated(studies, copy[0])
    with (
        FileLock(copy[0] / "stage.lock"),
        pytest.raises(StageRunningError, match=r"stage: expected none in training, got one in .*\. Wait until it is"),
    ):
        chain.append_stage(items, copy[1])


def files_of(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted((folder / "chain").rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("moment", ["training", "replacing"])
def test_a_kill_leaves_the_chain_as_it_was(studies, copy, moment):
    chain, items = make_annotated(studies, copy[0])
    labels = copy[1]
    label_next(chain, items, labels, 12)
    before = files_of(copy[0])

    def die(*place):
        if moment == "replacing" or place[1] == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    def run():
        torch.set_num_threads(1)
        if moment == "replacing":
            chain._replace = die
        chain.append_stage(items, labels, progress=die if moment == "training" else None)

    child = multiprocessing.get_context("fork").Process(target=run)
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert (copy[0] / "chain_3").is_dir()  # it did get there
    assert files_of(copy[0]) == before
    again, items = make_annotated(studies, copy[0])
    assert len(again.stages) == 2
    if moment == "replacing":  # what is left of it is in nobody's way
        assert again.append_stage(items, labels)["stage"] == 3
        assert sorted(path.name for path in copy[0].glob("chain_*")) == ["chain_2", "chain_3"]


def test_a_rejected_stage_is_said_to_be_and_leaves_the_model(studies, copy, monkeypatch):
    chain, items = make_annotated(studies, copy[0])
    before = (copy[0] / "chain" / "model.pt").read_bytes()
    monkeypatch.setattr("monai_weckd.handlers.continuation._measure", lambda evaluator: 2.0)  # better than any student
    label_next(chain, items, copy[1], 8)
    stage = chain.append_stage(items, copy[1])
    assert stage["accepted"] is False
    assert stage["gate"]["previous"] == 2.0
    accepted = chain.accepted[-1]
    assert accepted["stage"] < 3
    assert (copy[0] / "chain" / "model.pt").read_bytes() == before
    # what is known of the images is by the student that stays
    assert chain.next(items, copy[1])[0].probabilities is not None
    monkeypatch.undo()
    # with a label for every image, of which there is no pool left
    labels = {**copy[1], **{item["id"]: class_of(item["id"]) for item in items if item["group"] != item["id"]}}
    stage = chain.append_stage(items, labels)
    assert (stage["teacher"], stage["pool"]) == (accepted["stage"], 0)
    assert chain.next(items, labels) == []


def test_classes_without_a_validation_image_are_left_out_of_the_gate(studies, tmp_path):
    chain, items = make_annotated(studies, tmp_path / "output")
    names = chain.bundle.classes[1:3]
    labels = {item["id"]: class_of(item["id"]) for item in items if class_of(item["id"]) in names}
    labels.pop("normal/broken.png", None)
    stage = chain.append_stage(items, labels)
    assert 0 <= stage["gate"]["value"] <= 1  # of one class that is absent, MONAI makes NaN
    assert stage["val"]["macro_auc"] == pytest.approx(stage["gate"]["value"], abs=0.2)


def test_by_default_all_labels_train_and_every_stage_is_accepted(studies, tmp_path):
    chain = AnnotatedChain(make_bundle(studies, tmp_path / "output"), tmp_path / "output")
    items = find_items(studies, spatial_dims=2)
    chain.score(items)
    labels = {}
    for stage in (1, 2):
        label_next(chain, items, labels, 5)
        done = chain.append_stage(items, labels)
        assert (done["stage"], done["labeled"], done["accepted"]) == (stage, len(labels), True)
        assert (done["val"], done["gate"]["value"], done["gate"]["metric"]) == (None, None, None)
        plan = ChainPlan.from_json((chain.path / "plan.json").read_text())
        assert (plan.val, plan.unused) == ((), ())
        assert set(plan.stages[-1].labeled) == labels.keys()
    assert read(chain.path / "chain.json")["label_budget"] == {"train": 10, "val": 0}
    assert main(["report", "--output_dir", str(chain.path)]) == 0
    assert chain.predictor().predict(items[0]["image"]).shape == (4,)
    assert len(chain.next(items, labels, count=3)) == 3


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"split_of": {}, "shards": 1, "touched": []}', None])
def test_a_damaged_record_of_given_labels_is_named_with_its_remedy(studies, copy, content):
    path = copy[0] / "chain" / "given.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        ValueError, match=r"given\.json: expected the labels that each stage has used, got [^\n]* Restore the"
    ):
        make_annotated(studies, copy[0])
