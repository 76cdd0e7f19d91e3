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

import pytest
from bundle_runs import BUNDLES

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
