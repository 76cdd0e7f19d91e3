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

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES, OTOSCOPY, SMALL, refusal, run_bundle, train

from monai_weckd.data.phantoms import make_phantom

SPATIAL = BUNDLES / "brain_mri_3d_chain_classification"
FLIP = {"_target_": "monai_weckd.transforms.BatchRandFlip"}
FROZEN = {"overlays": ["frozen"], "chain#accept": "always"}
HEADS = {**FROZEN, "embedding_views": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_phantom("otoscopy", tmp_path_factory.mktemp("phantom") / "data", items=96, seed=0)


@pytest.fixture(scope="module")
def frozen(dataset, tmp_path_factory):
    path = tmp_path_factory.mktemp("run") / "output"
    train(OTOSCOPY, dataset, path, **HEADS)
    return path


def weights(output, name="model.pt"):
    """Return the tensors of the head and all others of a saved student."""
    state = torch.load(output / name, weights_only=True)
    return [{key: one for key, one in state.items() if key.startswith("fc.") is inside} for inside in (True, False)]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def probabilities(path, key):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name.startswith("probability_")]
    return {row[key]: [float(row[name]) for name in names] for row in rows if row.get("split", "test") == "test"}


def predict(bundle, dataset, output, tmp_path):
    """Run inference.json, without this package, on the images; returns the probabilities by path."""
    path = tmp_path / "inference.csv"
    places = {"dataset_dir": str(dataset), "ckpt_path": str(output / "model.pt"), "predictions_path": str(path)}
    done = run_bundle(bundle, "inference", blocked=True, **places)
    assert done.returncode == 0, done.stderr[-3000:]
    return probabilities(path, "file")


def test_all_students_share_the_backbone(frozen):
    heads, bodies = zip(*(weights(frozen, f"stage_{stage}/model.pt") for stage in (1, 2, 3)), strict=True)
    assert same(bodies[0], bodies[1])
    assert same(bodies[0], bodies[2])
    assert len(bodies[0]) > 20
    assert not same(heads[0], heads[1])
    assert not same(heads[1], heads[2])


def test_output_is_that_of_any_chain(frozen):
    chain = json.loads((frozen / "chain.json").read_text())
    assert chain["settings"]["embedding_views"] == 2
    assert chain["cost"] is None
    assert all(stage["val"] and stage["test"] for stage in chain["stages"])
    errors = json.loads((frozen / "errors" / "errors.json").read_text())["errors"]
    assert all((frozen / "errors" / error["file"]).exists() for error in errors)
    assert "<html" in (frozen / "report.html").read_text()


def test_images_get_the_probabilities_of_their_embeddings(dataset, frozen, tmp_path):
    found = predict(OTOSCOPY, dataset, frozen, tmp_path)
    expected = probabilities(frozen / "predictions.csv", "id")
    assert len(expected) > 10
    # the bundle keeps test images in half precision, which inference.json does not; without that it is 1e-6, see
    # tests/handlers/test_backbone.py
    for key, row in expected.items():
        assert found[str(dataset / key)] == pytest.approx(row, abs=1e-4)


def test_embeddings_in_a_file_are_those_in_memory(dataset, frozen, tmp_path):
    expected = probabilities(frozen / "predictions.csv", "id")
    for name in ("one", "two"):
        train(OTOSCOPY, dataset, tmp_path / name, **HEADS, cache_dir=tmp_path / "cache")
        found = probabilities(tmp_path / name / "predictions.csv", "id")
        # computed in other batches
        assert found == {key: pytest.approx(row, abs=1e-4) for key, row in expected.items()}
    assert (tmp_path / "one" / "predictions.csv").read_bytes() == (tmp_path / "two" / "predictions.csv").read_bytes()
    # the training images with their views; those of validation and test
    assert len(list((tmp_path / "cache").glob("embeddings_*"))) == 2


def test_the_last_stage_may_train_the_whole_network(dataset, tmp_path):
    out = tmp_path / "out"
    options = {**FROZEN, "backbone#unfreeze_last": True, "embedding_views": 1}
    train(OTOSCOPY, dataset, out, **options)
    bodies = [weights(out, f"stage_{stage}/model.pt")[1] for stage in (1, 2, 3)]
    assert same(bodies[0], bodies[1])
    assert not any(torch.equal(bodies[0][key], one) for key, one in bodies[2].items() if one.numel() > 1)
    found, expected = predict(OTOSCOPY, dataset, out, tmp_path), probabilities(out / "predictions.csv", "id")
    assert max(np.abs(np.subtract(found[str(dataset / key)], row)).max() for key, row in expected.items()) < 2e-4


def test_volumes_have_embeddings_too(tmp_path):
    data, out = make_phantom("brain_mri_3d", tmp_path / "data", items=36), tmp_path / "out"
    options = {**FROZEN, "backbone#unfreeze_last": True, "embedding_views": 1}
    train(SPATIAL, data, out, **options, spatial_size=[24, 24, 24])
    bodies = [weights(out, f"stage_{stage}/model.pt")[1] for stage in (1, 2, 3)]
    assert same(bodies[0], bodies[1])
    assert not same(bodies[1], bodies[2])


def test_the_teacher_s_weak_view_is_the_image_itself(dataset, tmp_path):
    weak = {"_target_": "monai_weckd.transforms.BatchAugment", "transforms": [FLIP]}
    options = {"overlays": ["frozen"], "train#prepare_batch#teacher_augment": weak, "chain#teacher": "student"}
    options |= {"chain#averaging": 0.9, "loss_function#threshold": 0.3, "loss_function#hard_labels": True}
    chain = train(OTOSCOPY, dataset, tmp_path / "out", **options)
    assert len(chain["stages"]) == 3
    bodies = [weights(tmp_path / "out", f"stage_{stage}/model.pt")[1] for stage in (1, 3)]
    assert same(*bodies)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backbone#freeze": False, "backbone#unfreeze_last": True},
            "unfreeze_last: expected False without freeze, got True",
        ),
        ({"loss_function#attention_weight": 1.0}, "attention_weight: expected 0 with a frozen backbone, got 1.0"),
        ({"chain#head_layer": "layer5"}, "path: expected a module of ResNet, got 'layer5'.*'layer4'"),
        ({"chain#head_layer": "layer4"}, r"head_layer: expected a layer with an input of shape \(B, D"),
        ({"embedding_views": -1}, "views: expected 0 without augment, and never less, got -1"),
    ],
)
def test_refuses_in_one_line(dataset, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    line = refusal(OTOSCOPY, overlays=["frozen"], dataset_dir=str(dataset), output_dir="out", **SMALL, **options)
    assert re.search(message, line), line
    assert "\n" not in line
