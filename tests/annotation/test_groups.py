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

from monai_weckd.annotation import groups
from monai_weckd.annotation.groups import Groups


def test_a_list_is_looked_through_once(monkeypatch):
    asked = []
    monkeypatch.setattr(groups, "group_of", lambda item: asked.append(item) or item["group"])
    items, index = {key: {"group": key[0]} for key in ("a1", "b1", "a2", "a3", "b2")}, Groups()
    assert [index.members(key, items) for key in ("a2", "b1", "a1")] == [
        ["a1", "a2", "a3"],
        ["b1", "b2"],
        ["a1", "a2", "a3"],
    ]
    assert len(asked) == len(items) + 3
    assert index.members("a1", {"a1": {"group": "a"}}) == ["a1"]  # another list
    with pytest.raises(KeyError):
        index.members("a2", {"a1": {"group": "a"}})
