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

import json
import logging
from pathlib import Path

import pytest
import torch
from bundle_runs import OTOSCOPY
from test_chain_party import SMALL

from monai_weckd.fl.average_party import AverageParty

pytestmark = pytest.mark.filterwarnings("ignore:executing the bundle config")


@pytest.fixture(scope="module")
def settings(copy_ears, tmp_path_factory):
    """Return a function that gives the settings of a site."""
    logging.getLogger("monai.fl").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("average")
    for site, items in {"north": 24, "south": 40}.items():
        copy_ears(root / site, items)
    changes = {**SMALL, "max_epochs": 2, "val_fraction": 0}

    def make(site, output, **more):
        folders = {"dataset_dir": str(root / site), "output_dir": str(root / output / site)}
        given = {"bundle": str(OTOSCOPY), "classes": None, "overlays": ["scratch.json"], "rounds": 2}
        return {**given, **folders, "changes": changes, **more}

    return make


def test_sites_begin_alike_and_go_on_from_the_average(settings):
    parties = [AverageParty(settings(site, "out")) for site in ("north", "south")]
    first = [party.answer({}) for party in parties]
    assert [(one.fault, one.steps) for one in first] == [("", 2), ("", 2)]
    alike = [
        party._make_client().get_weights().weights
        for party in (AverageParty(settings(s, "x")) for s in ("north", "south"))
    ]
    assert all(torch.equal(value, alike[1][name]) for name, value in alike[0].items())
    average = {name: (value.double() + first[1].weights[name]) / 2 for name, value in first[0].weights.items()}
    second = [party.answer(average) for party in parties]
    assert [(one.fault, one.steps) for one in second] == [("", 2), ("", 2)]
    parties[0].write(average, ["north", "south"])
    output = settings("north", "out")["output_dir"]
    written = torch.load(f"{output}/model.pt", weights_only=True)
    torch.testing.assert_close(written["fc.weight"], average["fc.weight"].float())
    with open(f"{output}/chain.json", encoding="utf-8") as file:
        assert json.load(file)["stages"] == [{"stage": 1, "rounds": 2, "sites": ["north", "south"]}]


def test_sites_begin_with_gray_images(settings):
    given = settings("north", "gray")
    party = AverageParty({**given, "changes": {**given["changes"], "channels": 1}})
    assert party.answer({}).fault == ""


def test_a_folder_in_use_is_refused_before_the_first_round(settings, caplog):
    given = settings("north", "used")
    Path(given["output_dir"]).mkdir(parents=True)
    Path(given["output_dir"], "model.pt").touch()
    assert AverageParty(given).answer({}).fault == "FileExistsError, see its log"
    assert "output_dir: expected an empty folder" in caplog.text


def test_a_site_that_failed_in_a_round_takes_part_in_the_next(settings):
    party = AverageParty(settings("north", "failed"))
    weights = party.answer({}).weights
    assert party.answer({"fc.weight": torch.zeros(9, 9)}).fault
    answer = party.answer(weights)
    assert (answer.fault, answer.steps) == ("", 2)
    assert answer.classes == ("chronic_otitis_media", "earwax_plug", "myringosclerosis", "normal")


def test_what_is_wrong_at_a_site_stays_in_its_log(settings, caplog):
    party = AverageParty(settings("north", "odd", rounds=3))
    assert party.answer({}).fault == "ValueError, see its log"
    assert "rounds: expected a divisor of the 2 epochs, got 3. Pass --set max_epochs=3." in caplog.text
    party = AverageParty(settings("north", "solved", overlays=[], changes={}))
    assert party.answer({}).fault == "ValueError, see its log"
    assert "bundle: expected a network that is trained, got one whose head is solved." in caplog.text
