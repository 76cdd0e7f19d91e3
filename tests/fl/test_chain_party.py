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

import pytest
import torch
from bundle_runs import OTOSCOPY

from monai_weckd.data import load_datalist
from monai_weckd.fl.chain_party import ChainParty
from monai_weckd.fl.chain_rounds import Student, run_over_sites
from monai_weckd.losses import BalancedCrossEntropy
from monai_weckd.networks import ClassExperts
from monai_weckd.predict.model import PredictionBundle

SMALL = {
    "spatial_size": [32, 32],
    "max_epochs": 1,
    "iterations_per_epoch": 2,
    "batch_size": 8,
    "network_def#block_inplanes": [4, 4, 8, 8],
}


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

    def ask(students, site, visit, again):
        answers[site] = parties[site].answer(students, visit=visit, again=again)
        return answers[site]

    return parties, answers, root, *run_over_sites(ask, list(parties))


def test_a_stage_follows_the_weights_that_arrive(chain):
    _, answers, root, weights, _ = chain
    assert all(torch.equal(value, answers["south"].weights[name]) for name, value in weights.items())
    assert any(not torch.equal(value, answers["north"].weights[name]) for name, value in weights.items())
    history = json.loads((root / "out" / "south" / "stage_1" / "history.json").read_text())
    first = json.loads((root / "out" / "north" / "stage_1" / "history.json").read_text())
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
    assert party.answer([]).fault == "ValueError, see its log"
    assert "bundle: expected a network that is trained, got one whose head is solved." in caplog.text


def test_an_interrupted_stage_is_removed_only_when_it_is_asked_again(chain):
    parties, _, root, _, _ = chain
    old = (root / "out" / "south" / "stage_1" / "plan.json").stat().st_mtime_ns
    assert parties["south"].answer([]).fault == "FileExistsError, see its log"
    assert (root / "out" / "south" / "stage_1" / "plan.json").stat().st_mtime_ns == old
    assert not parties["south"].answer([], again=True).fault
    assert (root / "out" / "south" / "stage_1" / "plan.json").stat().st_mtime_ns != old


def test_stages_of_another_job_are_not_removed(chain):
    parties, _, root, _, _ = chain
    plan = root / "out" / "south" / "stage_1" / "plan.json"
    old = plan.stat().st_mtime_ns
    other = ChainParty({**parties["south"]._settings, "changes": {**SMALL, "seed": 7}})
    assert other.answer([], again=True).fault == "FileExistsError, see its log"
    assert plan.stat().st_mtime_ns == old


LEARNS = {**SMALL, "max_epochs": 20, "iterations_per_epoch": 10, "batch_size": 16, "learning_rate": 0.003}
LEARNS |= {"network_def#block_inplanes": [8, 8, 16, 16], "val_fraction": 0}


def probability(weights, images, number, path):
    """Return the mean probability of a class on images."""
    torch.save(weights, path)
    changes = {name: LEARNS[name] for name in ("spatial_size", "network_def#block_inplanes")}
    model = PredictionBundle(OTOSCOPY, path, overlays=["inference_scratch.json"], changes=changes)
    return model.predict(torch.stack([model.load(image) for image in images]))[:, number].mean().item()


def test_a_site_without_a_class_does_not_unlearn_it_from_all_teachers(copy_ears, tmp_path):
    names = load_datalist(copy_ears(tmp_path / "all", 96)).classes
    for site, lines in {"north": slice(0, 48), "south": slice(48, 96)}.items():
        copy_ears(tmp_path / site, 96)
        header, *rows = (tmp_path / site / "manifest.csv").read_text().splitlines()
        rows = [row for row in rows[lines] if site == "north" or f",{names[0]}," not in row]
        rows = [row.rpartition(",")[0] + ",train" for row in rows]
        (tmp_path / site / "manifest.csv").write_text("\n".join([header, *rows]) + "\n")
    settings = {"bundle": str(OTOSCOPY), "classes": names, "overlays": ["scratch.json"], "changes": LEARNS}

    def stage(site, students, teachers):
        folders = {"dataset_dir": str(tmp_path / site), "output_dir": str(tmp_path / "out" / teachers / site)}
        found = ChainParty({**settings, **folders, "teachers": teachers}).answer(students)
        assert not found.fault
        return found

    first = stage("north", [], "last")
    assert first.record["classes"][names[0]] > 0
    student = Student(first.weights, list(first.record["classes"].values()))
    images = [item["image"] for item in load_datalist(tmp_path / "north").items if item["label"] == 0]
    found = {}
    for teachers in ("last", "all"):
        second = stage("south", [student], teachers)
        assert second.record["classes"][names[0]] == 0
        found[teachers] = probability(second.weights, images, 0, tmp_path / "model.pt")
    knew = probability(first.weights, images, 0, tmp_path / "model.pt")
    assert found["last"] < knew / 3
    assert found["all"] > 2 * knew / 3


def test_teachers_and_loss_are_those_of_the_key(chain, monkeypatch):
    from monai_weckd.bundle.config import BundleConfig

    parties, answers, root, _, _ = chain
    students = [Student(one.weights, list(one.record["classes"].values())) for one in answers.values()]
    seen, make = {}, BundleConfig.trainer

    def keep(config):
        trainer = make(config)
        seen.update(trainer=trainer, end=config["distillation_weight_end"])
        return trainer

    monkeypatch.setattr(BundleConfig, "trainer", keep)
    for teachers, changes, end in (("all", {}, 0.5), ("all", {"distillation_weight_end": 0.1}, 0.1), ("last", {}, 0.0)):
        settings = {**parties["north"]._settings, "output_dir": str(root / "more" / f"{teachers}{end}")}
        party = ChainParty({**settings, "teachers": teachers, "changes": {**SMALL, **changes}})
        assert not party.answer(students if teachers == "all" else students[-1:]).fault
        assert seen["end"] == end
        criterion = seen["trainer"].state.distiller.criterion
        assert isinstance(criterion.task_loss, BalancedCrossEntropy) == (teachers == "all")
        (group,) = seen["trainer"].optimizer.param_groups
        assert group["initial_lr"] == pytest.approx(0.0002 if teachers == "all" else 0.001)
        teacher = seen["trainer"].walker.first_teacher
        assert isinstance(teacher, ClassExperts) == (teachers == "all")


def test_the_first_of_all_learns_at_full_rate(chain, monkeypatch):
    from monai_weckd.bundle.config import BundleConfig

    parties, _, root, _, _ = chain
    seen, make = {}, BundleConfig.trainer
    monkeypatch.setattr(BundleConfig, "trainer", lambda config: seen.setdefault("trainer", make(config)))
    settings = {**parties["south"]._settings, "output_dir": str(root / "first"), "teachers": "all"}
    answer = ChainParty(settings).answer([])
    (group,) = seen["trainer"].optimizer.param_groups
    assert group["initial_lr"] == pytest.approx(0.001)
    counts = torch.tensor(list(answer.record["classes"].values())).float()
    torch.testing.assert_close(seen["trainer"].state.distiller.criterion.task_loss.shift, counts.log())
