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

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from chain_runs import make_chain, make_network

from monai_weckd.engines.state import ChainState
from monai_weckd.networks import fingerprint

OPTIONS = {"max_epochs": 3, "epoch_length": 2, "averaging": 0.9, "teacher": "ensemble", "accept": "always"}


def make_state(trainer):
    """Return a state that knows what a chain knows before its run."""
    state = ChainState(make_chain(**OPTIONS).plan, trainer.walker.options)
    state.set_items(trainer.walker.state.items)
    return state


@pytest.fixture(scope="module")
def trainer():
    trainer = make_chain(**OPTIONS)
    trainer.run()
    return trainer


def test_a_state_comes_back_into_another_process(trainer):
    before = trainer.walker.state
    after = make_state(trainer)
    after.load_state_dict(deepcopy(before.state_dict()), network=make_network())
    assert len(before.students) == 3
    assert (after.plan, after.records, after.accepted) == (before.plan, before.records, before.accepted)
    assert [fingerprint(student) for student in after.students] == [fingerprint(student) for student in before.students]
    assert after.oracle.to_dicts() == before.oracle.to_dicts()
    assert fingerprint(after.average.module) == fingerprint(before.average.module)
    assert (after.best.value, after.best.epoch) == (before.best.value, before.best.epoch)
    assert all(torch.equal(tensor, before.best.weights[key]) for key, tensor in after.best.weights.items())


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "stage 2 of 3 accepted: val_macro_auc 0.710 -> 0.780, 40 labels, 12 s"),
        ({"previous": None}, "stage 2 of 3 accepted: val_macro_auc 0.780, 40 labels, 12 s"),
        ({"value": None, "previous": None}, "stage 2 of 3 accepted: 40 labels, 12 s"),
        ({"accepted": False, "value": 0.7}, "stage 2 of 3 rejected: val_macro_auc 0.710 -> 0.700, 40 labels, 12 s"),
    ],
)
def test_a_stage_is_told_in_one_line(trainer, changes, line):
    known = {"stage": 2, "labeled": 40, "seconds": 12.3, "metric": "val_macro_auc", "value": 0.78, "previous": 0.71}
    record = replace(trainer.records[0], **{**known, "accepted": True, **changes})
    assert record.summary(3) == line


@pytest.mark.parametrize(
    ("classes", "out_of_fold", "line"),
    [
        ({"dark": 15, "bright": 25, "gray": 0}, None, "40 labels (15 dark, 25 bright), 12 s"),
        ({str(number): 3 for number in range(12)}, None, "40 labels of 12 classes, 12 s"),
        (
            {"dark": 40},
            {"balanced_accuracy": 0.8125, "labels": 40},
            "balanced accuracy 0.812 by cross-validation, 40 labels (40 dark), 12 s",
        ),
        (
            {"dark": 40},
            {"balanced_accuracy": 1.0, "labels": 2},
            "balanced accuracy 1.000 by cross-validation of 2 labels, 40 labels (40 dark), 12 s",
        ),
        (None, {"balanced_accuracy": None}, "40 labels, 12 s"),
        (None, {"labels": 0, "penalty": 100.0}, "40 labels, 12 s"),  # none could be held out
    ],
)
def test_a_stage_tells_its_labels_and_what_cross_validation_found(trainer, classes, out_of_fold, line):
    known = {"stage": 2, "labeled": 40, "seconds": 12.3, "value": None, "previous": None, "accepted": True}
    record = replace(trainer.records[0], **known)
    assert record.summary(3, classes=classes, out_of_fold=out_of_fold) == f"stage 2 of 3 accepted: {line}"


def test_students_can_be_kept_elsewhere(trainer):
    before, elsewhere = trainer.walker.state, {}

    def keep(student, stage):
        elsewhere[stage] = student.state_dict()
        return stage

    kept = before.state_dict(keep_student=keep)
    assert kept["students"] == [1, 2, 3]
    after = make_state(trainer)
    after.load_state_dict(kept, network=make_network(), read_student=elsewhere.__getitem__)
    assert [fingerprint(student) for student in after.students] == [fingerprint(student) for student in before.students]


def test_a_chain_takes_the_stages_of_an_earlier_run_over(trainer):
    before, after = trainer.walker.state, make_state(trainer)
    after.begin()
    own = after.oracle.to_dicts()
    after.take_over(before.records[:2], before.students[:2], before.oracle.to_dicts()[:4], value=0.25)
    assert (after.records, after.students) == (before.records[:2], before.students[:2])
    assert (after.accepted.stage, after.accepted.value) == (2, 0.25)
    # the shards of the earlier stages come first, its split and its stratification do not count again
    assert after.oracle.to_dicts() == [*before.oracle.to_dicts()[2:4], *own]
    after.begin()
    assert (after.records, after.students, after.accepted) == ([], [], None)


def test_a_chain_that_has_not_begun_neither_reveals_nor_takes_over(trainer):
    state, before = make_state(trainer), trainer.walker.state
    with pytest.raises(RuntimeError, match="oracle: expected a chain that has begun, got None"):
        state.reveal(1)
    with pytest.raises(RuntimeError, match="Take over when the run has started"):
        state.take_over(before.records, before.students, [], value=None)
