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

import gc
import weakref
from pathlib import Path

import pytest

from monai_weckd.bundle import BundleConfig
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.data import Datalist

OTOSCOPY = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"
SPLIT = FoldSplit(0, 0, {"0": "train", "1": "train", "2": "val", "3": "test"})


class Knot:
    """What refers to itself, as engines do by their handlers."""

    def __init__(self):
        self.engine = self


@pytest.fixture
def bundle(tmp_path):
    bundle = ComparedBundle(OTOSCOPY, tmp_path / "data")
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
        bundle.train(SPLIT, tmp_path / "run", {}, cache_dir=tmp_path)
    gc.collect()
    assert left[0]() is None


def test_a_run_gets_its_split_its_settings_and_its_places(bundle, tmp_path, monkeypatch):
    seen = []

    class Trainer:
        def run(self):
            pass

    monkeypatch.setattr(BundleConfig, "trainer", lambda self: seen.append(self) or Trainer())
    bundle.train(SPLIT, tmp_path / "run", {"chain#pool_ratio": 3}, cache_dir=tmp_path / "cache")
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
    assert (size.max_epochs, size.frozen, size.unfreezes) == (36, False, False)
    for unfreeze in (False, True):
        frozen = ComparedBundle(
            OTOSCOPY, tmp_path, overlays=["frozen.json"], changes={"backbone#unfreeze_last": unfreeze}
        ).size
        assert (frozen.frozen, frozen.unfreezes) == (True, unfreeze)
