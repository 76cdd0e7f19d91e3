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
import shutil

import numpy as np
import pytest
import torch
from bundle_runs import OTOSCOPY, SMALL_IMAGES

from monai_weckd.data import load_datalist
from monai_weckd.fl import SiteBundle, add_sums, solve_exact
from monai_weckd.fl.bundle import shared_config, without_images
from monai_weckd.networks.features import extract
from monai_weckd.predict.model import PredictionBundle

# a third of the features, of small images
SMALL = {**SMALL_IMAGES["otoscopy"], **{f"network_def#{name}": [] for name in ("layers", "flip_average")}}
SMALL["network_def#shrink"] = [1]


def part(source, target, rows):
    """Write some rows of a data set as another one, with their images."""
    target.mkdir()
    for row in rows:
        (target / row["file"]).parent.mkdir(exist_ok=True)
        shutil.copy(source / row["file"], target / row["file"])
    with (target / "manifest.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return target


@pytest.fixture(scope="module")
def folders(copy_ears, tmp_path_factory):
    """All images, and those of two sites, the second of which lacks a class and has images for test."""
    root = tmp_path_factory.mktemp("sites")
    (root / "all").mkdir()
    whole = copy_ears(root / "all", 40)
    with (whole / "manifest.csv").open(newline="") as file:
        rows = [{**row, "split": "train"} for row in csv.DictReader(file)]
    groups = sorted({row["group"] for row in rows})
    rare = sorted({row["label"] for row in rows})[0]
    first = set(groups[: len(groups) // 3]) | {row["group"] for row in rows if row["label"] == rare}
    north = [row for row in rows if row["group"] in first]
    south = [row for row in rows if row["group"] not in first]
    last = south[-1]["group"]
    south = [{**row, "split": "test"} if row["group"] == last else row for row in south]
    return {
        "north": part(whole, root / "north", north),
        "south": part(whole, root / "south", south),
        "all": part(whole, root / "pooled", north + south),
    }


@pytest.fixture(scope="module")
def bundle(folders):
    return SiteBundle(OTOSCOPY, classes=load_datalist(folders["all"]).classes, changes=SMALL)


def solve(sites):
    moments = add_sums({name: site.moments() for name, site in sites.items()})
    products = add_sums({name: site.products(moments) for name, site in sites.items()})
    return solve_exact(
        moments, products, add_sums({name: site.held_out(moments, products) for name, site in sites.items()})
    )


@pytest.fixture(scope="module")
def heads(bundle, folders):
    """The head of two sites, and that of pooled images."""
    sites = {name: bundle.site(folder) for name, folder in folders.items()}
    pooled = solve({"all": sites.pop("all")})
    return solve(sites), pooled


def test_two_folders_give_the_head_of_pooled_images(heads):
    for name in ("weight", "bias"):
        # the features are of single precision, and of other batches
        np.testing.assert_allclose(getattr(heads[0], name), getattr(heads[1], name), rtol=1e-4, atol=1e-6)
    assert heads[0].labels == heads[1].labels


def test_images_for_test_are_left_out(heads, folders):
    splits = [item["split"] for item in load_datalist(folders["all"]).items]
    assert 0 < heads[1].labels == splits.count("train") < len(splits)


def test_the_model_is_one_that_predict_runs(heads, bundle, folders, tmp_path):
    path = bundle.write(heads[0], tmp_path / "joint")
    chain = json.loads((tmp_path / "joint" / "chain.json").read_text())
    assert chain["classes"] == list(bundle.classes)
    model = PredictionBundle(OTOSCOPY, path, changes=SMALL)
    image = load_datalist(folders["all"]).items[0]["image"]
    found = model.predict(model.load(image)[None])
    assert found.shape == (1, 4)
    state = torch.load(path, weights_only=True)
    assert torch.equal(state["classifier.weight"], heads[0].weight.float())


def test_a_model_is_not_overwritten(heads, bundle, tmp_path):
    (tmp_path / "model.pt").touch()
    with pytest.raises(FileExistsError, match=r"output_dir: expected no model.pt in .*, got one\. Pass another"):
        bundle.write(heads[0], tmp_path)


def test_sites_of_other_classes_or_image_sizes_are_not_the_same(bundle):
    assert bundle.identity == SiteBundle(OTOSCOPY, classes=bundle.classes, changes=SMALL).identity
    assert bundle.identity != SiteBundle(OTOSCOPY, classes=bundle.classes[::-1], changes=SMALL).identity
    assert bundle.identity != SiteBundle(OTOSCOPY, classes=bundle.classes).identity


def test_a_label_that_is_not_a_class_is_refused(folders):
    bundle = SiteBundle(OTOSCOPY, classes=("earwax", "fluid"), changes=SMALL)
    with pytest.raises(ValueError, match=r"expected one of the 2 classes, got "):
        bundle.site(folders["south"])


def test_findings_are_refused():
    with pytest.raises(ValueError, match=r"bundle: expected one class an image, got chest_xray_chain_classification"):
        SiteBundle(OTOSCOPY.parent / "chest_xray_chain_classification")


def test_a_network_that_is_trained_is_refused():
    with pytest.raises(ValueError, match=r"bundle: expected a frozen network in .*, got one that is trained"):
        SiteBundle(OTOSCOPY, overlays=["scratch.json"])


def test_a_network_that_the_sites_have_trained_gets_the_head_of_all(folders, tmp_path):
    small = {"spatial_size": [32, 32], "network_def#block_inplanes": [4, 4, 8, 8]}
    given = {"overlays": ["scratch.json"], "changes": small, "classes": load_datalist(folders["all"]).classes}
    network = without_images(*shared_config(OTOSCOPY, **given)).value("network_def")
    bundle = SiteBundle(OTOSCOPY, **given, weights=network.state_dict())
    head = solve({name: bundle.site(folder) for name, folder in folders.items() if name != "all"})
    assert not head.bounded
    path = bundle.write(head, tmp_path, [{"stage": 1, "site": "north"}])
    stages = json.loads((tmp_path / "chain.json").read_text())["stages"]
    assert [(stage["stage"], stage.get("labeled")) for stage in stages] == [(1, None), (2, head.labels)]
    state = torch.load(path, weights_only=True)
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    assert all(torch.equal(state[name], value) for name, value in kept.items())
    model = PredictionBundle(OTOSCOPY, path, overlays=["inference_scratch.json"], changes=small)
    images = torch.stack([torch.as_tensor(model.load(item["image"])) for item in load_datalist(folders["all"]).items])
    features = extract(network, iter([images]))[0].double()
    logits = ((features - head.mean) / head.deviation).nan_to_num(0, 0, 0) @ head.weight.T + head.bias
    np.testing.assert_allclose(model.predict(images), torch.softmax(logits, dim=1), atol=1e-4)


def test_weights_of_a_frozen_network_are_refused():
    with pytest.raises(ValueError, match=r"bundle: expected a network that is trained, got one whose head is solved"):
        SiteBundle(OTOSCOPY, weights={})
