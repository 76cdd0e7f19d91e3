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

import pytest
import torch
from chain_runs import make_chain
from ignite.engine import Events

from monai_weckd.engines import ChainEvents
from monai_weckd.losses import DistillationLoss
from monai_weckd.networks import fingerprint

ROUNDS = {"accept": "always", "chain_epochs": 6}


def run_on(trainer, epochs):
    """Run a trainer some epochs further, as monai.fl.client.MonaiAlgo does for each round."""
    trainer.state.max_epochs = trainer.state.epoch + epochs
    trainer.run()


def set_weights(network, value):
    """Load other weights, as those of a server: all of one value."""
    network.load_state_dict({key: torch.full_like(tensor, value) for key, tensor in network.state_dict().items()})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accept": "improves"}, "accept: expected 'always' with chain_epochs, got 'improves'. A rejected stage"),
        ({"calibrate": True}, "calibrate: expected False with chain_epochs, got True. Heads that each"),
        ({"max_epochs": 7}, "max_epochs: expected at most 6, which the stages share, got 7. Build a new trainer"),
        ({"chain_epochs": 2, "max_epochs": 1}, "max_epochs: expected at least one for each of 3 stages, got 2"),
        ({"stage_epochs": [1, 2, 4]}, "stage_epochs: expected 3 positive numbers that add up to max_epochs=6"),
    ],
)
def test_refuses(options, message):
    with pytest.raises(ValueError, match=message):
        make_chain(**{**ROUNDS, **options})


@pytest.mark.parametrize("options", [{}, ROUNDS])
def test_a_chain_that_is_over_does_not_go_on(options):
    trainer = make_chain(**{"accept": "always", **options})
    trainer.run()
    before = fingerprint(trainer.network)
    with pytest.raises(ValueError, match="max_epochs: expected at most 6, which the stages share, got 7"):
        run_on(trainer, 1)
    assert fingerprint(trainer.network) == before
    assert len(trainer.records) == 3


def test_epochs_that_a_handler_adds_are_refused():
    trainer = make_chain()
    trainer.add_event_handler(Events.EPOCH_COMPLETED(once=6), lambda engine: setattr(engine.state, "max_epochs", 7))
    with pytest.raises(ValueError, match=r"epoch: expected at most 6, got more\. Build a new trainer"):
        trainer.run()


@pytest.mark.parametrize("rounds", [[1] * 6, [3, 1, 2]])
@pytest.mark.parametrize(
    "options",
    [
        {"pool_ratio": 1, "scheduler": True},
        {"init": "initial", "views": 2, "teacher_cache": True},
        {"teacher": "student", "pool_ratio": 1},
        {"loss_function": DistillationLoss(attention_weight=1.0), "student_layer": "2"},
    ],
    ids=["pool", "cache", "itself", "attention"],
)
def test_rounds_that_nobody_comes_between_are_one_run(rounds, options):
    options |= {"validate": False, "epoch_length": 2}
    whole = make_chain(accept="always", **options)
    whole.run()
    trainer = make_chain(**{**ROUNDS, "max_epochs": rounds[0]}, **options)
    paused = []
    for epochs in rounds:
        run_on(trainer, epochs)
        paused.append(trainer.paused)
    assert paused == [True] * (len(rounds) - 1) + [False]
    assert [record.epochs for record in trainer.records] == [2, 2, 2]
    assert [(line.stage, line.purpose) for line in trainer.oracle.ledger] == [
        (line.stage, line.purpose) for line in whole.oracle.ledger
    ]
    assert fingerprint(trainer.network) == fingerprint(whole.network)


def test_a_chain_in_rounds_can_begin_anew():
    trainer = make_chain(**{**ROUNDS, "max_epochs": 3}, epoch_length=1)
    for epochs in (3, 3):
        run_on(trainer, epochs)
    trainer.run()
    assert [record.stage for record in trainer.records] == [1, 2, 3]
    assert len(trainer.oracle.ledger) == 5


@pytest.mark.parametrize("options", [{}, {"averaging": 0.9}, {"teacher": "average", "averaging": 0.9}])
def test_a_stage_goes_on_with_the_weights_that_came_in(options):
    trainer = make_chain(**{**ROUNDS, "chain_epochs": 9, "max_epochs": 1}, learning_rate=0.0, **options)
    run_on(trainer, 1)
    assert trainer.records == ()
    for value in (0.5, 0.25):
        set_weights(trainer.network, value)
        seen = []
        trainer.add_event_handler(
            Events.ITERATION_STARTED(once=trainer.state.iteration + 1),
            lambda engine, seen=seen: seen.append([p.unique().tolist() for p in engine.network.parameters()]),
        )
        run_on(trainer, 1)
        assert seen == [[[value]] * 6]
        # with a learning rate of 0 nothing else than what came in can be sent, averaged or not
        assert all(parameter.eq(value).all() for parameter in trainer.network.parameters())
    assert [record.stage for record in trainer.records] == [1]


def test_the_best_weights_of_an_earlier_round_do_not_come_back():
    trainer = make_chain(**{**ROUNDS, "chain_epochs": 9, "max_epochs": 2}, learning_rate=0.0)
    run_on(trainer, 2)
    set_weights(trainer.network, 0.0)
    run_on(trainer, 1)
    (record,) = trainer.records
    # all weights 0 are worse than what there was before
    assert record.best_epoch == 3
    assert all(parameter.eq(0).all() for parameter in trainer.network.parameters())


@pytest.mark.parametrize("init", ["teacher", "initial"])
@pytest.mark.parametrize("teacher", ["last", "ensemble"])
def test_what_comes_in_between_two_stages_is_the_teacher_of_the_next(init, teacher):
    trainer = make_chain(**{**ROUNDS, "max_epochs": 2}, init=init, teacher=teacher)
    initial = fingerprint(trainer.network)
    run_on(trainer, 2)
    assert [record.stage for record in trainer.records] == [1]
    set_weights(trainer.network, 0.5)
    expected = fingerprint(trainer.network)
    found = {}

    @trainer.on(ChainEvents.STAGE_STARTED)
    def look(engine):
        found["student"] = fingerprint(engine.network)
        found["teacher"] = fingerprint(engine.walker.students[-1])
        found["is_teacher"] = engine.teacher is engine.walker.students[-1]

    run_on(trainer, 1)
    assert found["teacher"] == expected
    assert found["student"] == (expected if init == "teacher" else initial)
    assert found["is_teacher"] == (teacher == "last")


def test_a_round_that_is_ended_early_leaves_the_chain_where_it_is():
    trainer = make_chain(**{**ROUNDS, "max_epochs": 1})
    trainer.add_event_handler(Events.EPOCH_STARTED(once=1), lambda engine: engine.terminate())
    trainer.run()
    assert trainer.records == ()
    run_on(trainer, 5)
    assert [record.epochs for record in trainer.records] == [2, 2, 2]
