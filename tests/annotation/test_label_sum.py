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

import json

from monai_weckd.annotation.label_log import Line
from monai_weckd.annotation.label_sum import LabelSum


def summed(*events):
    found = LabelSum()
    found.add(Line({"ts": number, "who": "ada", **event}, 100 * (number + 1)) for number, event in enumerate(events))
    return found


def label(key, name, **more):
    return {"what": "label", "id": key, "label": name, **more}


def test_a_corrected_label_moves_to_the_end():
    found = summed(label("a", "ill"), label("b", "ill"), label("a", "well", what="correction"))
    assert [(key, entry["label"], entry["ts"]) for key, entry in found.entries.items()] == [
        ("b", "ill", 1),
        ("a", "well", 2),
    ]


def test_an_undo_gives_back_what_was_there():
    events = [label("a", "ill", who="bob"), label("a", "well", what="correction")]
    taken_back = summed(*events, label("a", "ill", what="undo"))
    assert taken_back.entries["a"] == {"label": "ill", "who": "bob", "ts": 0}
    assert summed(*events, {"what": "undo", "id": "a"}).entries == {}


def test_only_labels_move_the_end():
    found = summed(label("a", "ill"), {"what": "skip", "id": "b"}, {"what": "export"})
    assert (found.end, list(found.entries)) == (100, ["a"])
    assert json.loads(found.content()) == {"format": 2, "log": 100, "labels": found.entries}


def test_information_cannot_take_the_place_of_an_own_key():
    found = summed(label("a", "ill", info={"who": "eve", "zoom": 2}, answer=True))
    assert found.entries["a"] == {"zoom": 2, "label": "ill", "who": "ada", "ts": 0, "answer": True}


def test_a_settlement_decides_and_is_taken_back():
    readings = [label("a", "ill", what="reading"), label("a", "well", what="reading", who="bob")]
    found = summed(*readings)
    assert found.entries["a"]["label"] is None
    settled = summed(*readings, label("a", "well", what="settlement", who="eve"))
    assert (settled.entries["a"]["label"], settled.entries["a"]["who"]) == ("well", "eve")
    again = summed(*readings, label("a", "well", what="settlement", who="eve"), {"what": "undo", "id": "a"})
    assert again.entries["a"]["label"] is None
    assert len(again.entries["a"]["readings"]) == 2
