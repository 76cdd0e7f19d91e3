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
import shutil

import pytest
import torch
from chain_runs import make_chain, make_items, make_network
from held_out import held_out
from monai.data import Dataset
from torch.utils.data import DataLoader

from monai_weckd import plan_chain
from monai_weckd.handlers import ChainContinuation, ChainRecorder
from monai_weckd.plan.oracle import UNLABELED
from monai_weckd.utils.records import sealed_json

ITEMS = make_items()
WHOLE = plan_chain(ITEMS, held_out(policy="cumulative", stratify=False), classes=("a", "b", "c"))


def plan_of(stages, items, **options):
    """Return a plan of the first stages of the whole chain, whose shards are given."""
    splits = {key: split for split in ("train", "val", "test") for key in getattr(WHOLE, split)}
    items = [{**item, "split": splits[item["id"]]} for item in items]
    shards = [stage.new for stage in WHOLE.stages[:stages]]
    settings = held_out(policy="cumulative", num_stages=stages)
    return plan_chain(items, settings, **{"shards": shards, "classes": WHOLE.classes, **options})


def labeled_so_far(stages):
    """Return the items with the labels that have been given before a stage; the others have none."""
    known = {*WHOLE.val, *WHOLE.test, *(key for stage in WHOLE.stages[:stages] for key in stage.new)}
    return [item if item["id"] in known else {**item, "label": UNLABELED} for item in ITEMS]


def run(folder, stages, *, items=ITEMS, previous=None, **options):
    folder.mkdir()
    plan = plan_of(stages, items)
    loaders = {split: DataLoader(Dataset(plan.select(items, split)), batch_size=7) for split in ("val", "test")}
    recorder = ChainRecorder(folder, None, val_data_loader=loaders["val"], test_data_loader=loaders["test"])
    handlers = [recorder] if previous is None else [recorder, ChainContinuation(previous)]
    network = make_network()
    settings = {"max_epochs": 2 * stages, "pool_ratio": 1, "scheduler": True, "averaging": 0.5, "calibrate": True}
    trainer = make_chain(items=items, plan=plan, network=network, handlers=handlers, **{**settings, **options})
    recorder.evaluator = trainer.walker.evaluator
    trainer.run()
    return trainer


def read(path):
    return json.loads(path.read_text())


def copy_with(folder, tmp_path, **changes):
    """Return a copy of an output folder with another chain.json, as a program would have written it."""
    copy = tmp_path / "previous"
    shutil.copytree(folder, copy)
    chain = {**read(copy / "chain.json"), **changes}
    del chain["digest"]
    (copy / "chain.json").write_text(sealed_json(chain, indent=4))
    return copy


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "output"
    run(folder, 1, items=labeled_so_far(1))
    return folder


def test_held_out_labels_stay_with_their_student(first, tmp_path):
    previous = copy_with(first, tmp_path)
    (previous / "stage_1" / "out_of_fold.csv").write_text("those of the first stage")
    run(tmp_path / "out", 2, previous=previous, items=labeled_so_far(2))
    assert (tmp_path / "out" / "stage_1" / "out_of_fold.csv").read_text() == "those of the first stage"
    # the second stage has none, because its head was trained
    accepted = read(tmp_path / "out" / "chain.json")["stages"][1]["accepted"]
    assert (tmp_path / "out" / "out_of_fold.csv").exists() == (not accepted)


def test_refuses_what_is_no_chain(tmp_path):
    with pytest.raises(ValueError, match=r"previous: expected the output folder of a chain, got no .*chain\.json"):
        ChainContinuation(tmp_path)


def test_refuses_a_plan_that_does_not_go_on(first, tmp_path):
    with pytest.raises(ValueError, match="expected a chain of 2 stages, one less than the plan, got 1 in"):
        run(tmp_path / "out", 3, previous=first)


def test_refuses_other_epochs_than_the_earlier_stages_had(first, tmp_path):
    with pytest.raises(ValueError, match=r"stage_epochs: expected \[2\] for the stages in .*, got \[3\]\. Pass what"):
        run(tmp_path / "out", 2, previous=first, max_epochs=5, stage_epochs=[3, 2])


@pytest.mark.parametrize(
    ("name", "value"), [("classes", ["b", "a", "c"]), ("preprocessing", [{"_target_": "ScaleIntensity"}])]
)
def test_refuses_a_teacher_of_other_classes_or_images(first, tmp_path, name, value):
    changed = copy_with(first, tmp_path, **{name: value})
    with pytest.raises(ValueError, match=rf"^{name}: expected \[.*\], as the chain in .* was trained, got "):
        run(tmp_path / "out", 2, previous=changed)


@pytest.mark.parametrize(("damage", "got"), [("other", "another"), ("none", "no")])
def test_refuses_another_student(first, tmp_path, damage, got):
    changed = copy_with(first, tmp_path)
    path = changed / "stage_1" / "model.pt"
    path.unlink()
    if damage == "other":
        torch.save(make_network(7).state_dict(), path)
    with pytest.raises(ValueError, match=rf"stage_1/model\.pt: expected the student that chain\.json names, got {got}"):
        run(tmp_path / "out", 2, previous=changed)


def test_refuses_a_changed_history(first, tmp_path):
    changed = copy_with(first, tmp_path)
    path = changed / "history.json"
    path.write_text(path.read_text().replace('"stage": 1', '"stage": 2', 1))
    with pytest.raises(ValueError, match=r"history\.json: expected the content of its digest, got a changed one"):
        run(tmp_path / "out", 2, previous=changed)


@pytest.mark.parametrize("options", [{}, {"teacher": "ensemble"}, {"init": "initial"}, {"validate": False}])
def test_stages_one_by_one_are_those_of_one_run_to_the_bit(tmp_path, options):
    whole = run(tmp_path / "whole", 3, **options)
    for stages in (1, 2, 3):
        previous = tmp_path / f"{stages - 1}" if stages > 1 else None
        # the labels of later stages are not there yet
        last = run(tmp_path / f"{stages}", stages, items=labeled_so_far(stages), previous=previous, **options)
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, last.network.state_dict()[name]), name
    one, other = (read(tmp_path / name / "chain.json") for name in ("whole", "3"))
    assert one["ledger"] == other["ledger"]
    assert one["label_budget"] == other["label_budget"]
    for found, expected in zip(other["stages"], one["stages"], strict=True):
        found["gate"].pop("previous"), expected["gate"].pop("previous")
        assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    one, other = (read(tmp_path / name / "history.json")["epochs"] for name in ("whole", "3"))
    assert [{**epoch, "seconds": 0} for epoch in one] == [{**epoch, "seconds": 0} for epoch in other]


def test_the_gate_measures_the_teacher_on_the_validation_items_of_now(first, tmp_path):
    stages = read(first / "chain.json")["stages"]
    stages[0]["gate"]["value"] = 123.0  # of other validation items
    trainer = run(tmp_path / "out", 2, previous=copy_with(first, tmp_path, stages=stages))
    assert trainer.records[1].previous == pytest.approx(read(first / "chain.json")["stages"][0]["gate"]["value"])
    assert trainer.records[1].teacher == 1
