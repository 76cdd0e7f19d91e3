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

import pytest
import torch
from annotation_runs import make_bundle

from monai_weckd.annotation import find_items


@pytest.fixture
def parts(studies, tmp_path):
    return make_bundle(studies, tmp_path)._parts


@pytest.fixture
def items(studies):
    return [item for item in find_items(studies, spatial_dims=2) if "broken" not in item["id"]][:4]


def test_a_new_network_has_the_weights_before_the_first_stage(parts):
    first = parts.new_network()
    expected = {name: value.clone() for name, value in first.state_dict().items()}
    with torch.no_grad():
        for network in (first, parts.network):
            for weight in network.parameters():
                weight.zero_()
    for network in (parts.new_network(), parts.load(None)):
        assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())
    assert parts.load(None) is parts.network


def test_images_are_read_once_until_they_change(parts, items, monkeypatch):
    read, read_images = [], parts._read
    monkeypatch.setattr(parts, "_read", lambda given: read.append([item["id"] for item in given]) or read_images(given))
    ids = [item["id"] for item in items]
    first = parts.dataset(items[:2])
    again = parts.dataset(items[1::-1])
    assert [item["id"] for item in again.data] == ids[1::-1]
    assert torch.equal(parts.embeddings(again), parts.embeddings(first).flip(0))
    assert read == [ids[:2]]
    parts.dataset(items[3:])
    assert read[1:] == [[*ids[:2], ids[3]]]
