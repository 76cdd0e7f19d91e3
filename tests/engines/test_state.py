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
