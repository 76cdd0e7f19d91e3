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

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from monai_weckd.audit.duplicates import exact_duplicates, look_alike_groups, near_duplicates, near_pairs
from monai_weckd.audit.findings import Finding


class Images:
    """Images in memory, as a dataset gives them."""

    def __init__(self, images):
        self.images = images

    def gather(self, indices):
        return self.images[list(indices)]


def textures(count, *, shape=(96, 96), seed=0):
    """Return images, (N, 1, *shape), of smooth noise, all different."""
    noise = torch.rand((count, 1, *shape), generator=torch.Generator().manual_seed(seed))
    pool = F.avg_pool2d if len(shape) == 2 else F.avg_pool3d
    return pool(noise, 5, stride=1, padding=2)


def make_items(count, **changes):
    items = [{"image": str(i), "id": f"{i}.png", "group": f"g{i}", "label": i % 2} for i in range(count)]
    for place, change in changes.items():
        items[int(place.removeprefix("i"))].update(change)
    return items


def embeddings_of(count, seed=0):
    return torch.randn((count, 16), generator=torch.Generator().manual_seed(seed)) + 3


def cropped(image):
    return F.interpolate(image[None, ..., 2:-1, 1:-2], size=image.shape[1:], mode="bilinear")[0]


@pytest.mark.parametrize(
    "change",
    [
        cropped,
        lambda image: image.flip(-1),
        lambda image: torch.rot90(image, 1, (1, 2)),
        lambda image: 0.5 * image + 3,
        lambda image: image.roll((2, -3), (1, 2)),
        lambda image: F.interpolate(F.avg_pool2d(image[None], 2), scale_factor=2, mode="bilinear")[0],
    ],
)
def test_a_changed_copy_is_paired_with_its_source_and_nothing_else_is(change):
    images, embeddings = textures(30), embeddings_of(30)
    images[29] = change(images[4])
    embeddings[29] = embeddings[4] + 0.2 * embeddings_of(1, seed=1)[0]
    pairs, limits = near_pairs(embeddings, Images(images), make_items(30), range(30))
    assert [pair.places for pair in pairs] == [(4, 29)]
    assert pairs[0].correlation >= limits.correlation > limits.usual_correlation


def test_the_embedding_alone_may_tell_a_copy():
    embeddings = embeddings_of(30)
    embeddings[29] = embeddings[4] * 1.001
    pairs, limits = near_pairs(embeddings, Images(textures(30)), make_items(30), range(30))
    assert [pair.places for pair in pairs] == [(4, 29)]
    assert pairs[0].distance <= limits.distance < limits.usual_distance
    assert pairs[0].correlation < limits.correlation


def test_a_volume_is_compared_as_well():
    images, embeddings = textures(30, shape=(32, 32, 8)), embeddings_of(30)
    images[29], embeddings[29] = images[4] * 2, embeddings[4] * 1.001
    pairs, _ = near_pairs(embeddings, Images(images), make_items(30), range(30))
    assert [pair.places for pair in pairs] == [(4, 29)]
    assert pairs[0].correlation == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("change", "listed"),
    [
        ({"group": "g4", "label": 0}, False),
        ({"group": "g4", "label": 1}, True),
        ({"group": "g4", "label": -1}, False),
        ({"group": "g29", "label": 0}, True),
    ],
)
def test_a_copy_in_the_same_group_matters_only_with_another_label(change, listed):
    images, embeddings = textures(30), embeddings_of(30)
    images[29], embeddings[29] = images[4], embeddings[4]
    pairs, _ = near_pairs(embeddings, Images(images), make_items(30, i29=change), range(30))
    assert [pair.places for pair in pairs] == ([(4, 29)] if listed else [])


def test_blank_images_are_not_like_each_other_pixel_by_pixel():
    images = textures(30)
    images[:5] = 0.5
    pairs, _ = near_pairs(embeddings_of(30), Images(images), make_items(30), range(30))
    assert pairs == []


def test_a_single_group_has_no_pairs():
    items = [{**item, "group": "one", "label": 0} for item in make_items(6)]
    assert near_pairs(embeddings_of(6), Images(textures(6)), items, range(6))[0] == []


def test_other_labels_come_first_then_other_groups_then_the_most_alike(tmp_path):
    images, embeddings, items = textures(30), embeddings_of(30), make_items(30)
    for source, copy, change in (
        (0, 26, {"label": 0}),
        (2, 27, {"label": 1}),
        (4, 28, {"group": "g4", "label": 1}),
        (6, 29, {"label": 0}),
    ):
        images[copy], embeddings[copy] = cropped(images[source]) if source == 0 else images[source], embeddings[source]
        items[copy].update(change)
    pairs, _ = near_pairs(embeddings, Images(images), items, range(30))
    found = near_duplicates(pairs, items)
    assert [finding.places for finding in found] == [(2, 27), (4, 28), (6, 29), (0, 26)]
    assert found[0].text.startswith("different labels, different groups: correlation 1.00")
    assert found[1].text.startswith("different labels, same group: ")


def test_exact_duplicates_are_found_in_files_and_folders(tmp_path):
    for name, content in (("a", b"1"), ("b", b"2"), ("c", b"1"), ("d/0", b"3"), ("e/0", b"3"), ("f", b"1")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    items = [
        {"image": str(tmp_path / name), "id": name, "group": name, "label": label}
        for name, label in (("a", 0), ("b", 0), ("c", 0), ("d", 0), ("e", 1), ("f", 0))
    ]
    found, kept = exact_duplicates(items)
    assert [finding.places for finding in found] == [(3, 4), (0, 2), (0, 5)]
    assert found[0].text == "different labels, different groups: same bytes"
    assert kept == [0, 1, 3]


def test_groups_that_share_two_images_look_like_one_patient():
    items = [{"id": str(i), "group": group, "label": 0} for i, group in enumerate("aaabbbccd")]
    pairs = [(0, 3), (1, 4), (0, 4), (2, 6), (5, 6), (7, 8)]
    found = look_alike_groups([Finding("near_duplicate", pair, "") for pair in pairs], items)
    assert [finding.places for finding in found] == [(0, 3)]
    assert found[0].text == "2 of 3 images of the first one's group are like 2 of 3 of the second one's"
    assert np.isclose(found[0].score, 3)
