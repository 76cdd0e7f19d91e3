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

import math

import pytest
from test_exact import draw

from monai_weckd.fl import ExactSite
from monai_weckd.fl.exact import PENALTIES, TEMPERATURES


def test_only_sums_leave_a_site():
    few, many = (ExactSite(*draw(items=items)[:2], list(map(str, range(items))), num_classes=4) for items in (50, 80))
    for site in (few, many):
        moments = site.moments()
        products = site.products(moments)
        sums = moments | products | site.held_out(moments, products)
        assert {name: tuple(value.shape) for name, value in sums.items()} == {
            "images": (1,),
            "bounded": (1,),
            "sum": (12,),
            "squares": (12,),
            "labels": (4,),
            "groups": (4,),
            "gram": (13, 13),
            "cross": (13, 4),
            "errors": (len(PENALTIES),),
            "surprise": (len(PENALTIES), len(TEMPERATURES)),
            "confusion": (len(PENALTIES), 4, 4),
        }


def test_a_site_refuses_what_it_cannot_use():
    features, labels, groups = draw()
    with pytest.raises(ValueError, match=r"labels: expected as many features, labels and groups, got \(90, 90, 1\)"):
        ExactSite(features, labels, ["a"], num_classes=4)
    with pytest.raises(ValueError, match=r"labels: expected classes from 0 to 1, or -1, got -1 to 3\. Pass"):
        ExactSite(features, labels, list(groups), num_classes=2)
    features[7, 0] = math.inf
    with pytest.raises(ValueError, match=r"features: expected finite numbers, got others in row 7\. Look for a broken"):
        ExactSite(features, labels, list(groups), num_classes=4)
