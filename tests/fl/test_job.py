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

import numpy as np
import pytest
import torch
from bundle_runs import OTOSCOPY
from test_bundle import SMALL
from test_chain_rounds import SMALL as SMALL_CHAIN

from monai_weckd.__main__ import main
from monai_weckd.data import load_datalist
from monai_weckd.fl import SiteBundle
from monai_weckd.fl.exact_rounds import SiteAnswer, solve_over_sites

pytest.importorskip("nvflare", reason="federations want the extra 'flare'")

# the simulator starts a process for each site, which imports MONAI: seconds each on an idle machine


def federate(root, sites, *options, changes=SMALL):
    """Run a federation in the simulator, and return the exit code."""
    changes = [f"--set={key}={value}" for key, value in changes.items()]
    where = {"dataset_dir": root / "{site}", "output_dir": root / "out" / "{site}", "job_dir": root / "job"}
    folders = [f"--{name}={path}" for name, path in where.items()]
    command = ["federate", f"--bundle={OTOSCOPY}", f"--sites={sites}", "--simulate", "--hours=0.1"]
    return main([*command, *folders, *changes, *options])


@pytest.fixture
def root(copy_ears, tmp_path):
    """A folder with the images of three sites."""
    for site, items in {"north": 24, "south": 40, "west": 48}.items():
        (tmp_path / site).mkdir()
        copy_ears(tmp_path / site, items)
    return tmp_path


def test_sites_get_the_head_that_their_sums_give(root):
    assert federate(root, "north,south") == 0
    states = [torch.load(path, weights_only=True) for path in sorted(root.glob("out/*/model.pt"))]
    assert len(states) == 2
    bundle = SiteBundle(OTOSCOPY, changes=SMALL)
    sites = {site: bundle.site(root / site) for site in ("north", "south")}
    head, _ = solve_over_sites(
        lambda task, totals, names: {one: SiteAnswer(getattr(sites[one], task)(*totals.values())) for one in names},
        list(sites),
    )
    for state in states:
        np.testing.assert_allclose(state["classifier.weight"], head.weight.float(), rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_a_site_that_fails_is_named_or_left_out(root, capsys):
    broken = load_datalist(root / "south").items[0]["image"]
    with open(broken, "wb") as file:
        file.write(b"not an image")
    assert federate(root, "north,south,west") == 1
    assert "got none of south: ValueError, see its log" in capsys.readouterr().err
    assert not list(root.glob("out/*/model.pt"))
    assert federate(root, "north,south,west", "--on_missing=skip") == 0
    assert sorted(path.parent.name for path in root.glob("out/*/model.pt")) == ["north", "west"]


def test_a_chain_goes_from_site_to_site(root):
    assert federate(root, "west,north,south", "--mode=chain", "--config_file=scratch.json", changes=SMALL_CHAIN) == 0
    models = sorted(root.glob("out/*/model.pt"))
    assert [path.parent.name for path in models] == ["north", "south", "west"]
    assert len({path.read_bytes() for path in models}) == 1
    chain = json.loads(models[0].with_name("chain.json").read_text())
    assert [stage["site"] for stage in chain["stages"]] == ["west", "north", "south"]
