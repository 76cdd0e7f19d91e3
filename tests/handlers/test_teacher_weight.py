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
from ignite.engine import Engine, Events

from monai_weckd.handlers import TeacherWeightHandler
from monai_weckd.losses import DistillationLoss


def run(handler, *, epochs, walk=None):
    engine, seen = Engine(lambda engine, batch: None), []
    if walk is not None:
        engine.add_event_handler(Events.EPOCH_STARTED, walk)
    handler.attach(engine)
    weight = lambda e: seen.append((handler.loss_function.weight, e.state.distillation_weight))  # noqa: E731
    engine.add_event_handler(Events.EPOCH_COMPLETED, weight)
    engine.run([0], max_epochs=epochs)
    assert all(a == b for a, b in seen)
    return [a for a, _ in seen]


@pytest.mark.parametrize(("name", "options"), [("start", {"start": -0.1}), ("end", {"start": 0.5, "end": 1.1})])
def test_a_share_out_of_range_is_refused(name, options):
    with pytest.raises(ValueError, match=rf"{name}: expected a share from 0 to 1, got"):
        TeacherWeightHandler(DistillationLoss(), **options)


def test_it_changes_in_equal_steps():
    handler = TeacherWeightHandler(DistillationLoss(weight=0.1), 0.6, 0.0)
    assert run(handler, epochs=4) == pytest.approx([0.6, 0.4, 0.2, 0.0])


def test_it_begins_anew_with_each_stage():
    def walk(engine):
        engine.state.stage_epoch, engine.state.stage_epochs = (engine.state.epoch - 1) % 2 + 1, 2

    handler = TeacherWeightHandler(DistillationLoss(), 0.5, 1.0)
    assert run(handler, epochs=4, walk=walk) == [0.5, 1.0, 0.5, 1.0]


def test_it_stays_without_an_end_and_in_a_single_epoch():
    assert run(TeacherWeightHandler(DistillationLoss(), 0.3), epochs=2) == [0.3, 0.3]
    assert run(TeacherWeightHandler(DistillationLoss(), 0.3, 0.0), epochs=1) == [0.3]
