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

import numpy as np
from phantom_files import contents
from PIL import Image

from monai_weckd.data import load_datalist
from monai_weckd.data.phantoms import is_phantom, make_phantom
from monai_weckd.data.phantoms.chest import CHEST_FINDINGS, CHEST_PATTERNS, draw_chest


def test_a_set_of_findings_says_that_it_is_synthetic_and_has_each_in_every_split(tmp_path):
    folder = make_phantom("chest_xray", tmp_path / "set", items=60)
    assert is_phantom(folder)
    assert "Findings, several of which an image may show: cardiomegaly, effusion, nodule" in (
        folder / "SOURCE.md"
    ).read_text(encoding="utf-8")
    found = load_datalist(folder, findings=True)
    assert found.classes == CHEST_FINDINGS
    assert found.passed_over.text() == ""
    for split in ("train", "val", "test"):
        labels = np.stack([item["label"] for item in found.items if item["split"] == split])
        assert all({0, 1} <= set(column) for column in labels.T)
    labels = np.stack([item["label"] for item in found.items])
    assert (labels == -1).any()
    heart, fluid = labels[:, 0] == 1, labels[:, 1] == 1
    assert fluid[heart].mean() > 0.5 > fluid[~heart].mean()


def test_same_bytes_again_and_fewer_items_are_the_beginning_of_more(tmp_path):
    first, again, other = (
        contents(make_phantom("chest_xray", tmp_path / name, items=7, seed=seed))
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    assert first == again != other
    more = make_phantom("chest_xray", tmp_path / "more", items=12)
    with open(more / "manifest.csv", newline="") as few, open(tmp_path / "first" / "manifest.csv", newline="") as many:
        assert list(csv.reader(few))[:8] == list(csv.reader(many))


def test_a_finding_changes_the_picture_where_it_is():
    for seed in range(3):
        pictures = {
            pattern: draw_chest(pattern, np.random.default_rng([seed, 1]), np.random.default_rng([seed, 2])).astype(int)
            for pattern in CHEST_PATTERNS
        }
        for name in CHEST_FINDINGS:
            changed = np.abs(pictures.get(name, pictures["effusion"]) - pictures[""]) > 20
            assert 0.001 < changed.mean() < 0.25, name
        assert pictures[""].shape == (128, 128)


def test_pictures_are_gray(tmp_path):
    folder = make_phantom("chest_xray", tmp_path / "set", items=6)
    assert {Image.open(path).mode for path in folder.rglob("*.png")} == {"L"}
