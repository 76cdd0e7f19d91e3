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

from monai_weckd.selection import choose_findings


def draw(images=60, findings=4, seed=0):
    probabilities = np.random.default_rng(seed).uniform(size=(images, findings))
    return probabilities, [f"{place}.png" for place in range(images)]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_image_is_asked_for_the_findings_in_whose_orders_it_comes_first(count):
    probabilities, ids = draw()
    found = choose_findings(probabilities, ids, num_findings=4, count=count, seed=0)
    assert list(found) == ids
    for row, key in enumerate(ids):
        # by counting: how many images are less certain about each finding
        margins = np.abs(2 * probabilities - 1)
        before = [int((margins[:, place] < margins[row, place]).sum()) for place in range(4)]
        assert len(set(found[key])) == count
        assert list(found[key]) == sorted(found[key])
        others = [before[place] for place in range(4) if place not in found[key]]
        assert max(before[place] for place in found[key]) <= min(others, default=60)


def test_a_rare_finding_is_asked_for_as_often_as_others():
    probabilities, ids = draw(200)
    probabilities[:, 1] *= 0.05  # never probable
    probabilities[:, 2] = 0.01  # one outcome alone was seen: all images are alike
    found = choose_findings(probabilities, ids, num_findings=4, count=1, seed=0)
    counts = np.bincount([place for (place,) in found.values()], minlength=4)
    assert counts.min() >= 30


def test_without_a_model_draws_decide_whatever_the_order():
    _, ids = draw(90)
    found = choose_findings(None, ids, num_findings=3, count=1, seed=0)
    assert choose_findings(None, ids[::-1], num_findings=3, count=1, seed=0) == found
    assert choose_findings(None, ids, num_findings=3, count=1, seed=1) != found
    assert np.bincount([place for (place,) in found.values()]).min() >= 15
