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
import re
import shutil

import optuna
import pytest
from tuned_bundles import BUNDLES, OTOSCOPY, VALUES

from monai_weckd.bundle import BundleConfig
from monai_weckd.data.phantoms import make_phantom
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.tune.objective import ChainObjective
from monai_weckd.tune.space import DEFAULTS, SPACE, parse_parameters
from monai_weckd.tune.training import TunedBundle


def shuffle_test_labels(manifest, test):
    """Rotate the labels of the test items among themselves; returns how many have changed."""
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = [row for row in rows if row["file"] in test]
    labels = [row["label"] for row in chosen]
    rotated = labels[5:] + labels[:5]
    changed = sum(a != b for a, b in zip(labels, rotated, strict=True))
    for row, label in zip(chosen, rotated, strict=True):
        row["label"] = label
    with open(manifest, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return changed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bundle": "/no/bundle"}, "bundle: expected configs/train.json in '/no/bundle', got none. Pass a bundle."),
        (
            {"overlays": ["/no/file.json"]},
            "config_file: expected a file, or the name of one in .*, got '/no/file.json'.",
        ),
        ({"data": "/no/data"}, "dataset_dir: expected an existing folder, got '/no/data'."),
        ({"changes": {"max_epoch": 3}}, r"set: expected a key of .*, got 'max_epoch'. Did you mean 'max_epochs'\?"),
        ({"changes": {"learning_rate": 1.0}}, "set: expected a key that is not tuned, got 'learning_rate'. Leave it"),
        (
            {"changes": {"loss_function#temperature": 2.0}},
            "set: expected a key that is not tuned, got 'loss_function#temperature'. Leave it",
        ),
        ({"changes": {"label_fraction": 0.001}}, "label_fraction: expected a label of each of 4 classes"),
        ({"changes": {"selection": "badge"}}, "selection: expected 'random' or given shards, got 'badge': every trial"),
        ({"changes": {"xyz": 1}}, "set: expected a key of .*, got 'xyz'. Valid: 'imports', "),
    ],
)
def test_errors_come_before_the_first_trial(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_a_study_without_validation_is_refused_before_it_begins(make, dataset, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    with (data / "manifest.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (data / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, ("file", "label", "group"), extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    message = (
        "tune: expected validation images to tune on, got none. "
        "Pass --set val_fraction=0.2, or a data list with a validation split."
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make(data=data)
    assert make(data=data, changes={"val_fraction": 0.2}).plan.val


def test_heads_that_are_solved_are_not_tuned(dataset, tmp_path):
    with pytest.raises(ValueError, match=r"^config_file: expected a training step by step, got one that solves heads"):
        TunedBundle(OTOSCOPY, dataset, cache_dir=tmp_path, parameters=parse_parameters(DEFAULTS))


def references(place):
    """Return something that refers to all members of a part of the configuration, so that they count as used."""
    config = json.loads((OTOSCOPY / "configs" / "train.json").read_text())[place]
    return [value for value in config.values() if isinstance(value, str)] + [f"@{place}#{key}" for key in config]


@pytest.mark.parametrize(
    ("overlay", "message"),
    [
        (
            {"max_epoch": 3},
            "max_epoch: expected a key that the configuration uses, got one that nothing reads. Did you",
        ),
        (
            {"validate#evaluator": None, "_used": references("validate")},
            "validate#evaluator: expected an evaluator, got none. Tuning needs a validation.",
        ),
        (
            {"plan": "$monai_weckd.plan_chain(@datalist.items)", "_used": references("plan")},
            "bundle: expected the key 'plan#settings' in its train.json, got none. Add it.",
        ),
    ],
)
def test_errors_in_an_overlay_come_before_the_first_trial(make, tmp_path, overlay, message):
    (tmp_path / "overlay.json").write_text(json.dumps(overlay))
    with pytest.raises(ValueError, match=re.escape(message)):
        make(overlays=[tmp_path / "overlay.json"])


def test_a_parameter_that_the_bundle_does_not_have_is_refused(make, tmp_path):
    (tmp_path / "loss.json").write_text('{"loss_function": {"_target_": "torch.nn.CrossEntropyLoss"}}')
    with pytest.raises(ValueError, match=r"parameters: expected keys of .*train.json, got 'threshold'"):
        make(parameters=["threshold"], overlays=[tmp_path / "loss.json"])


@pytest.mark.parametrize("name", sorted(path.name for path in BUNDLES.glob("*_chain_classification")))
def test_every_bundle_has_every_parameter(name):
    config = BundleConfig(BUNDLES / name, overlays=["scratch.json"])
    assert all(config.takes(parameter.key) for parameter in SPACE.values())


def test_a_trial_neither_writes_nor_talks_nor_tests(make, tmp_path):
    bundle = make()
    config = bundle.trial(VALUES)
    handlers = config.value("train#trainer#train_handlers")
    assert [type(handler).__name__ for handler in handlers if handler is not None] == [
        "FrozenBackbone",  # which does nothing here
        "TeacherWeightHandler",
        "TemperatureHandler",
        "ValidationHandler",
        "LrScheduleHandler",
    ]
    assert "test" not in config
    ChainObjective(bundle)(optuna.trial.FixedTrial(VALUES))
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_reference_to_the_test_split_is_an_error(make, tmp_path):
    (tmp_path / "overlay.json").write_text('{"validate#evaluator#val_handlers": "$[print(@test#dataloader)]"}')
    bundle = make(overlays=[tmp_path / "overlay.json"])
    with pytest.raises(ValueError, match="`@test::dataloader` is not defined"):
        ChainObjective(bundle)(optuna.trial.FixedTrial(VALUES))


def test_values_reach_the_training(make):
    config = make(parameters=[*DEFAULTS, "pool_ratio"]).trial({**VALUES, "pool_ratio": 3})
    trainer = config.trainer()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == [2e-3]
    loss = config.value("loss_function")
    assert (loss.weight, loss.temperature) == (0.4, 3.0)
    assert config.value("chain").pool_ratio == 3


def test_a_schedule_of_the_temperature_starts_at_what_is_tuned(make):
    config = make(overlays=["paper.json"]).trial(VALUES)
    schedule = config.value("train#handlers#1#schedule")
    assert (schedule.start, schedule.end) == (3.0, 1.0)


def test_trials_of_an_active_chain_train_on_random_shards(make):
    bundle = make()
    assert bundle.replaced_selection == "herding"
    assert bundle.plan.settings.selection == bundle.trial(VALUES)["selection"] == "random"
    assert make(changes={"selection": "random"}).replaced_selection is None


def test_own_values_overlay_and_epochs(make, tmp_path):
    bundle = make()
    assert bundle.own_values == {"learning_rate": 1e-3, "distillation_weight": 0.5, "temperature": 1.0}
    assert bundle.knows_own_values
    assert bundle.warmup_epochs == 2
    assert not bundle.lower_is_better
    overlay = {"learning_rate": 2e-3, "distillation_weight": 0.4, "loss_function#temperature": 3.0}
    assert bundle.overlay(VALUES) == overlay
    changes = {"chain#stage_epochs": [2, 3, 4], "max_epochs": 9}
    paper = make(overlays=[OTOSCOPY / "configs" / "paper.json"], changes=changes)
    assert paper.own_values["temperature"] == 4.0
    assert paper.warmup_epochs == 3
    assert not make(parameters=["attention_weight"]).knows_own_values
    (tmp_path / "loss.json").write_text('{"validate#evaluator#metric_cmp_fn": "$lambda new, old: new < old"}')
    assert make(overlays=[tmp_path / "loss.json"]).lower_is_better


def test_settings_tell_what_decides_a_result(make, dataset, tmp_path):
    first = make().settings
    assert make(cache_dir=tmp_path / "elsewhere", changes={"train#dataloader#num_workers": 1}).settings == first
    for changes in ({"batch_size": 4}, {"chain#pool_ratio": 0}, {"seed": 5}):
        assert make(changes=changes).settings != first
    assert make(seed=1).settings["data and plan"] != first["data and plan"]
    assert json.loads(json.dumps(first)) == first


def test_validation_is_no_larger_than_a_shard(make):
    bundle = make()
    assert len(bundle.plan.val) == bundle.plan.shard_size < len(bundle.whole_plan.val)
    assert len(bundle.trial(VALUES).value("validate#dataset#data")) == bundle.plan.shard_size


def test_no_test_label_is_read(make, tmp_path, monkeypatch):
    data = make_phantom("otoscopy", tmp_path / "data", items=96, seed=0)
    asked, reveal = set(), LabelOracle.reveal

    def spy(self, ids, **options):
        ids = list(ids)
        asked.update(ids)
        return reveal(self, ids, **options)

    monkeypatch.setattr(LabelOracle, "reveal", spy)
    bundle = make(data=data)
    value = ChainObjective(bundle)(optuna.trial.FixedTrial(VALUES))
    test = set(bundle.plan.test)
    assert len(test) > 10
    assert asked
    assert not asked & test
    assert not {item["id"] for item in bundle.datalist.items} & test
    assert shuffle_test_labels(data / "manifest.csv", test) > 5
    shuffled = make(data=data)
    assert shuffled.settings == bundle.settings
    assert ChainObjective(shuffled)(optuna.trial.FixedTrial(VALUES)) == value
