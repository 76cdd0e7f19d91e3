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

from monai_weckd.utils.messages import nearest


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("disjont", "Did you mean 'disjoint'?"),
        ("xyz", "Valid: 'disjoint', 'cumulative'."),
        ("", "Valid: 'disjoint', 'cumulative'."),
    ],
)
def test_the_nearest_key_is_named_or_else_all(key, hint):
    assert nearest(key, ("disjoint", "cumulative")) == hint


@pytest.mark.parametrize(("key", "hint"), [("disjont", "Did you mean 'disjoint'?"), ("xyz", "Look it up.")])
def test_many_keys_are_not_named(key, hint):
    assert nearest(key, {"disjoint": 1, "cumulative": 2}, otherwise="Look it up.") == hint
