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
import gc
import json
import pickle
import shutil
import weakref
from pathlib import Path

import pytest

from monai_weckd.bundle import BundleConfig
from monai_weckd.compare import training
from monai_weckd.compare.arms import ARMS
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.data import Datalist
from monai_weckd.data.phantoms import make_phantom

OTOSCOPY = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"
SPLIT = FoldSplit(0, 0, {"0": "train", "1": "train", "2": "val", "3": "test"})


class Knot:
    """What refers to itself, as engines do by their handlers."""

    def __init__(self):
        self.engine = self


@pytest.fixture
def bundle(tmp_path):
    bundle = ComparedBundle(OTOSCOPY, tmp_path / "data", overlays=["scratch.json"])
    items = [{"id": f"{number}", "image": "-", "label": number % 2, "group": f"{number}"} for number in range(4)]
    bundle.datalist = Datalist(items, ("ill", "well"))
    return bundle


def test_the_network_of_a_failed_run_leaves_the_memory(bundle, tmp_path, monkeypatch):
    left = []

    def fail(self):
        engine = Knot()
        left.append(weakref.ref(engine))
        raise ValueError("no")

    monkeypatch.setattr(BundleConfig, "trainer", fail)
    with pytest.raises(ValueError, match=r"^no$"):
        bundle.train(ARMS["chain"], SPLIT, tmp_path / "run", {}, cache_dir=tmp_path)
    gc.collect()
    assert left[0]() is None


def test_a_run_gets_its_split_its_settings_and_its_places(bundle, tmp_path, monkeypatch):
    seen = []

    class Trainer:
        def run(self):
            pass

    monkeypatch.setattr(BundleConfig, "trainer", lambda self: seen.append(self) or Trainer())
    bundle.train(ARMS["chain"], SPLIT, tmp_path / "run", {"chain#pool_ratio": 3}, cache_dir=tmp_path / "cache")
    [config] = seen
    assert {item["id"]: item["split"] for item in config.value("datalist").items} == SPLIT.split_of
    assert config.value("chain").pool_ratio == 3
    assert (config["output_dir"], config["cache_dir"]) == (str(tmp_path / "run"), str(tmp_path / "cache"))
    assert config["train#monitors"] == []
    assert config["train#checkpoint"] is None
    # the next run begins with the configuration as it was
    assert bundle.config["chain#pool_ratio"] == 1


def test_the_size_of_a_chain_is_that_of_its_configuration(bundle, tmp_path):
    size = bundle.size
    assert (size.plan.num_stages, size.plan.policy, size.chain.pool_ratio) == (3, "cumulative", 1)
    assert size.max_epochs == 36


@pytest.mark.parametrize("overlays", [[], ["scratch.json"], ["scratch.json", "pretrained.json"]])
def test_each_kind_of_arm_has_its_configuration(tmp_path, overlays):
    bundle = ComparedBundle(OTOSCOPY, tmp_path, overlays=overlays, changes={"num_stages": 5, "learning_rate": 0.5})
    solved, trained = (bundle.config_of(ARMS[name]) for name in ("solved", "single"))
    assert bundle.config_of(ARMS["chain"]) is bundle.config is (trained if overlays else solved)
    assert bundle.solved == (not overlays)
    assert solved["network_def"]["_target_"] == "monai_weckd.networks.PooledClassifier"
    assert trained["network_def"]["_target_"] == ("monai_weckd.networks.EfficientNetLite" if overlays[1:] else "ResNet")
    # what one kind takes goes to it alone, and what both take to both
    assert (solved["num_stages"], trained["num_stages"], trained["learning_rate"]) == (5, 5, 0.5)
    assert "learning_rate" not in solved
    for config in (solved, trained):
        assert (config["train#monitors"], config["train#checkpoint"]) == ([], None)


@pytest.mark.parametrize("overlays", [[], ["scratch.json"]])
def test_a_solved_stage_stays_one_iteration(tmp_path, overlays):
    changes = {"max_epochs": 60, "iterations_per_epoch": 7}
    bundle = ComparedBundle(OTOSCOPY, tmp_path, overlays=overlays, changes=changes)
    solved, trained = (bundle.config_of(ARMS[name]) for name in ("solved", "single"))
    assert (trained["max_epochs"], trained["iterations_per_epoch"]) == (60, 7)
    assert (solved.value("max_epochs"), solved["iterations_per_epoch"]) == (3, 1)


def test_both_kinds_draw_labels_alike(tmp_path):
    changes = {"missing_classes": "allow"}
    bundle = ComparedBundle(OTOSCOPY, tmp_path, overlays=["scratch.json", "paper.json"], changes=changes)
    plans = [bundle.config_of(ARMS[name]).value("plan#settings") for name in ("solved", "single")]
    assert plans[0] == plans[1]
    assert (plans[0].policy, plans[0].stratify, plans[0].missing_classes) == ("disjoint", True, "allow")


def test_a_key_of_no_kind_is_refused(tmp_path):
    for overlays in ([], ["scratch.json"]):
        with pytest.raises(ValueError, match=r"set: expected a key of .*train\.json, got 'batchsize'"):
            ComparedBundle(OTOSCOPY, tmp_path, overlays=overlays, changes={"batchsize": 8})


def test_a_bundle_without_the_other_kind_says_so(tmp_path):
    shutil.copytree(OTOSCOPY / "configs", tmp_path / "bundle" / "configs")
    (tmp_path / "bundle" / "configs" / "scratch.json").write_text("{}")
    bundle = ComparedBundle(tmp_path / "bundle", tmp_path)
    assert bundle.config_of(ARMS["solved"]) is bundle.config
    with pytest.raises(ValueError, match=r"bundle: expected train\.json with scratch\.json to train step by step, got"):
        bundle.config_of(ARMS["single"])


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Make a data set, and return how a bundle with it is described to another process, by relative paths."""
    make_phantom("otoscopy", tmp_path / "data", items=24)
    monkeypatch.chdir(tmp_path)
    rows = csv.DictReader((tmp_path / "data" / "manifest.csv").open())
    Path("folds.json").write_text(json.dumps({row["file"]: n % 2 for n, row in enumerate(rows)}))
    Path("my.json").write_text('{"num_stages": 2}')
    options = {"overlays": ["scratch.json", "my.json"], "changes": {"split_file": "folds.json", "batch_size": 4}}
    bundle = ComparedBundle(OTOSCOPY, "data", **options)
    source = pickle.loads(pickle.dumps(bundle.source))
    assert source.open() is bundle
    # another process knows nothing of it, and stands elsewhere
    training._open.clear()
    monkeypatch.chdir("/")
    return bundle, source


def test_another_process_opens_the_same_bundle(elsewhere, tmp_path, monkeypatch):
    bundle, source = elsewhere
    other = source.open()
    assert other is not bundle
    assert other is source.open()
    assert (other.config["num_stages"], other.config["batch_size"]) == (2, 4)
    assert (other.datalist.items, other.folds) == (bundle.datalist.items, bundle.folds)
    split = FoldSplit(0, 0, {item["id"]: ("train", "test")[n % 2] for n, item in enumerate(bundle.datalist.items)})
    digests = [other.digest(ARMS[name], split, seed=1) for name in ("chain", "solved")]
    monkeypatch.chdir(tmp_path)
    assert digests == [bundle.digest(ARMS[name], split, seed=1) for name in ("chain", "solved")]


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("data/manifest.csv", lambda text: text.replace(",earwax_plug,", ",normal,", 1)),
        ("my.json", lambda text: text.replace("2", "3")),
        ("folds.json", lambda text: text.replace(": 0", ": 1", 1)),
    ],
)
def test_another_process_with_other_files_refuses(elsewhere, tmp_path, file, change):
    path = tmp_path / file
    path.write_text(change(path.read_text()))
    with pytest.raises(ValueError, match="worker: expected the bundle, data and version of the first machine"):
        elsewhere[1].open()
