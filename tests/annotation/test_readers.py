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
from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score

from monai_weckd.annotation import LabelStore
from monai_weckd.annotation.label_files import rebuild_labels
from monai_weckd.annotation.order import Suggestion
from monai_weckd.annotation.readers import Readers

CLASSES = ("ill", "well")
IMAGES = [f"{number}.png" for number in range(200)]


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels.json", CLASSES, answers=("cannot tell",))


def readers_of(store, *, share=1.0, policy="settle"):
    return Readers(store, share=share, policy=policy, seed=0)


def put(readers, image, **said):
    """Let people label an image, in their order."""
    return [readers.put(image, label, who=who, settle=False) for who, label in said.items()]


def reopened(readers):
    store = readers.store
    return readers_of(
        LabelStore(store.path, CLASSES, answers=store.answers), share=readers.share, policy=readers.policy
    )


def what(readers):
    log = readers.store.path.with_suffix(".log").read_text().splitlines()
    return [(event["who"], event["what"]) for event in map(json.loads, log)]


def test_refuses_a_share_or_a_policy_that_is_none(store):
    with pytest.raises(ValueError, match=r"read_twice: expected a share in \[0, 1\], got 1\.5\. Pass e\.g\. 0\.1\."):
        readers_of(store, share=1.5)
    with pytest.raises(ValueError, match=r"disagreements: expected one of .*, got 'majorty'\. Did you mean 'majority'"):
        readers_of(store, policy="majorty")


def test_a_share_of_the_images_is_read_twice_whoever_asks_and_whenever(store):
    readers = readers_of(store, share=0.3)
    blind = {key for key in IMAGES if readers.is_blind(key, "Ada")}
    assert 30 < len(blind) < 90
    assert blind == {key for key in IMAGES if readers_of(store, share=0.3).is_blind(key, "Cy")}
    assert blind < {key for key in IMAGES if readers_of(store, share=0.6).is_blind(key, None)}
    assert not any(readers_of(store, share=0).is_blind(key, "Ada") for key in IMAGES)


def test_nobody_knows_what_another_says_before_both_have_read(store):
    readers = readers_of(store)
    assert put(readers, "a", Ada="ill") == [None]
    assert (readers.known_to("a", "Ada"), readers.known_to("a", "Cy"), readers.known_to("a", None)) == (
        "ill",
        None,
        None,
    )
    assert readers.decided() == {"a": "ill"}  # which counts, as long as nobody says otherwise
    assert readers.waiting(["a", "b"], "Cy") == ["a"]
    assert readers.waiting(["a", "b"], "Ada") == readers.waiting(["b"], "Cy") == []
    [turn, later] = readers.in_turn([Suggestion("b", "why", [0.5, 0.5])], ["a", "b"], "Cy")
    assert (turn.id, later.id, turn.reason, turn.probabilities) == ("a", "b", later.reason, later.probabilities)
    assert put(readers, "a", Ada="well", Cy="ill") == ["ill", None]  # the first one has changed their own
    assert [readers.known_to("a", who) for who in ("Ada", "Cy", "Eve")] == ["well", "ill", None]
    assert readers.decided() == {}
    assert readers.waiting(["a"], "Eve") == []
    assert readers.disagreements(["a"], "Eve") == [
        {"id": "a", "readings": [{"who": "Ada", "label": "well"}, {"who": "Cy", "label": "ill"}]}
    ]
    assert readers.disagreements(["b"], "Eve") == []
    assert what(readers) == [("Ada", "reading"), ("Ada", "reading"), ("Cy", "reading")]
    assert reopened(readers).store.entries == readers.store.entries


def test_a_disagreement_is_settled_and_that_is_taken_back(store):
    readers = readers_of(store)
    put(readers, "a", Ada="ill", Cy="well")
    assert readers.put("a", "ill", who="Cy", settle=True) is None
    for one in (readers, reopened(readers)):
        assert (one.decided(), one.disagreements(["a"], "Ada"), one.known_to("a", "Cy")) == ({"a": "ill"}, [], "ill")
        assert one.store.info("a")["who"] == "Cy"
        assert one.agreement({"a": {"id": "a", "group": "g"}})["agree"] == 0.0  # of what each has said alone
    readers.store.remove("a", who="Ada")
    assert readers.decided() == {}
    assert len(readers.disagreements(["a"], "Ada")) == 1
    readers.store.remove("a", who="Cy")  # now their own reading
    assert readers.decided() == {"a": "ill"}
    with pytest.raises(ValueError, match="id: expected an image with a label, got 'a' without"):
        readers.store.remove("a", who="Cy")
    readers.store.remove("a", who="Ada")
    assert readers.store.entries == {}
    assert what(readers)[2:] == [("Cy", "settlement"), ("Ada", "undo"), ("Cy", "undo"), ("Ada", "undo")]
    assert rebuild_labels(store.path)


def test_whose_label_it_is(store):
    store.put("b", "ill", who="Ada")
    store.put("b", "ill", who="Cy")  # who says the same, and later
    readers = readers_of(store, share=0)
    assert [readers.is_own("b", who) for who in ("Ada", "Cy", None)] == [False, True, False]
    store.put("c", "ill")
    assert [readers.is_own("c", who) for who in ("Ada", None)] == [False, True]
    assert not readers.is_own("d", None)
    readers = readers_of(store)
    put(readers, "a", Ada="ill", Cy="well")
    assert [readers.is_own("a", who) for who in ("Ada", "Cy", "Eve")] == [True, True, False]
    readers.put("a", "ill", who="Eve", settle=True)
    assert [readers.is_own("a", who) for who in ("Ada", "Cy", "Eve")] == [False, False, True]


def test_somebody_who_sees_all_corrects_and_does_not_read(store):
    readers = readers_of(store)
    put(readers, "a", Ada="ill", Cy="ill")
    assert readers.known_to("a", "Eve") == "ill"
    assert put(readers, "a", Eve="well") == ["ill"]
    assert readers.decided() == {"a": "well"}
    assert what(readers)[-1] == ("Eve", "settlement")


def test_a_majority_of_three_decides(store):
    readers = readers_of(store, policy="majority")
    put(readers, "a", Ada="ill", Cy="well")
    assert readers.decided() == {}
    assert readers.waiting(["a"], "Eve") == ["a"]
    assert (readers.known_to("a", "Eve"), readers.disagreements(["a"], "Eve")) == (None, [])
    put(readers, "a", Eve="well")
    assert readers.decided() == {"a": "well"}
    assert readers.waiting(["a"], "Flo") == readers.disagreements(["a"], "Flo") == []
    put(readers, "b", Ada="ill", Cy="well", Eve="cannot tell")
    assert "b" not in readers.decided()
    assert len(readers.disagreements(["b"], "Ada")) == 1
    put(readers, "c", Ada="ill", Cy="ill")
    assert readers.waiting(["c"], "Eve") == []


def test_a_label_of_before_is_the_first_reading(store):
    store.put("a", "ill", who="Ada", info={"note": "sure"})
    readers = readers_of(store)
    assert readers.known_to("a", "Cy") is None
    assert (readers.waiting(["a"], "Cy"), readers.waiting(["a"], "Ada")) == (["a"], [])
    put(readers, "a", Cy="well")
    assert readers.agreement({"a": {"id": "a"}})["cohen"][0]["readers"] == ["Ada", "Cy"]


def test_agreement_is_that_of_others_by_pairs(store):
    readers = readers_of(store)
    for number, key in enumerate(IMAGES[:40]):
        put(readers, key, Ada=CLASSES[number % 2], **{("Cy", "Eve")[number % 3 == 0]: CLASSES[number % 5 < 2]})
    items = {key: {"id": key, "group": key} for key in IMAGES}
    found = readers.agreement(items)
    assert (found["images"], [one["images"] for one in found["cohen"]]) == (40, [26, 14])
    for one in found["cohen"]:
        pairs = [entry["readings"] for entry in store.entries.values() if entry["readings"][1]["who"] in one["readers"]]
        first, second = ([pair[place]["label"] for pair in pairs] for place in (0, 1))
        assert one["kappa"] == pytest.approx(cohen_kappa_score(first, second), abs=1e-12)
    assert readers.agreement({}) is None
    assert Counter(readers.decided().values()).total() == found["agree"] * 40


def test_readings_are_shared_by_one_policy_alone_and_not_of_findings(store, tmp_path):
    readers = readers_of(store, policy="soft")
    put(readers, "a.png", ada="ill", bob="well", eve="well")
    put(readers, "b.png", ada="ill", bob="ill")
    put(readers, "c.png", ada="ill", bob="cannot tell", eve="ill")
    assert readers.shared() == {"a.png": {"ill": 1 / 3, "well": 2 / 3}}
    assert readers.decided() == {"a.png": "well", "b.png": "ill", "c.png": "ill"}
    assert readers.disagreements([*IMAGES, "a.png", "b.png", "c.png"], "tom") == []
    assert readers_of(store, policy="majority").shared() == {}
    readers.put("a.png", "ill", who="ada", settle=True)
    assert (readers.shared(), readers.decided()["a.png"]) == ({}, "ill")
    with pytest.raises(ValueError, match="disagreements: expected 'settle' or 'majority' for findings, got 'soft'"):
        readers_of(LabelStore(tmp_path / "other.json", ["a", "b"], findings=True), policy="soft")
