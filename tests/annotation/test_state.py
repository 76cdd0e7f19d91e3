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

from pathlib import Path
from types import SimpleNamespace

from monai_weckd.annotation import LabelStore
from monai_weckd.annotation.readers import Readers
from monai_weckd.annotation.state import session_state
from monai_weckd.annotation.status import TrainingStatus

CLASSES = ("ill", "well")


def test_images_are_counted_by_what_became_of_them(tmp_path):
    store = LabelStore(tmp_path / "labels.json", CLASSES, answers=("cannot tell",))
    readers = Readers(store, share=1.0, policy="settle", seed=0)
    for key, label, who in [
        ("alike", "ill", "ada"),
        ("alike", "ill", "bob"),
        ("unlike", "ill", "ada"),
        ("unlike", "well", "bob"),
        ("aside", "cannot tell", "ada"),
        ("aside", "cannot tell", "bob"),
        ("once", "well", "ada"),
        ("gone", "ill", "ada"),
    ]:
        readers.put(key, label, who=who, settle=False)
    items = {key: {"id": key} for key in ("alike", "unlike", "aside", "once", "new", "broken")}
    given = {key: label for key, label in readers.decided().items() if key in items}
    session = SimpleNamespace(
        readers=readers,
        store=store,
        items=items,
        level="image",
        given=given,
        labels={key: label for key, label in given.items() if label in CLASSES},
        classes=CLASSES,
        kind=store.words.kind,
        answers=store.answers,
        shares={"alike": {}},
        label_budget=9,
        budget=dict,
        training=TrainingStatus(),
        chain=SimpleNamespace(
            bundle=SimpleNamespace(root=Path("a") / "bundle", item_level="image"),
            unreadable={"broken": "it is damaged", "gone": "it was damaged"},
            stages=[],
            thresholds=None,
            live_figures=None,
        ),
    )
    found = session_state(session, "bob")
    assert found["images"] == {
        "total": 6,
        "labeled": 2,
        "set_aside": 1,
        "unlabeled": 1,  # new
        "disputed": 1,
        "shared": 1,
        "waiting": 1,  # once, which bob has not read
        "unreadable": 1,
    }
    assert found["unreadable"] == [{"id": "broken", "reason": "it is damaged"}]
    assert found["labels"] == {"ill": 1, "well": 1}
    assert found["answers"] == {"cannot tell": 1}
    # the last one first, and what ada alone has said stays blind
    assert [(one["id"], one["label"]) for one in found["last_labels"]] == [
        ("aside", "cannot tell"),
        ("unlike", "well"),  # his own
        ("alike", "ill"),
    ]
