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

from monai_weckd.annotation import queues
from monai_weckd.annotation.queues import Queues


def test_each_person_has_a_queue_whose_newest_images_come_first():
    kept = Queues()
    kept.put("Ada", ["a", "b"])
    kept.put("Ada", ["c", "b"])
    kept.put(None, ["d"])
    assert (kept.of("Ada"), kept.of(None), kept.of("Bob")) == (("c", "b", "a"), ("d",), ())
    kept.drop("Ada", {"b", "other"})
    assert (kept.of("Ada"), kept.of(None)) == (("c", "a"), ("d",))


def test_a_queue_that_would_be_too_long_stays_as_it_was(monkeypatch):
    monkeypatch.setattr(queues, "MOST_QUEUED", 3)
    kept = Queues()
    kept.put("Ada", "ab")
    with pytest.raises(ValueError, match="ids: expected at most 3 images in the queue, got 4"):
        kept.put("Ada", "cd")
    assert kept.of("Ada") == ("a", "b")
