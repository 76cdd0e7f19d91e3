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
from chain_runs import make_chain, make_items
from ignite.engine import Events

from monai_weckd.engines.stage_data import StageData


def test_each_stage_trains_on_the_labels_of_its_plan_and_no_others():
    items = make_items()
    for index, item in enumerate(items):
        item["image"][0, 0, 0] = index  # a tag, to know the item by in a batch
    seen = {1: set(), 2: set(), 3: set()}

    def look(engine):
        assert (engine.state.batch["label"] >= 0).all()
        seen[engine.state.stage] |= {items[round(float(tag))]["id"] for tag in engine.state.batch["image"][:, 0, 0, 0]}

    trainer = make_chain(items=items, policy="disjoint", epoch_length=20, noise=0.0, learning_rate=1e-6)
    trainer.add_event_handler(Events.ITERATION_COMPLETED, look)
    trainer.run()
    assert [seen[stage.stage] for stage in trainer.plan.stages] == [set(stage.labeled) for stage in trainer.plan.stages]


def test_pool_images_come_without_labels_and_only_under_a_teacher():
    counts = {1: set(), 2: set(), 3: set()}
    trainer = make_chain(pool_ratio=2)
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED,
        lambda e: counts[e.state.stage].add((len(e.state.batch["label"]), int((e.state.batch["label"] == -1).sum()))),
    )
    trainer.run()
    assert counts == {1: {(8, 0)}, 2: {(24, 16)}, 3: {(24, 16)}}


@pytest.mark.parametrize(
    ("labels", "refused"),
    [
        ([1, -1, -1, 0, -1, -1], False),
        ([1, 2, -1, 0, -1, -1], True),
        ([[1, 0], [-1, -1], [-1, -1], [-1, 1], [-1, -1], [-1, -1]], False),
        ([[1, 0], [-1, 1], [-1, -1], [-1, 1], [-1, -1], [-1, -1]], True),
    ],
)
def test_no_more_images_may_have_a_label_than_were_drawn_with_one(labels, refused):
    data = StageData(None)
    data.check_target(torch.tensor(labels))  # no pool image was drawn
    data.pool_ratio = 2
    data.check_target("not a tensor")
    if refused:
        with pytest.raises(ValueError, match=r"got labels of 3 images in a batch of 6 in which 2 have one\."):
            data.check_target(torch.tensor(labels))
    else:
        data.check_target(torch.tensor(labels))
