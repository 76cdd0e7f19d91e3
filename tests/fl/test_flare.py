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

import importlib
import subprocess
import sys

import pytest
import torch
from test_exact import assert_same, divide, draw, pooled
from test_exact_rounds import Sites

from monai_weckd.fl.exact import ExactHead
from monai_weckd.fl.messages import AVERAGE, HEAD, JOINT, STAGE, WRITE, to_arrays, to_tensors

pytest.importorskip("nvflare", reason="federations want the extra 'flare'")


def test_a_server_starts_without_monai():
    code = "import sys, monai_weckd.fl.flare; print({'monai', 'ignite', 'torch'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "{'torch'}\n"


@pytest.fixture
def connected(monkeypatch):
    """Return a function that gives a controller answers of sites in memory, and returns what it asks and says."""
    from nvflare.apis.signal import Signal
    from nvflare.app_common.abstract.fl_model import FLModel

    def connect(controller, answer):
        asked, said = [], []

        def send(*, data, targets, timeout):
            totals, meta = to_tensors(data.params), dict(data.meta)
            asked.append((meta, totals, targets, timeout))
            found = {site: answer(meta["round"], totals, site) for site in targets}
            return [
                FLModel(params=to_arrays(sums), meta={"client_name": site, **more})
                for site, (sums, more) in found.items()
                if site != "late"
            ]

        controller.abort_signal = Signal()
        monkeypatch.setattr(controller, "send_model_and_wait", send)
        monkeypatch.setattr(controller, "info", said.append)
        return asked, said

    return connect


def test_the_head_of_all_sites_is_solved_and_sent_to_each(connected):
    from monai_weckd.fl.flare import ExactController

    data = draw()
    sites = Sites(divide(data, 2))
    controller = ExactController([*sites.sites, "late"], 0.5, "skip")

    def answer(task, totals, site):
        if task == HEAD or site == "late":
            return {}, {"fault": ""}
        found = sites(task, totals, [site])[site]
        return {task: found.sums}, {"identity": found.identity, "fault": found.fault}

    asked, said = connected(controller, answer)
    controller.run()
    meta, totals, targets, timeout = asked[-1]
    assert (meta["round"], meta["sites"], timeout) == (HEAD, list(sites.sites), 1800)
    assert targets == list(sites.sites)
    assert_same(ExactHead(**totals[HEAD], **meta["figures"]), pooled(data))
    assert said[0].startswith("head for ")
    assert "site 0, site 1" in said[0]


@pytest.mark.parametrize(
    ("module", "name"), [("percentile_privacy", "PercentilePrivacy"), ("svt_privacy", "SVTPrivacy")]
)
def test_sums_behind_a_privacy_filter_end_the_job(module, name, connected):
    from nvflare.apis.dxo import DXO, DataKind
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.shareable import Shareable

    from monai_weckd.fl.flare import ExactController

    sites = Sites(divide(draw(), 2))
    make = getattr(importlib.import_module(f"nvflare.app_common.filters.{module}"), name)

    def answer(task, totals, site):
        found = sites(task, totals, [site])[site]
        sent = DXO(DataKind.WEIGHTS, data=to_arrays({task: found.sums}), meta={"NUM_STEPS_CURRENT_ROUND": 1})
        filtered = make().process_dxo(sent, Shareable(), FLContext())
        return to_tensors(filtered.data), {"identity": found.identity, "fault": found.fault}

    controller = ExactController([*sites.sites], 1.0, "stop")
    asked, _ = connected(controller, answer)
    with pytest.raises(ValueError, match=r"labels: expected (whole numbers of labels|labels of two classes)"):
        controller.run()
    assert [meta["round"] for meta, *_ in asked] == ["moments"]


def test_an_error_of_the_rounds_ends_the_job(connected):
    from monai_weckd.fl.flare import ExactController

    controller = ExactController(["north", "late"], 0.0, "stop")
    asked, _ = connected(controller, lambda task, totals, site: ({}, {"identity": "same", "fault": "no disk"}))
    with pytest.raises(ValueError, match=r"moments: expected sums .* none of north: no disk; late: no answer"):
        controller.run()
    assert [timeout for *_, timeout in asked] == [1]  # a second at least


@pytest.mark.parametrize("on_missing", ["stop", "skip"])
@pytest.mark.parametrize("silent", ["south", "late"])
def test_a_model_that_a_site_did_not_write_is_kept(silent, on_missing, connected, tmp_path):
    from monai_weckd.fl.flare import ChainController

    kept = tmp_path / "kept.pt"
    last = [False]  # whether sites are late or fail with the last message

    def answer(task, totals, site):
        if task == WRITE:
            last[0] = True
            return {}, {"fault": "disk full" if site == "south" else ""}
        record = {"labeled": 1, "classes": {"ill": 1}, "value": None}
        return {STAGE: {"w": torch.ones(1)}}, {"record": record, "fault": ""}

    controller = ChainController(["north", silent], 1.0, on_missing, kept=str(kept))
    connected(controller, answer)
    if on_missing == "stop":
        reason = "student of late" if silent == "late" else "at all sites, got none at south: disk full"
        with pytest.raises(ValueError, match=reason):
            controller.run()
    else:
        controller.run()
    assert kept.exists() == (silent == "south" or on_missing == "stop")  # who is left out gets no model


def test_a_job_that_is_aborted_leaves_no_site_out(connected, tmp_path):
    from monai_weckd.fl.flare import ChainController

    kept = tmp_path / "kept.pt"
    controller = ChainController(["north", "south", "west"], 1.0, "skip", kept=str(kept))

    def answer(task, totals, site):
        if site == "south":
            controller.abort_signal.trigger("by the administrator")
        record = {"labeled": 1, "classes": {"ill": 1}, "value": None}
        return {STAGE: {"w": torch.ones(1)}}, {"record": record, "fault": ""}

    asked, _ = connected(controller, answer)
    with pytest.raises(RuntimeError, match="got a signal to abort it"):
        controller.run()
    assert [site for *_, (site,), _ in asked] == ["north", "south"]
    assert torch.load(kept, weights_only=True)["done"] == 1


def test_a_stage_runs_at_each_site_in_turn(connected):
    from monai_weckd.fl.flare import ChainController

    controller = ChainController(["south", "late", "north"], 1.0, "skip")

    def answer(task, totals, site):
        if task == WRITE:
            return {}, {"fault": ""}
        weight = totals.get("0", {}).get("w", torch.tensor([0.0])) + 1
        record = {"labeled": int(weight), "classes": {"ill": int(weight)}, "value": None}
        return {STAGE: {"w": weight}}, {"record": record, "fault": ""}

    asked, said = connected(controller, answer)
    controller.run()
    assert [(meta["round"], targets) for meta, _, targets, _ in asked] == [
        (STAGE, ["south"]),
        (STAGE, ["late"]),
        (STAGE, ["north"]),
        (WRITE, ["south", "north"]),
    ]
    meta, totals, *_ = asked[-1]
    assert totals[WRITE]["w"].tolist() == [2.0]
    assert [stage["site"] for stage in meta["stages"]] == ["south", "north"]
    assert said == ["stage 1 at south: 1 labels, None", "stage 2 at north: 2 labels, None"]


def test_the_last_student_gets_the_head_of_all_sites(connected):
    from monai_weckd.fl.flare import ChainController

    data = draw()
    sites = Sites(divide(data, 2))
    controller = ChainController([*sites.sites], 1.0, "stop", exact_head=True)

    def answer(task, totals, site):
        if task == HEAD:
            return {}, {"fault": ""}
        if task == STAGE:
            record = {"labeled": 1, "classes": {"ill": 1}, "value": None}
            return {STAGE: {"w": torch.ones(1)}}, {"record": record, "fault": ""}
        totals = dict(totals)
        joint = totals.pop(JOINT, None)
        assert (joint is None) == (task != "moments")  # it travels once
        found = sites(task, totals, [site])[site]
        return {task: found.sums}, {"identity": found.identity, "fault": found.fault}

    asked, _ = connected(controller, answer)
    controller.run()
    meta, totals, targets, _ = asked[-1]
    network = next(totals[JOINT] for meta, totals, *_ in asked if meta["round"] == "moments")
    assert network["w"].tolist() == [1.0]
    assert_same(ExactHead(**totals[HEAD], **meta["figures"]), pooled(data))
    assert [stage["site"] for stage in meta["stages"]] == targets == list(sites.sites)
    assert (meta["round"], meta["again"]) == (HEAD, False)


@pytest.fixture
def averaged(monkeypatch):
    """Return a function that averages answers of sites, each its weights and class names, and says what was written."""
    from nvflare.apis.fl_context import FLContext
    from nvflare.apis.signal import Signal
    from nvflare.app_common.abstract.fl_model import FLModel
    from nvflare.app_common.workflows.model_controller import ModelController

    from monai_weckd.fl.flare import AverageController

    def average(answers, on_missing):
        controller, written = AverageController([*answers], 1.0, on_missing, rounds=1), []

        def send(self, *, callback, targets, **_):
            for site in reversed(targets):  # in any order
                weights, classes, fault = answers[site]
                about = {"client_name": site, "fault": fault, "classes": classes, "NUM_STEPS_CURRENT_ROUND": 2}
                callback(FLModel(params=to_arrays({AVERAGE: weights}), meta=about))

        def write(*, data, targets, timeout):
            written.append((to_tensors(data.params)[WRITE], targets))
            return [FLModel(params=to_arrays({}), meta={"client_name": site, "fault": ""}) for site in targets]

        controller.abort_signal, controller.fl_ctx = Signal(), FLContext()
        monkeypatch.setattr(ModelController, "send_model", send)
        monkeypatch.setattr(controller, "send_model_and_wait", write)
        monkeypatch.setattr(controller, "sample_clients", lambda count: controller.sites)
        monkeypatch.setattr(controller, "get_num_standing_tasks", lambda: 0)
        for name in ("event", "fire_event_with_data", "info", "warning"):
            monkeypatch.setattr(controller, name, lambda *args, **options: None)
        controller.run()
        return written

    return average


FOUR, OTHERS = ["a", "b", "c", "d"], ["b", "a", "c", "d"]
ODD = {
    "other shapes": ({"w": torch.ones(3)}, FOUR, ""),
    "other names": ({"v": torch.ones(2)}, FOUR, ""),
    "other order": ({"w": torch.ones(2)}, OTHERS, ""),
    "not finite": ({"w": torch.full((2,), torch.nan)}, FOUR, ""),
    "failed": ({}, FOUR, "KeyError, see its log"),
}


@pytest.mark.parametrize("odd", ODD)
def test_what_cannot_be_averaged_is_named_or_left_out(odd, averaged):
    answers = {"north": ({"w": torch.ones(2)}, FOUR, ""), "odd": ODD[odd], "south": ({"w": torch.zeros(2)}, FOUR, "")}
    with pytest.raises(ValueError, match=r"sites: expected weights of all sites, got none of odd: "):
        averaged(answers, "stop")
    ((weights, targets),) = averaged(answers, "skip")
    assert weights["w"].tolist() == [0.5, 0.5]
    assert targets == ["north", "south"]
    with pytest.raises(ValueError, match=r"sites: expected weights of one site or more, got none"):
        averaged({"odd": ODD["failed"], "other": ODD["not finite"]}, "skip")
