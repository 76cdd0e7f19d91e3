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
import math

import pytest
import torch
from bundle_runs import OTOSCOPY

from monai_weckd.fl.chain_rounds import ChainParty, StageAnswer, run_over_sites
from monai_weckd.predict.model import PredictionBundle

SMALL = {
    "spatial_size": [32, 32],
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "batch_size": 8,
    "network_def#block_inplanes": [4, 4, 8, 8],
}


def answer(value, names=("weight",)):
    return StageAnswer({name: torch.full((2,), float(value)) for name in names}, {"labeled": value})


def test_the_weights_of_a_site_arrive_at_the_next():
    arrived = []

    def ask(weights, site):
        arrived.append((site, weights.get("weight", torch.zeros(1))[0].item()))
        return answer(len(arrived))

    weights, records = run_over_sites(ask, ["north", "south", "west"])
    assert arrived == [("north", 0), ("south", 1), ("west", 2)]
    assert weights["weight"].tolist() == [3, 3]
    assert [(one["stage"], one["site"], one["labeled"]) for one in records] == [
        (1, "north", 1),
        (2, "south", 2),
        (3, "west", 3),
    ]


FAULTS = {
    "no answer in time": None,
    "ValueError, see its log": StageAnswer({}, {}, fault="ValueError, see its log"),
    "weights of another network or class list": answer(5, ("weight", "bias")),
    "weights that are not finite": answer(math.nan),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_missing_site_stops_the_chain_or_is_left_out(fault, caplog):
    given = {"north": answer(1), "south": FAULTS[fault], "west": answer(3)}
    with pytest.raises(ValueError, match=f"sites: expected a student of south, got {fault}. Mend it"):
        run_over_sites(lambda weights, site: given[site], list(given))
    arrived = {}
    with caplog.at_level(logging.WARNING):
        _, records = run_over_sites(
            lambda weights, site: (arrived.update({site: weights}), given[site])[1], list(given), on_missing="skip"
        )
    assert f"left out south: {fault}" in caplog.text
    assert [one["site"] for one in records] == ["north", "west"]
    assert arrived["west"]["weight"].tolist() == [1, 1]  # those of the north: no stage is lost


def test_without_any_site_there_is_no_model():
    with pytest.raises(ValueError, match=r"sites: expected the student of one site or more, got none\. Look at"):
        run_over_sites(lambda weights, site: None, ["north", "south"], on_missing="skip")


@pytest.fixture(scope="module")
def chain(copy_ears, tmp_path_factory):
    """The parties of two sites, what their stages sent, and the folder of all."""
    root, parties, answers = tmp_path_factory.mktemp("chain"), {}, {}
    for site, items in {"north": 24, "south": 36}.items():
        (root / site).mkdir()
        copy_ears(root / site, items)
        if site == "south":  # every second image has no label
            lines = (root / site / "manifest.csv").read_text().splitlines()
            rows = [line.split(",") for line in lines]
            rows[1::2] = [[row[0], "", *row[2:]] for row in rows[1::2]]
            (root / site / "manifest.csv").write_text(
                "".join(",".join([*row[:3], "train" if n else row[3]]) + "\n" for n, row in enumerate(rows))
            )
        settings = {"bundle": str(OTOSCOPY), "dataset_dir": str(root / site), "output_dir": str(root / "out" / site)}
        settings |= {"classes": None, "overlays": ["scratch.json"], "changes": SMALL}
        parties[site] = ChainParty(settings)

    def ask(weights, site):
        answers[site] = parties[site].answer(weights)
        return answers[site]

    return parties, answers, root, *run_over_sites(ask, list(parties))


def test_a_stage_follows_the_weights_that_arrive(chain):
    _, answers, root, weights, _ = chain
    assert all(torch.equal(value, answers["south"].weights[name]) for name, value in weights.items())
    assert any(not torch.equal(value, answers["north"].weights[name]) for name, value in weights.items())
    history = json.loads((root / "out" / "south" / "stage" / "history.json").read_text())
    first = json.loads((root / "out" / "north" / "stage" / "history.json").read_text())
    assert [epoch["distillation_loss"] for epoch in first["epochs"]] == [None]
    assert all(epoch["distillation_loss"] > 0 for epoch in history["epochs"])


def test_nothing_of_an_item_leaves(chain):
    _, answers, _, _, records = chain
    for record in records:
        assert set(record) == {"stage", "site", "labeled", "classes", "value"}
        assert record["labeled"] == sum(record["classes"].values()) > 0
    assert records[1]["labeled"] == 18  # all of the south
    assert set(answers["north"].weights) == set(answers["south"].weights)


def test_each_site_writes_the_last_student(chain):
    parties, _, root, weights, records = chain
    parties["north"].write(weights, records)
    path = root / "out" / "north" / "model.pt"
    found = torch.load(path, weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in found.items())
    changes = {name: SMALL[name] for name in ("spatial_size", "network_def#block_inplanes")}
    model = PredictionBundle(OTOSCOPY, path, overlays=["inference_scratch.json"], changes=changes)
    assert model.predict(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_a_solved_head_is_refused(tmp_path, caplog):
    settings = {"bundle": str(OTOSCOPY), "dataset_dir": "x", "output_dir": str(tmp_path / "out")}
    party = ChainParty({**settings, "classes": None, "overlays": [], "changes": {}})
    assert party.answer({}).fault == "ValueError, see its log"
    assert "bundle: expected a network that is trained, got one whose head is solved." in caplog.text
