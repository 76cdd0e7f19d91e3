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

import csv
import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from chain_runs import make_chain, make_items, make_network
from held_out import held_out
from ignite.engine import Events
from monai.data import Dataset
from sklearn.metrics import accuracy_score
from torch.utils.data import DataLoader

from monai_weckd import ChainPlan, plan_chain
from monai_weckd.engines import ChainOptions
from monai_weckd.handlers import ChainRecorder, predict_probabilities
from monai_weckd.networks import fingerprint
from monai_weckd.utils.tables import read_table
from monai_weckd.visualize import write_report


def record(output_dir, *, test=True, items=None, **options):
    """Run a small chain that is written down; returns the trainer."""
    items = make_items() if items is None else items
    plan = plan_chain(items, held_out(policy="cumulative", stratify=False), classes=("a", "b", "c"))
    loaders = {split: DataLoader(Dataset(plan.select(items, split)), batch_size=7) for split in ("val", "test")}
    network = make_network()
    recorder = ChainRecorder(
        output_dir,
        None,
        val_data_loader=loaders["val"],
        test_data_loader=loaders["test"] if test else None,
        settings={"learning_rate": 0.05},
    )
    trainer = make_chain(items=items, plan=plan, network=network, handlers=[recorder], **options)
    recorder.evaluator = trainer.walker.evaluator
    trainer.run()
    return trainer


def read(path):
    return json.loads(path.read_text())


def test_files_say_what_happened(tmp_path):
    trainer = record(tmp_path, max_epochs=6)
    assert ChainPlan.from_json((tmp_path / "plan.json").read_text()) == trainer.plan
    chain = read(tmp_path / "chain.json")
    assert [stage["stage"] for stage in chain["stages"]] == [1, 2, 3]
    assert [stage["best_epoch"] for stage in chain["stages"]] == [r.best_epoch for r in trainer.records]
    assert chain["label_budget"] == dict(trainer.plan.label_budget)
    settings = {
        **asdict(trainer.plan.settings),
        **asdict(ChainOptions()),
        "network": "Sequential",
        "threads": torch.get_num_threads(),
        "processes": 1,
        "max_epochs": 6,
        "epoch_length": 4,
        "learning_rate": 0.05,
    }
    assert chain["settings"] == settings
    assert [line["purpose"] for line in chain["ledger"]] == ["split", *["shard"] * 3, "validation", "test"]
    assert sum(stage["accepted"] for stage in chain["stages"]) >= 1


def test_a_chosen_shard_is_written_down_when_its_stage_starts(tmp_path):
    items, known = make_items(), []
    plan = plan_chain(items, held_out(policy="cumulative", selection="herding"), classes=("a", "b", "c"))
    loader = DataLoader(Dataset(plan.select(items, "val")), batch_size=7)
    recorder = ChainRecorder(tmp_path, None, val_data_loader=loader)
    trainer = make_chain(items=items, plan=plan, handlers=[recorder], max_epochs=3)
    recorder.evaluator = trainer.walker.evaluator

    def read_plan(engine):
        known.append(ChainPlan.from_json((tmp_path / "plan.json").read_text()) == engine.plan)

    trainer.add_event_handler(Events.ITERATION_COMPLETED, read_plan)
    trainer.run()
    assert known == [True] * 12


def test_curves_hold_each_epoch(tmp_path):
    trainer = record(tmp_path, max_epochs=6, interval=2)
    epochs = read(tmp_path / "history.json")["epochs"]
    assert [(e["epoch"], e["stage"], e["stage_epoch"]) for e in epochs] == [
        (1, 1, 1), (2, 1, 2), (3, 2, 1), (4, 2, 2), (5, 3, 1), (6, 3, 2)
    ]  # fmt: skip
    assert [e["val"] is None for e in epochs] == [True, False] * 3
    assert all(e["distillation_loss"] is None and e["temperature"] is None for e in epochs[:2])
    assert all(e["distillation_loss"] > 0 and e["temperature"] == 2.0 for e in epochs[2:])
    for epoch in epochs[:2]:
        assert epoch["loss"] == pytest.approx(epoch["task_loss"])
    for epoch in epochs[2:]:
        assert epoch["loss"] == pytest.approx(0.5 * epoch["task_loss"] + 0.5 * epoch["distillation_loss"], rel=1e-5)
    assert trainer.state.epoch == 6


def test_students_are_plain_state_dicts(tmp_path):
    trainer = record(tmp_path, max_epochs=3)
    network = make_network(1)
    network.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    assert fingerprint(network) == fingerprint(trainer.network)
    accepted = [r.stage for r in trainer.records if r.accepted][-1]
    network.load_state_dict(torch.load(tmp_path / f"stage_{accepted}" / "model.pt", weights_only=True), strict=True)
    assert fingerprint(network) == fingerprint(trainer.network)
    assert not list(tmp_path.rglob("*.part"))


def test_predictions_are_those_of_the_final_model(tmp_path):
    record(tmp_path, max_epochs=3)
    with open(tmp_path / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["split"] for row in rows} == {"val", "test"}
    test = [row for row in rows if row["split"] == "test"]
    figures = read(tmp_path / "chain.json")["final"]["test"]
    assert figures["accuracy"] == pytest.approx(
        accuracy_score([r["label"] for r in test], [r["predicted"] for r in test])
    )
    for row in rows:
        probabilities = [float(row[f"probability_{name}"]) for name in "abc"]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert row["predicted"] == "abc"[int(np.argmax(probabilities))]


def test_names_of_any_kind_are_written_and_read(tmp_path):
    names = ["=1+1", "@a", "'b", "-c", "two\r\nlines", "not utf-8 \udcff", "<b>"]
    items = make_items()
    for number, item in enumerate(items):
        item["id"] = f"{names[number % len(names)]} {number}"
    record(tmp_path, items=items, max_epochs=3)
    with open(tmp_path / "predictions.csv", newline="", encoding="utf-8", errors="surrogateescape") as file:
        text = file.read()
    plan = ChainPlan.from_json((tmp_path / "plan.json").read_text())
    assert {row["id"] for row in read_table(text)} == {*plan.val, *plan.test}
    assert not [row for row in csv.reader(text.splitlines()) if row and row[0].startswith(("=", "@", "-"))]
    assert write_report(tmp_path).is_file()


def test_without_a_test_loader_there_are_no_test_figures(tmp_path):
    record(tmp_path, max_epochs=3, test=False)
    chain = read(tmp_path / "chain.json")
    assert [stage["test"] for stage in chain["stages"]] == [None] * 3
    assert chain["final"]["test"] is None


@pytest.mark.parametrize("lists", [(), ("val",), ("test",)])
@pytest.mark.parametrize("empty", [False, True])
def test_lists_that_do_not_exist_have_no_figures(tmp_path, lists, empty):
    items = make_items()
    fractions = {f"{split}_fraction": 0.2 if split in lists else 0.0 for split in ("val", "test")}
    plan = plan_chain(items, held_out(policy="cumulative", stratify=False, **fractions), classes=("a", "b", "c"))
    loaders = {
        f"{split}_data_loader": DataLoader(Dataset(plan.select(items, split)), batch_size=7)
        for split in ("val", "test")
        if empty or split in lists
    }
    recorder = ChainRecorder(tmp_path, None, **loaders)
    options = {"max_epochs": 3, "calibrate": True, "validate": empty or "val" in lists}
    trainer = make_chain(items=items, plan=plan, handlers=[recorder], **options)
    recorder.evaluator = trainer.walker.evaluator
    trainer.run()
    chain = read(tmp_path / "chain.json")
    for stage in [*chain["stages"], {"val": chain["stages"][-1]["val"], **chain["final"]}]:
        assert {split for split in ("val", "test") if stage[split] is not None} == set(lists)
    measured = [epoch["val"] is not None for epoch in read(tmp_path / "history.json")["epochs"]]
    assert measured == ["val" in lists] * 3
    names = {"val": "validation", "test": "test"}
    assert set(read(tmp_path / "datalist.json")) == {names[split] for split in lists}
    purposes = [line["purpose"] for line in chain["ledger"] if line["purpose"] in names.values()]
    assert purposes == [names[split] for split in ("val", "test") if split in lists]
    text = (tmp_path / "predictions.csv").read_text()
    assert text.splitlines()[0] == "id,group,split,label,predicted,probability_a,probability_b,probability_c"
    assert {row["split"] for row in read_table(text)} == set(lists)
    assert chain["label_budget"]["val"] == len(plan.val)


def test_prediction_puts_the_mode_back():
    network = make_network().train()
    items = make_items(4, 1)
    before = fingerprint(network)
    probabilities, labels = predict_probabilities(
        network, DataLoader(Dataset(items), batch_size=3), torch.device("cpu")
    )
    assert network.training
    assert fingerprint(network) == before
    assert probabilities.shape == (4, 3)
    assert labels.tolist() == [item["label"] for item in items]


def test_writing_down_changes_no_bit(tmp_path):
    items = make_items()
    plan = plan_chain(items, held_out(policy="cumulative", stratify=False), classes=("a", "b", "c"))
    silent = make_chain(items=items, plan=plan)
    silent.run()
    assert fingerprint(record(tmp_path).network) == fingerprint(silent.network)


class Tokens(torch.nn.Module):
    """Features of the shape of a vision transformer's, (B, tokens, channels)."""

    def forward(self, image):
        return image.flatten(2).transpose(1, 2)


class ManyOutputs(torch.nn.Sequential):
    def forward(self, image):
        return super().forward(image), []


def explained(network, layer, output_dir, **options):
    items = make_items()
    plan = plan_chain(items, held_out(), classes=("a", "b", "c"))
    loader = DataLoader(Dataset(plan.select(items, "test")), batch_size=7)
    recorder = ChainRecorder(output_dir, None, test_data_loader=loader, target_layer=layer)
    options = {"items": items, "plan": plan, "handlers": [recorder], "validate": False, "max_epochs": 3, **options}
    make_chain(network=network, **options).run()


def transformer():
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 4, stride=4), Tokens(), torch.nn.LayerNorm(8), torch.nn.Flatten(), torch.nn.Linear(32, 3)
    )


@pytest.mark.parametrize("layer", ["layer9", "conv", "6.weight"])
def test_a_layer_that_is_not_there_is_refused_before_the_first_batch(layer, tmp_path):
    with pytest.raises(ValueError, match=f"^target_layer: expected the name of a module of the network, got '{layer}'"):
        explained(make_network(), layer, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("network", "layer"), [(transformer(), "2"), (transformer(), "4"), (make_network(), "4")])
def test_a_layer_without_a_feature_map_costs_the_pictures_alone(network, layer, tmp_path, caplog):
    explained(network, layer, tmp_path)
    found = [record.getMessage() for record in caplog.records if record.getMessage().startswith("target_layer: ")]
    assert len(found) == 1
    assert f"expected a layer whose feature map explains errors, got '{layer}'" in found[0]
    assert "\n" not in found[0]
    assert not (tmp_path / "errors").exists()
    assert write_report(tmp_path).is_file()


@pytest.mark.parametrize("layer", ["2", None])
def test_pictures_are_drawn_of_a_feature_map_and_of_no_layer_none(layer, tmp_path, caplog):
    explained(make_network(), layer, tmp_path)
    assert (tmp_path / "errors" / "errors.json").is_file() == (layer is not None)
    assert "target_layer" not in caplog.text


def test_pictures_that_fail_after_all_do_not_cost_the_report(tmp_path, caplog, monkeypatch):
    def fail(*args, **options):
        raise ValueError("dataset: expected the images of the rows, got others. Look.")

    monkeypatch.setattr("monai_weckd.handlers.recorder.save_error_gallery", fail)
    explained(make_network(), "2", tmp_path)
    assert "got '2' (dataset: expected the images of the rows" in caplog.text
    assert write_report(tmp_path).is_file()
