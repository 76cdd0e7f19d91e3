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
import functools
import shutil
import time
from dataclasses import replace
from pathlib import Path

import compared_runs
import numpy as np
import pytest

from monai_weckd.cli.main import main
from monai_weckd.compare.arms import ARMS
from monai_weckd.compare.folds import cross_validation_splits
from monai_weckd.compare.running import ArmRun, execute, run_arm
from monai_weckd.compare.schedule import plan_runs
from monai_weckd.compare.store import RunStore
from monai_weckd.compare.summary import comparison_csv, summarize_comparison
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.data.byte_cache import ByteCacheDataset
from monai_weckd.data.embedding import EmbeddingDataset
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.visualize.comparison import comparison_page

BUNDLE = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"


SMALL = {
    "max_epochs": 3,
    "iterations_per_epoch": 2,
    "batch_size": 8,
    "spatial_size": [32, 32],
    "label_fraction": 0.15,
    "selection": "random",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    assert main(["phantom", "--kind", "otoscopy", "--out", str(folder), "--items", "96"]) == 0
    return folder


def planned(data, arms, changes=None):
    bundle = ComparedBundle(BUNDLE, data, overlays=["scratch.json"], changes={**SMALL, **(changes or {})})
    splits = cross_validation_splits(bundle.datalist.items, folds=2, label_fraction=0.15)[:1]
    return bundle, {run.arm.name: run for run in plan_runs(bundle, [ARMS[name] for name in arms], splits, [0])}


def test_an_ensemble_averages_models_on_the_same_labels(data, tmp_path):
    bundle, runs = planned(data, ["single", "ensemble"])
    store = RunStore(tmp_path)
    members = []
    genuine = bundle.train

    def train(arm, split, output_dir, overrides, **options):
        genuine(arm, split, output_dir, overrides, **options)
        rows = [row for row in csv.DictReader((output_dir / "predictions.csv").open()) if row["split"] == "test"]
        plan = ChainPlan.from_json((output_dir / "plan.json").read_text())
        scores = [[float(row[f"probability_{name}"]) for name in bundle.datalist.classes] for row in rows]
        members.append((overrides["seed"], plan.stages[0].labeled, np.array(scores)))

    bundle.train = train
    for run in runs.values():
        assert "error" not in execute(run, bundle, store, cache_dir=tmp_path / "cache")
    seeds, labels, scores = zip(*members, strict=True)
    assert len(set(seeds)) == 3
    assert len(set(labels)) == 1
    assert not np.allclose(scores[0], scores[1], atol=1e-3)
    found = store.predictions("ensemble", (0, 0, 0), bundle.task)
    assert found.probabilities == pytest.approx(np.mean(scores, axis=0))


def test_two_views_are_averaged_without_a_training_of_their_own(data, tmp_path):
    bundle, runs = planned(data, ["chain", "single_long+labels"], {"selection": "typical", "missing_classes": "allow"})
    store = RunStore(tmp_path)
    results = [execute(run, bundle, store, cache_dir=tmp_path / "cache") for run in runs.values()]
    # stands for the fine-tuned network, whose training takes minutes
    first, second = runs.values()
    both = ArmRun(
        replace(ARMS["two_views"], needs=tuple(runs)), first.split, 0, first.run_seed, "both", (first, second)
    )
    bundle.train = None
    result = execute(both, bundle, store, cache_dir=tmp_path / "cache")
    assert result["labels"] == results[0]["labels"]
    assert result["cpu_seconds"] >= sum(found["cpu_seconds"] for found in results)
    tables = [store.predictions(name, (0, 0, 0), bundle.task).probabilities for name in runs]
    found = store.predictions("two_views", (0, 0, 0), bundle.task).probabilities
    assert not np.allclose(*tables, atol=1e-3)
    assert found == pytest.approx((tables[0] + tables[1]) / 2)


def test_arms_are_compared_without_validation(data, tmp_path):
    bundle = ComparedBundle(BUNDLE, data, overlays=["scratch.json"], changes=SMALL)
    splits = cross_validation_splits(bundle.datalist.items, folds=2, label_fraction=0.15, val_labels=0)[:1]
    store = RunStore(tmp_path)
    runs = plan_runs(bundle, [ARMS["chain"], ARMS["single"]], splits, [0])
    for run in runs:
        result = execute(run, bundle, store, cache_dir=tmp_path / "cache")
        assert "error" not in result
        assert result["val_labels"] == 0
        assert {(stage["val"], stage["accepted"]) for stage in result["stages"]} == {(None, True)}
        assert 0 <= result["test"]["balanced_accuracy"] <= 1
    content = summarize_comparison(runs, bundle, store, reference="chain")
    assert content["finished"] == 2
    assert "chain" in comparison_csv(content)
    assert "<html" in comparison_page(content, about={"synthetic": True})


def test_controls_of_an_active_chain_use_the_labels_that_it_chose(data, tmp_path, monkeypatch):
    changes = {"selection": "typical", "missing_classes": "allow"}
    bundle, runs = planned(data, ["chain", "single_long+labels", "solved+labels", "compact"], changes)
    train, taught_on = bundle.train, []

    def note_teachers(arm, split, output_dir, overrides, **options):
        train(arm, split, output_dir, overrides, **options)
        if output_dir.name == "teacher":
            taught_on.append(set(ChainPlan.from_json((output_dir / "plan.json").read_text()).stages[0].labeled))

    monkeypatch.setattr(bundle, "train", note_teachers)
    store = RunStore(tmp_path)
    results = {name: execute(run, bundle, store, cache_dir=tmp_path / "cache") for name, run in runs.items()}
    assert not [result["error"] for result in results.values() if "error" in result]
    plans = {name: ChainPlan.from_json(store.path(name, (0, 0, 0), ".plan.json").read_text()) for name in runs}
    chosen = {key for stage in plans["chain"].stages for key in stage.new}
    for name in ("single_long+labels", "solved+labels", "compact"):
        assert chosen == set(plans[name].stages[0].labeled)
    assert taught_on == [chosen]
    assert {result["labels"] for result in results.values()} == {len(chosen)}
    assert chosen


def test_a_bundle_that_is_edited_meanwhile_changes_no_later_run(data, tmp_path):
    shutil.copytree(BUNDLE / "configs", tmp_path / "bundle" / "configs")
    bundle = ComparedBundle(tmp_path / "bundle", data, overlays=["scratch.json"], changes=SMALL)
    splits = cross_validation_splits(bundle.datalist.items, folds=2, label_fraction=0.15)[:1]
    [run] = plan_runs(bundle, [ARMS["single"]], splits, [0])
    (tmp_path / "bundle" / "configs" / "train.json").write_text("{}")
    assert "error" not in execute(run, bundle, RunStore(tmp_path), cache_dir=tmp_path / "cache")


def test_given_random_labels_change_nothing(data, tmp_path):
    # the same labels, drawn by the control itself or taken from the chain's plan, give the same network
    bundle, runs = planned(data, ["chain", "single_long", "single_long+labels"])
    store = RunStore(tmp_path)
    for run in runs.values():
        assert "error" not in execute(run, bundle, store, cache_dir=tmp_path / "cache")
    drawn, given = (store.path(name, (0, 0, 0), ".csv").read_text() for name in ("single_long", "single_long+labels"))
    assert drawn == given


def test_only_what_a_comparison_needs_is_written(data, tmp_path):
    bundle, runs = planned(data, ["single"])
    seen = []
    genuine = bundle.train

    def train(arm, split, output_dir, overrides, **options):
        genuine(arm, split, output_dir, overrides, **options)
        seen.extend(sorted(path.name for path in output_dir.iterdir()))

    bundle.train = train
    result, rows, _ = run_arm(runs["single"], bundle, RunStore(tmp_path), cache_dir=tmp_path / "cache")
    assert not {"report.html", "tensorboard", "errors"} & set(seen)
    assert {row["id"] for row in rows} == {key for key, part in runs["single"].split.split_of.items() if part == "test"}
    assert result["seconds"] > 0
    assert result["cpu_seconds"] > 0


# one of four classes has a quarter of the probability at least
@pytest.mark.parametrize(("threshold", "share"), [(0.2, 1.0), (0.999999, 0.0)])
def test_the_share_of_the_pool_that_passed_is_kept(data, tmp_path, threshold, share):
    bundle, runs = planned(data, ["fixmatch"])
    genuine = bundle.overrides
    bundle.overrides = lambda *args: {**genuine(*args), "loss_function#threshold": threshold}
    result = execute(runs["fixmatch"], bundle, RunStore(tmp_path), cache_dir=tmp_path / "cache")
    assert "error" not in result
    assert result["pool_share"] == share


@pytest.mark.parametrize("arm", ["single", "solved"])
def test_after_the_preparation_no_arm_decodes_or_embeds(data, tmp_path, monkeypatch, arm):
    changes = {"spatial_size": [64, 64], "network_def#flip_average": [], "network_def#shrink": [1]}
    bundle, runs = planned(data, [arm], {"missing_classes": "allow", **changes})
    done = []
    encoded, embed = ByteCacheDataset._encoded, EmbeddingDataset._embedded

    def note_encoded(self, items, shape):
        done.append(("decoded", len(items)))
        return encoded(self, items, shape)

    def note_embedded(self, images, indices):
        done.append(("embedded", len(indices)))
        return embed(self, images, indices)

    monkeypatch.setattr(ByteCacheDataset, "_encoded", note_encoded)
    monkeypatch.setattr(EmbeddingDataset, "_embedded", note_embedded)
    options = {"cache_dir": tmp_path / "cache"}
    bundle.prepare(runs[arm].arm, runs[arm].split, **options)
    for what in {"single": ["decoded"], "solved": ["decoded", "embedded"]}[arm]:
        assert sum(number for name, number in done if name == what) == 96
    done.clear()
    result = execute(runs[arm], bundle, RunStore(tmp_path), **options)
    assert "error" not in result
    assert sum(number for _, number in done) == 0


def test_the_preparation_is_in_no_time_of_a_run(data, tmp_path, monkeypatch):
    bundle, runs = planned(data, ["single"])
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def passing(seconds, then=lambda *args, **options: None):
        def call(*args, **options):
            now[0] += seconds
            return then(*args, **options)

        return call

    bundle.prepare = passing(100.0)
    bundle.train = passing(3.0, functools.partial(compared_runs.train, bundle))
    result = execute(runs["single"], bundle, RunStore(tmp_path), cache_dir=tmp_path / "cache")
    assert (result["preparation_seconds"], result["seconds"]) == (100.0, 3.0)
    content = summarize_comparison([runs["single"]], bundle, RunStore(tmp_path), reference="single")
    assert content["preparation_seconds"] == 100.0
    assert content["arms"][0]["seconds"] == 3.0
