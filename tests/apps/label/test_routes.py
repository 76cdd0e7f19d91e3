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

from types import SimpleNamespace

import numpy as np
import pytest

from monai_weckd.annotation import Suggestion
from monai_weckd.apps.label.routes import make_router, suggested


def endpoint(session, path):
    [route] = [
        route for route in make_router(session).routes if route.path == f"/weckd{path}" and "GET" in route.methods
    ]
    return route.endpoint


def test_a_suggestion_is_plain_numbers():
    found = suggested(Suggestion("a.png", "margin", np.array([0.25, 0.75], dtype=np.float32)))
    assert found == {"id": "a.png", "reason": "margin", "probabilities": [0.25, 0.75]}
    assert {type(value) for value in found["probabilities"]} == {float}
    assert suggested(Suggestion("a.png", "typical", None))["probabilities"] is None


@pytest.mark.parametrize("count", [0, 1001])
def test_a_count_out_of_range_is_refused_before_the_session_is_asked(count):
    with pytest.raises(ValueError, match=f"count: expected a number from 1 to 1000, got {count}"):
        endpoint(SimpleNamespace(), "/next")(count=count)


def test_the_next_image_comes_with_those_after_it_and_none_left_is_404():
    order = [Suggestion(name, "typical", None) for name in ("a", "b", "c")]
    session = SimpleNamespace(next=lambda *, count, who: order[:count])
    found = endpoint(session, "/next")(count=2)
    assert (found["id"], [one["id"] for one in found["more"]]) == ("a", ["b"])
    order.clear()
    assert endpoint(session, "/next")().status_code == 404
