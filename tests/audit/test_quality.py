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
import torch.nn.functional as F

from monai_weckd.audit.quality import other_kinds, poor_images, quality_measures


class Images:
    """Images in memory, as a dataset gives them."""

    def __init__(self, images):
        self.images = images

    def gather(self, indices):
        return self.images[list(indices)]


def pictures(count=40, shape=(48, 48)):
    return torch.rand((count, 3, *shape), generator=torch.Generator().manual_seed(0)) * 0.8


def blurred(image):
    return F.avg_pool2d(F.pad(image[None], (4, 4, 4, 4), mode="reflect"), 9, stride=1)[0]


def saturated(image):
    image = image.clone()
    image[:, :24] = 1.0
    return image


def small_rest(image):
    image = torch.zeros_like(image)
    image[:, 0, 0] = 1e-4
    return image


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (torch.zeros_like, "blank"),
        (torch.ones_like, "blank"),
        (small_rest, "blank"),
        (saturated, "saturated: 50% of the image has its brightest value"),
        (blurred, "blurred"),
    ],
)
def test_a_spoiled_image_is_found_and_no_other(spoil, reason):
    images = pictures()
    images[17] = spoil(images[17])
    found, _ = poor_images(quality_measures(Images(images), len(images)))
    assert [finding.places for finding in found] == [(17,)]
    assert found[0].text.startswith(reason)


def test_a_volume_is_measured_on_its_middle_slice():
    images = pictures(shape=(24, 24, 5))
    images[3, ..., 2] = 0
    found, _ = poor_images(quality_measures(Images(images), len(images)))
    assert [(finding.places, finding.text) for finding in found] == [((3,), "blank")]


def test_images_that_are_all_alike_are_not_odd():
    images = pictures(1).repeat(30, 1, 1, 1)
    assert poor_images(quality_measures(Images(images), 30))[0] == []
    embeddings = torch.ones(30, 4) + 1e-3 * torch.eye(30, 4)
    assert other_kinds(embeddings, [{"group": str(i)} for i in range(30)])[0] == []


def test_an_image_far_from_all_others_is_of_another_kind():
    embeddings = 5 + torch.randn((40, 8), generator=torch.Generator().manual_seed(0))
    embeddings[11] = torch.tensor([9.0, -9] * 4)
    found, limits = other_kinds(embeddings, [{"group": str(i)} for i in range(40)])
    assert [finding.places for finding in found] == [(11,)]
    assert found[0].score > limits["limit"] > limits["usual"]


def test_a_group_of_another_kind_does_not_hide_behind_itself():
    embeddings = 5 + torch.randn((40, 8), generator=torch.Generator().manual_seed(0))
    embeddings[10:20] = torch.tensor([9.0, -9] * 4) + 0.1 * embeddings[10:20]
    groups = [{"group": "phantom" if 10 <= i < 20 else str(i)} for i in range(40)]
    assert {finding.places[0] for finding in other_kinds(embeddings, groups)[0]} == set(range(10, 20))


def test_too_few_images_set_no_limit():
    assert other_kinds(torch.eye(5), [{"group": str(i)} for i in range(5)]) == ([], {})
