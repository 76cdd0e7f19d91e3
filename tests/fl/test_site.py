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

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from monai_weckd.fl import site
from monai_weckd.fl.chain_rounds import StageAnswer
from monai_weckd.fl.exact_rounds import SiteAnswer
from monai_weckd.fl.messages import HEAD, JOINT, STAGE, WRITE, pack, to_arrays, to_tensors


@pytest.fixture
def served(monkeypatch):
    """Return a function that runs a site on messages, each with its arrays and remarks, and returns its answers."""

    def serve(settings, *messages):
        waiting, sent = [SimpleNamespace(params=to_arrays(totals), meta=meta) for totals, meta in messages], []
        client = ModuleType("nvflare.client")
        client.init = lambda: None
        client.get_site_name = lambda: "north"
        client.is_running = lambda: True
        client.receive = lambda: waiting.pop(0) if waiting else None  # the job has ended
        client.FLModel = SimpleNamespace
        client.send = sent.append
        package = ModuleType("nvflare")
        package.client = client
        monkeypatch.setitem(sys.modules, "nvflare", package)
        monkeypatch.setitem(sys.modules, "nvflare.client", client)
        site.main([pack(settings)])
        return [(to_tensors(answer.params), answer.meta) for answer in sent]

    return serve


def test_a_site_answers_the_rounds_of_the_exact_head_and_writes_it(served, monkeypatch):
    written = []

    class Party:
        def __init__(self, settings, weights):
            assert (settings, weights) == ({"dataset_dir": "data/north"}, None)

        def answer(self, task, totals):
            return SiteAnswer({"sum": totals["moments"]["sum"] + 1}, identity="network", fault=task)

        def write(self, head, sites):
            written.append((head, sites))

    monkeypatch.setattr(site, "ExactParty", Party)
    tensors = {name: torch.ones(2) for name in ("mean", "deviation", "weight", "bias")}
    figures = {"penalty": 0.5, "temperature": 1.0, "labels": 3, "held_out": 2, "balanced_accuracy": None}
    answers = served(
        {"mode": "exact", "dataset_dir": "data/{site}"},
        ({"moments": {"sum": torch.tensor(1)}}, {"round": "products"}),
        ({HEAD: tensors}, {"round": HEAD, "figures": figures, "sites": ["north", "south"]}),
    )
    assert answers == [
        ({"products": {"sum": torch.tensor(2)}}, {"identity": "network", "fault": "products"}),
        ({}, {"fault": ""}),
    ]
    ((head, sites),) = written
    assert torch.equal(head.weight, tensors["weight"])
    assert (head.penalty, head.labels, sites) == (0.5, 3, ["north", "south"])


def test_a_site_trains_a_stage_and_writes_the_last_student(served, monkeypatch):
    written = []

    class Party:
        def __init__(self, settings):
            """Take the settings."""

        def answer(self, students, *, visit, again):
            total = sum((student.weights["w"] for student in students), torch.tensor(visit))
            return StageAnswer({"w": total}, {"labeled": [student.labels for student in students]}, f"again {again}")

        def write(self, weights, stages, *, again):
            written.append((weights, stages, again))

    monkeypatch.setattr(site, "ChainParty", Party)
    students = {"0": {"w": torch.tensor(4)}, "1": {"w": torch.tensor(5)}}
    answers = served(
        {"mode": "chain"},
        ({}, {"round": STAGE, "labels": [], "visit": 1, "again": False}),
        (students, {"round": STAGE, "labels": [[1, 0], [0, 2]], "visit": 2, "again": True}),
        ({WRITE: {"w": torch.tensor(9)}}, {"round": WRITE, "stages": [{"site": "north"}], "again": True}),
    )
    assert answers == [
        ({STAGE: {"w": torch.tensor(1)}}, {"record": {"labeled": []}, "fault": "again False"}),
        ({STAGE: {"w": torch.tensor(11)}}, {"record": {"labeled": [[1, 0], [0, 2]]}, "fault": "again True"}),
        ({}, {"fault": ""}),
    ]
    assert written == [({"w": torch.tensor(9)}, [{"site": "north"}], True)]


@pytest.mark.parametrize("mode", ["chain", "average"])
def test_a_site_solves_the_head_of_the_joint_network(mode, served, monkeypatch):
    written = []

    class Party:
        def __init__(self, settings, weights):
            self.weights = weights

        def answer(self, task, totals):
            return SiteAnswer({"sum": self.weights["w"] + len(totals)}, identity=task)

        def write(self, head, sites, *, stages, again):
            written.append((head.penalty, sites, stages, again))

    monkeypatch.setattr(site, "ExactParty", Party)
    joint = {JOINT: {"w": torch.tensor(7)}}
    tensors = {name: torch.ones(2) for name in ("mean", "deviation", "weight", "bias")}
    figures = {"penalty": 0.5, "temperature": 1.0, "labels": 3, "held_out": 2, "balanced_accuracy": None}
    remarks = {"figures": figures, "sites": ["north"], "stages": [{"stage": 1}], "again": True}
    answers = served(
        {"mode": mode},
        (joint, {"round": "moments"}),
        ({"moments": {"sum": torch.tensor(1)}}, {"round": "products"}),
        ({HEAD: tensors}, {"round": HEAD, **remarks}),
    )
    assert answers == [
        ({"moments": {"sum": torch.tensor(7)}}, {"identity": "moments", "fault": ""}),
        ({"products": {"sum": torch.tensor(8)}}, {"identity": "products", "fault": ""}),
        ({}, {"fault": ""}),
    ]
    assert written == [(0.5, ["north"], [{"stage": 1}], True)]


@pytest.mark.parametrize("mode", ["chain", "average"])
def test_a_site_says_that_it_lacks_the_joint_network(mode, served):
    ((sums, about),) = served({"mode": mode, "output_dir": "out"}, ({}, {"round": "products"}))
    assert not sums
    assert about["fault"] == "no joint network, since its process has started anew"


def test_a_model_that_cannot_be_written_is_a_fault(served, monkeypatch, caplog):
    class Party:
        def __init__(self, settings):
            """Take the settings."""

        def write(self, weights, stages, *, again):
            raise OSError("no space left for patient Smith")

    monkeypatch.setattr(site, "ChainParty", Party)
    message = ({WRITE: {"w": torch.tensor(9)}}, {"round": WRITE, "stages": [], "again": False})
    assert served({"mode": "chain"}, message) == [({}, {"fault": "OSError, see its log"})]
    assert "patient Smith" in caplog.text
