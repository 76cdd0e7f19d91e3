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

"""What holds for the bundles' configurations as they are written."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import BUNDLES
from monai.bundle import ConfigParser
from PIL import Image

TRAIN = sorted(BUNDLES.glob("*/configs/train.json"))


def leaves(config: Any) -> Iterator[Any]:
    """Go through the values of a nested configuration."""
    if isinstance(config, (dict, list)):
        for part in config.values() if isinstance(config, dict) else config:
            yield from leaves(part)
    else:
        yield config


def name(path):
    return f"{path.parts[-3]}/{path.name}"


@pytest.mark.parametrize("path", TRAIN, ids=name)
def test_a_training_can_be_read_through(path):
    text = path.read_text(encoding="utf-8")
    config = json.loads(text)
    assert len(text.splitlines()) <= 300
    assert len(config) <= 36
    assert sum(isinstance(leaf, str) and leaf.startswith("$") for leaf in leaves(config)) <= 30


def test_there_are_five_bundles():
    assert len(TRAIN) == 5


@pytest.mark.parametrize("path", sorted(BUNDLES.glob("*/configs/*.json")), ids=name)
def test_all_are_written_in_one_form(path):
    spec = importlib.util.spec_from_file_location("build", BUNDLES / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    text = path.read_text(encoding="utf-8")
    assert text == build.to_text(json.loads(text))


def preprocessing(kind, config, place):
    """Return the transforms of a bundle's configuration as they are written."""
    parser = ConfigParser()
    parser.read_config(BUNDLES / f"{kind}_chain_classification" / "configs" / f"{config}.json")
    parser.get_parsed_content("imports")
    return parser.get_parsed_content(place)


DEEP = {
    "gray.png": lambda values: values,
    "12 bits.png": lambda values: values >> 4,
    "gray.tif": lambda values: values,
    "wide.tif": lambda values: values.astype(np.int32),
    "negative.tif": lambda values: values.astype(np.int32) - 9000,
    "float.tif": lambda values: values.astype(np.float32),
    "fraction.tif": lambda values: (values / 65535).astype(np.float32),
}


@pytest.mark.parametrize("name", [*DEEP, "8 bits.png"])
@pytest.mark.parametrize("config", ["inference", "evaluate"])
def test_stock_monai_reads_slices_of_any_depth_as_in_training(tmp_path, name, config):
    values = np.random.default_rng(0).integers(0, 65536, (20, 30)).astype(np.uint16)
    deep = DEEP[name](values) if name in DEEP else (values >> 8).astype(np.uint8)
    Image.fromarray(deep).save(tmp_path / name)
    item = {"image": str(tmp_path / name)}
    found = preprocessing("brain_mri", config, "preprocessing")(item)["image"]
    expected = preprocessing("brain_mri", "train", "train#preprocessing")(item)["image"]
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(torch.as_tensor(found), expected, atol=1e-5, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("kind", ["otoscopy", "blood_smear"])
def test_pictures_of_more_than_8_bits_are_refused_where_0_to_255_is_scaled(tmp_path, kind, name):
    Image.fromarray(DEEP[name](np.arange(0, 60000, 100, dtype=np.uint16).reshape(20, 30))).save(tmp_path / name)
    item = {"image": str(tmp_path / name)}
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        preprocessing(kind, "train", "train#preprocessing")(item)
    assert "expected values of 8 bits, 0 to 255, got" in str(caught.value.__cause__)
    # stock MONAI has no such check: the network refuses one channel
    assert len(preprocessing(kind, "inference", "preprocessing")(item)["image"]) == 1
