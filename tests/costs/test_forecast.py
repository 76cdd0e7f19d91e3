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

from pathlib import Path

from PIL import Image
from step_costs import COSTS, OPTIONS

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.costs import forecast
from monai_weckd.costs.estimate import estimate_cost
from monai_weckd.data.datalist import load_datalist, plan_datalist
from monai_weckd.plan.settings import PlanSettings


def test_a_forecast_is_the_estimate_of_the_bundles_chain(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(30):
            Image.new("RGB", (8, 9)).save(tmp_path / name / f"{number}.png")
    datalist = load_datalist(tmp_path)
    asked = {}

    def probe(network, optimizer, **options):
        assert {id(weight) for weight in network.parameters()} == {
            id(weight) for group in optimizer.param_groups for weight in group["params"]
        }
        asked.update(options)
        return COSTS

    monkeypatch.setattr(forecast, "probe_costs", probe)
    stages, chain = [1, 2, 9], {"views": 3, "teacher_cache": True, "pool_ratio": 2}
    changes = {"spatial_size": [16, 20], "val_interval": 2, "chain#stage_epochs": stages}
    changes |= {"max_epochs": OPTIONS["max_epochs"], "iterations_per_epoch": OPTIONS["epoch_length"]}
    changes |= {"batch_size": OPTIONS["batch_size"], **{f"chain#{name}": value for name, value in chain.items()}}
    bundle = Path(__file__).parents[2] / "bundles" / "otoscopy_chain_classification"
    config = BundleConfig(bundle, overlays=["scratch.json"], changes=changes)
    plan = plan_datalist(datalist, PlanSettings(label_fraction=0.2))
    lines = list(forecast.forecast_cost(config, plan, datalist))
    assert lines[0].endswith("images of 3 x 16 x 20:")
    expected = estimate_cost(plan, COSTS, pool_ratio=2, views=3, stage_epochs=stages, val_interval=2, **OPTIONS)
    assert lines[2] == "  stages    " + " + ".join(f"{value:.1f}" for value in expected.seconds) + " s"
    assert lines[3].startswith("  in all    120 steps, ")
    found = {name: asked[name] for name in ("image_shape", "num_classes", "batch_size", "pool_ratio", "item_bytes")}
    shape = (3, 16, 20)
    assert found == {"image_shape": shape, "num_classes": 2, "batch_size": 4, "pool_ratio": 2, "item_bytes": 960}
    assert len(asked["load"]) == 4
    assert asked["load"][0]()["image"].shape == shape
