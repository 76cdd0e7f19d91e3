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
from ignite.metrics import Accuracy
from monai.handlers import from_engine
from monai.transforms import Lambdad

from monai_weckd.engines.labeled_output import labeled_output


@pytest.mark.parametrize("decollate", [True, False])
def test_training_metrics_leave_out_items_without_a_label(decollate):
    trainer = make_chain(
        pool_ratio=3,
        key_train_metric={"train": Accuracy(output_transform=from_engine(["pred", "label"]))},
        **({"postprocessing": Lambdad("pred", lambda pred: pred)} if decollate else {}),
    )
    counts = []
    metric = next(
        handler.__self__
        for handler, _, _ in trainer._event_handlers[Events.EPOCH_COMPLETED]
        if isinstance(getattr(handler, "__self__", None), Accuracy)
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: counts.append(int(metric._num_examples)))
    trainer.run()
    assert set(counts) == {8 * 4}


def test_a_whole_batch_keeps_what_is_no_part_of_it():
    output = {"label": torch.tensor([0, -1, 2]), "pred": torch.arange(6.0).view(3, 2), "loss": torch.tensor(0.5)}
    output |= {"note": "x", "pair": torch.ones(2)}
    found = labeled_output(output)
    assert found["label"].tolist() == [0, 2]
    assert found["pred"].tolist() == [[0.0, 1.0], [4.0, 5.0]]
    assert all(found[key] is output[key] for key in ("loss", "note", "pair"))


def test_an_item_with_one_known_finding_counts():
    output = {"label": torch.tensor([[-1.0, 1.0], [-1.0, -1.0]]), "pred": torch.zeros(2, 2)}
    assert labeled_output(output)["label"].tolist() == [[-1.0, 1.0]]
    items = [{"label": row} for row in output["label"]]
    assert labeled_output(items) == items[:1]


@pytest.mark.parametrize(
    "output", [{"label": torch.tensor([0, 1]), "pred": torch.zeros(2)}, {"pred": torch.zeros(2)}, torch.zeros(2), None]
)
def test_an_output_without_unlabeled_items_stays(output):
    assert labeled_output(output) is output
