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

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from backbone_folders import COLORS, changed, write
from safetensors.torch import load_file

from monai_weckd.networks.checkpoint_folder import read_checkpoint


def without(name):
    return lambda folder: (folder / name).unlink()


def hub(folder):
    (folder / "config.json").unlink()
    (folder / "hubconf.py").write_text("raise SystemExit")


def index_outside(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../other.safetensors"}}))


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Path("x")}, folder / "pytorch_model.bin")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory):
    return write(tmp_path_factory.mktemp("dinov2"))


@pytest.fixture
def folder(dinov2, tmp_path):
    return shutil.copytree(dinov2, tmp_path / "copy")


def test_a_folder_of_transformers_is_what_its_files_say(folder):
    found = read_checkpoint(folder)
    assert found.config["model_type"] == "dinov2"
    mean, std = COLORS.values()
    assert found.preprocessing == {"mean": mean, "std": std, "rescale_factor": 1 / 255, "size": 224}
    stored = load_file(folder / "model.safetensors")
    assert found.weights.keys() == stored.keys()
    assert all(torch.equal(found.weights[name], value) for name, value in stored.items())
    names = ("config.json", "preprocessor_config.json", "model.safetensors")
    assert found.files == {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_of_several_files_of_weights_the_one_that_is_passed_counts(folder):
    torch.save({"other": torch.ones(1)}, folder / "mine.bin")
    assert "other" not in read_checkpoint(folder).weights
    found = read_checkpoint(folder / "mine.bin")
    assert list(found.weights) == ["other"]
    assert list(found.files) == ["config.json", "preprocessor_config.json", "mine.bin"]


@pytest.mark.parametrize(
    ("changes", "side"), [({}, 224), ({"crop_size": None}, 256), ({"crop_size": None, "size": 518}, 518)]
)
def test_the_size_of_an_image_is_that_of_its_crop(folder, changes, side):
    changed(folder, "preprocessor_config.json", **changes)
    assert read_checkpoint(folder).preprocessing["size"] == side


def test_beside_a_text_tower_the_configuration_of_images_counts(folder):
    changed(folder, "config.json", model_type="clip", vision_config={"model_type": "clip_vision_model"})
    assert read_checkpoint(folder).config == {"model_type": "clip_vision_model"}


def clip_without_timm(folder):
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"vision_cfg": {"layers": 12}}}))


def index_of_an_absent_file(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "other.safetensors"}}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("config.json"), "path: expected config.json or open_clip_config.json"),
        (without("preprocessor_config.json"), "path: expected preprocessor_config.json"),
        (without("model.safetensors"), "path: expected one of model.safetensors"),
        (hub, "A torch.hub repository is code, which is not executed"),
        (index_outside, "path: expected a weight_map to files of its folder"),
        (index_of_an_absent_file, r"path: expected all files of .* got none named other\.safetensors\. Copy it, too"),
        (pickled, "path: expected a file with a network's weights, got a pickle"),
        (clip_without_timm, "path: expected a vision tower of timm in .* got another"),
        (lambda folder: (folder / "config.json").write_text("{"), "path: expected JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "path: expected an object"),
        (lambda folder: changed(folder, "preprocessor_config.json", image_mean=None), "expected three numbers as mean"),
        (lambda folder: changed(folder, "preprocessor_config.json", image_std=[0, 1, 1]), "expected positive standard"),
        (lambda folder: changed(folder, "preprocessor_config.json", crop_size=None, size=None), "expected the size"),
    ],
)
def test_a_folder_that_lacks_something_is_refused(damage, message, folder):
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(folder)
    assert "\n" not in str(error.value)


def test_a_path_is_asked_for():
    with pytest.raises(
        ValueError, match=r"path: expected a folder with a vision network, got None\. Pass backbone_path"
    ):
        read_checkpoint(None)
