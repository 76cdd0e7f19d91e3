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

from monai_weckd.annotation import leases
from monai_weckd.annotation.leases import Leases
from monai_weckd.annotation.order import Suggestion


def test_two_windows_get_different_images_until_none_is_left(monkeypatch):
    images, kept = [Suggestion(key, "why", None) for key in "abcd"], Leases()
    assert [one.id for one in kept.take("one", images, count=2)] == ["a", "b"]
    assert [one.id for one in kept.take("two", images, count=2)] == ["c", "d"]
    assert [one.id for one in kept.take("one", images, count=2)] == ["a", "b"]  # again
    assert kept.others("one") == {"c", "d"}
    assert [one.id for one in kept.take("three", images, count=1)] == ["a"]  # rather than nothing
    assert [one.id for one in kept.take(None, images, count=1)] == ["a"]
    assert kept.others(None) == set()
    monkeypatch.setattr(leases, "_KEPT_FOR", -1.0)  # the other windows are gone
    assert [one.id for one in kept.take("four", images, count=2)] == ["a", "b"]


def test_a_window_holds_what_it_was_given_last():
    images, kept = [Suggestion(key, "why", None) for key in "abc"], Leases()
    assert kept.held("one") == kept.held(None) == ()
    kept.take("one", images, count=2)
    assert kept.held("one") == tuple(images[:2])
