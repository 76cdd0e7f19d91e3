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

from collections import Counter

import pytest
from phantom_files import GROUP_SIZES, KINDS, manifest

from monai_weckd.data.phantoms.items import PhantomItem, phantom_items


@pytest.mark.parametrize("count", [4, 10, 240, 243])
def test_items_spread_evenly(count):
    items = phantom_items("otoscopy", count, 0, classes=("a", "b", "c", "d"), group="ear", sizes=(2, 4))
    labels = Counter(item.label for item in items)
    assert len(items) == sum(labels.values()) == count
    assert max(labels.values()) - min(labels.values()) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_groups_hold_several_items_of_one_class(phantoms, kind):
    rows = manifest(phantoms[kind])
    assert len({(row["group"], row["label"]) for row in rows}) == len({row["group"] for row in rows})
    sizes = Counter(row["group"] for row in rows)
    last = {row["label"]: row["group"] for row in rows}.values()
    low, high = GROUP_SIZES[kind]
    assert all(low <= size <= high for group, size in sizes.items() if group not in last)
    assert len(rows) / len(sizes) > 1.2


def test_every_generator_is_its_own():
    items = [
        PhantomItem(*names)
        for names in (
            ("otoscopy", 0, "a", "ear_0001", 1, 0),
            ("otoscopy", 0, "a", "ear_0001", 1, 1),
            ("otoscopy", 0, "a", "ear_0002", 2, 0),
            ("otoscopy", 1, "a", "ear_0001", 1, 0),
            ("blood_smear", 0, "a", "ear_0001", 1, 0),
        )
    ]
    own = {item.of_item().random() for item in items}
    shared = [item.of_group().random() for item in items]
    assert len(own) == 5
    assert shared[0] == shared[1]
    assert len(set(shared)) == 4
    assert not own & set(shared)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_have_every_class_and_part_no_group(phantoms, kind):
    rows = manifest(phantoms[kind])
    assert len({(row["group"], row["split"]) for row in rows}) == len({row["group"] for row in rows})
    classes = {row["label"] for row in rows}
    for split in ("train", "val", "test"):
        assert {row["label"] for row in rows if row["split"] == split} == classes
