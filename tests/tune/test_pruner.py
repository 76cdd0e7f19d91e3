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

import logging
from types import SimpleNamespace

import optuna
import pytest
from ignite.engine import Engine, Events

from monai_weckd.tune.pruner import TrialPruner

METRICS = (0.5, 0.6, 0.4, 0.7, 0.8)


def make_engines(*, interval=1):
    """Return a trainer that does nothing, and a validation that gives one metric after another."""
    trainer = Engine(lambda engine, batch: None)
    evaluator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="val_macro_auc"))

    def validate(engine):
        evaluator.state.epoch = engine.state.epoch
        evaluator.state.metrics = {"other": 0.0, "val_macro_auc": METRICS[engine.state.epoch - 1]}

    trainer.add_event_handler(Events.EPOCH_COMPLETED(every=interval), validate)
    return trainer, evaluator


class PruneAt(optuna.pruners.BasePruner):
    """Prune at one step."""

    def __init__(self, step):
        self.step = step

    def prune(self, study, trial):
        return trial.last_step == self.step


def attach(trainer, evaluator, *, step=None):
    study = optuna.create_study(pruner=PruneAt(step), direction="maximize")
    trial = study.ask()
    pruner = TrialPruner(trial, evaluator)
    pruner.attach(trainer)
    return pruner, lambda: study.trials[0].intermediate_values


def test_every_validation_is_reported_under_its_epoch():
    trainer, evaluator = make_engines()
    pruner, reported = attach(trainer, evaluator)
    trainer.run([0], max_epochs=5)
    assert reported() == dict(zip(range(1, 6), METRICS, strict=True))
    pruner.check()


def test_epochs_without_validation_are_left_out():
    trainer, evaluator = make_engines(interval=2)
    _, reported = attach(trainer, evaluator)
    trainer.run([0], max_epochs=5)
    assert reported() == {2: 0.6, 4: 0.7}


def test_a_pruned_trial_leaves_the_engine_without_an_error_in_the_log(caplog):
    trainer, evaluator = make_engines()
    _, reported = attach(trainer, evaluator, step=3)
    with caplog.at_level(logging.INFO), pytest.raises(optuna.TrialPruned, match="after epoch 3"):
        trainer.run([0], max_epochs=5)
    assert list(reported()) == [1, 2, 3]
    assert trainer.state.epoch == 3
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_another_error_is_still_logged(caplog):
    trainer, evaluator = make_engines()
    attach(trainer, evaluator)

    def fail(engine):
        raise ValueError("disk full")

    trainer.add_event_handler(Events.EPOCH_COMPLETED, fail)
    with caplog.at_level(logging.INFO), pytest.raises(ValueError, match="disk full"):
        trainer.run([0], max_epochs=5)
    assert "disk full" in caplog.text


def test_a_swallowed_exception_comes_back():
    trainer, evaluator = make_engines()
    pruner, _ = attach(trainer, evaluator, step=2)
    trainer.add_event_handler(Events.EXCEPTION_RAISED, lambda engine, error: None)
    trainer.run([0], max_epochs=5)
    with pytest.raises(optuna.TrialPruned, match="after epoch 2"):
        pruner.check()
