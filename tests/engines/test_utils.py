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
from chain_runs import make_chain, make_items
from held_out import held_out
from ignite.engine import Events

from monai_weckd import plan_chain


def test_nan_loss_stops_with_its_place():
    trainer = make_chain(learning_rate=1e30)
    with pytest.raises(
        FloatingPointError,
        match=r"loss: expected a finite number, got (nan|inf) in stage 1, epoch 1, iteration \d, of '.*Lower the learn",
    ):
        trainer.run()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_loss_names_the_image_that_brings_it(value):
    items = make_items()
    plan = plan_chain(items, held_out(), classes=("a", "b", "c"))
    broken = plan.stages[0].labeled[0]
    (item,) = (item for item in items if item["id"] == broken)
    item["image"] = item["image"] * value
    trainer = make_chain(items=items, plan=plan)
    # the batch statistics spread it to all others
    with pytest.raises(FloatingPointError, match=rf"got nan in stage 1, .*, of '{broken}'\. Lower the learning rate"):
        trainer.run()


def test_nan_loss_of_many_images_names_some():
    trainer = make_chain(items=make_items(groups=36), learning_rate=1e30, batch_size=10)
    with pytest.raises(FloatingPointError, match=r"of ('[^']+', ){7}'[^']+' and 2 more\. Lower"):
        trainer.run()


def test_a_metric_that_is_no_number_is_refused_by_its_name():
    # as the area under the curve of a class that validation lacks
    trainer = make_chain()
    metrics = trainer.walker.evaluator.state.metrics
    name = trainer.walker.evaluator.state.key_metric_name
    trainer.walker.evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda _: metrics.update({name: float("nan")}))
    with pytest.raises(
        FloatingPointError, match=f"^{name}: expected a finite number on validation, got nan, so that stages"
    ):
        trainer.run()
