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

from monai_weckd.plan.settings import PlanSettings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": "disjont"}, r"policy: expected one of .*, got 'disjont'. Did you mean 'disjoint'\?"),
        ({"shard_by": "groups"}, r"shard_by: expected one of .*, got 'groups'. Did you mean 'group'\?"),
        ({"num_stages": 0}, r"num_stages: expected an integer of at least 1, got 0"),
        ({"num_stages": 2.0}, r"num_stages: expected an integer of at least 1, got 2.0"),
        ({"seed": "x"}, r"seed: expected an integer of any size, got 'x'"),
        ({"label_fraction": 0.0}, r"label_fraction: expected a fraction in \(0, 1\], got 0.0"),
        ({"label_fraction": 1.1}, r"label_fraction: expected a fraction in \(0, 1\], got 1.1"),
        ({"label_fraction": float("nan")}, r"label_fraction: expected a fraction in \(0, 1\], got nan"),
        ({"val_fraction": -0.1}, r"val_fraction: expected a fraction in \[0, 1\), got -0.1"),
        ({"test_fraction": "0.2"}, r"test_fraction: expected a fraction in \[0, 1\), got '0.2'"),
        ({"test_fraction": float("nan")}, r"test_fraction: expected a fraction in \[0, 1\), got nan"),
        ({"test_fraction": 1}, r"test_fraction: expected a fraction in \[0, 1\), got 1"),
        ({"shard_size": 0}, r"shard_size: expected an integer of at least 1, got 0"),
        ({"labels_per_class": 2.5}, r"labels_per_class: expected an integer of at least 1, got 2.5"),
        (
            {"labels_per_class": 2, "shard_size": 8},
            r"labels_per_class: expected None with shard_size=8, got 2. Pass one",
        ),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, r"expected a sum below 1, got 0.5 \+ 0.5. Leave groups"),
        (
            {"shard_by": "group", "selection": "typical"},
            "shard_by: expected 'item' with selection='typical', got 'group'. A teacher asks for items",
        ),
    ],
)
def test_argument_validation(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        PlanSettings(**settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "labels", "fractions"),
    [
        ({}, 499, (0, 0)),
        ({}, 500, (0.15, 0.25)),
        ({"val_fraction": 0.2}, 20, (0.2, 0)),
        ({"test_fraction": 0.2}, 500, (0.15, 0.2)),
        ({"val_fraction": 0, "test_fraction": 0}, 9000, (0, 0)),
    ],
)
def test_nothing_is_held_out_of_few_labels(settings, labels, fractions):
    assert PlanSettings(**settings).held_out(labels) == fractions


def test_the_defaults_leave_something_for_training():
    settings = PlanSettings(val_fraction=0.8)
    assert settings.held_out(499) == (0.8, 0)
    with pytest.raises(ValueError, match=r"val_fraction, test_fraction: expected a sum below 1, got 0.8 \+ 0.25"):
        settings.held_out(500)
