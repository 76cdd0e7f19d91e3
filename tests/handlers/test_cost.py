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
from chain_runs import make_chain, make_network
from timed_network import Timed

from monai_weckd.networks import fingerprint


@pytest.mark.usefixtures("clock")
def test_a_chain_reports_what_was_predicted_and_what_it_took(caplog):
    from monai_weckd.handlers import CostReporter

    ends = []
    for handlers in ([], [CostReporter(seconds=0.2)]):
        trainer = make_chain(network=Timed(*make_network()), handlers=handlers, pool_ratio=1, max_epochs=6)
        with caplog.at_level("INFO", logger="monai_weckd"):
            trainer.run()
        ends.append(fingerprint(trainer.network))
    assert ends[0] == ends[1]  # no bit of the training changes
    cost = trainer.state.cost
    assert cost["predicted"]["steps"] == (8, 8, 8)
    assert cost["actual"]["seconds"] == [record.seconds for record in trainer.records]
    assert cost["ratio"] == pytest.approx(cost["actual"]["total_seconds"] / cost["predicted"]["total_seconds"])
    # each stage was to be measured by a recorder as well, which this chain has not
    unused = 3 * (len(trainer.plan.val) + len(trainer.plan.test))
    assert cost["predicted"]["total_seconds"] - unused == cost["actual"]["total_seconds"]
    assert [line.split(":")[0] for line in caplog.messages if line.startswith(("predicted", "took"))] == [
        "predicted",
        "took",
    ]


@pytest.mark.usefixtures("clock")
def test_a_chain_that_goes_on_keeps_its_prediction_and_adds_up_its_time(tmp_path):
    from ignite.engine import Events

    from monai_weckd.handlers import ChainCheckpoint, CostReporter
    from monai_weckd.utils.files import finish_writing

    def build(resume):
        handlers = [CostReporter(seconds=0.1), ChainCheckpoint(tmp_path, resume=resume)]
        return make_chain(network=Timed(*make_network()), handlers=handlers, max_epochs=3, epoch_length=1)

    first = build(False)
    first.add_event_handler(Events.ITERATION_STARTED(once=3), lambda engine: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        first.run()
    finish_writing(tmp_path / "checkpoint.pt")
    passed = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["parts"]["cost"]["seconds"]
    trainer = build(True)
    trainer.run()
    assert trainer.state.cost["predicted"] == first.state.cost["predicted"]
    total = trainer.state.cost["actual"]["total_seconds"]
    seconds = [record.seconds for record in trainer.records]
    whole = make_chain(network=Timed(*make_network()), max_epochs=3, epoch_length=1)
    whole.run()
    # the interrupted run ended between two looks at images, so that none was lost
    assert 0 < passed < total == sum(seconds)
    assert seconds == [record.seconds for record in whole.records]
