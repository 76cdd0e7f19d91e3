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

from monai_weckd.annotation.explore import Explorer, Wish
from monai_weckd.annotation.order import Scores, components
from monai_weckd.annotation.queues import Queues
from monai_weckd.annotation.readers import Readers
from monai_weckd.annotation.status import UnknownImageError
from monai_weckd.annotation.store import LabelStore
from monai_weckd.plan.label_kind import LabelKind

IDS = [f"{place}.png" for place in range(8)]
ANSWERS = ("cannot tell",)
# of the images in order; 3.png and 4.png have labels, whose predictions are in HELD_OUT
CHANCES = np.array([[0.9, 0.1], [0.6, 0.4], [0.45, 0.55], [0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [1, 0], [0.2, 0.8]])
HELD_OUT = {"3.png": np.array([0.2, 0.8]), "4.png": np.array([0.1, 0.9])}


def make(tmp_path, *, share=0.0, findings=False, live=True):
    """Return a session of eight images, one of which has not been seen, and one of which is unreadable."""
    kind = LabelKind(("ill", "well"), findings=findings)
    features = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    features[1] = 3 * features[0]
    scores = Scores.empty("").with_more(IDS, features, np.zeros((0, 8, 2)), {"bad.png": "it is damaged"})
    store = LabelStore(tmp_path / "labels.json", kind.names, answers=ANSWERS, findings=findings)
    ids = [*IDS, "bad.png", "new.png"]

    def item(key):
        if key not in ids:
            raise UnknownImageError(key)
        return {"id": key}

    return SimpleNamespace(
        items={key: {"id": key} for key in ids},
        item=item,
        level="image",
        classes=kind.names,
        answers=ANSWERS,
        store=store,
        readers=Readers(store, share=share, policy="settle", seed=0),
        queues=Queues(),
        chain=SimpleNamespace(
            bundle=SimpleNamespace(kind=kind),
            scores=scores,
            points=components(scores),
            unreadable=scores.unreadable,
            live=SimpleNamespace(ids=scores.ids, probabilities=CHANCES, held_out=HELD_OUT, kind=kind) if live else None,
        ),
    )


@pytest.fixture
def session(tmp_path):
    session = make(tmp_path)
    for key, label in {"3.png": "ill", "4.png": "well", "5.png": "cannot tell"}.items():
        session.store.put(key, label, who="Ada")
    return session


def ids(found):
    return [image["id"] for image in found["images"]]


def test_the_map_has_every_image_that_the_network_has_seen(session):
    found = Explorer(session).map("Ada")
    assert (found["ids"], found["words"], found["predictable"]) == (IDS, ["ill", "well", "cannot tell"], 2)
    for axis in "xy":
        assert (min(found[axis]), max(found[axis])) == (0, 9999)
    assert found["label"] == [-1, -1, -1, 0, 1, 2, -1, -1]
    # a label's prediction is the one that was held out, and an answer has none
    assert found["predicted"] == [0, 0, 1, 1, 1, -1, 0, 1]
    assert found["disagreement"] == [-1, -1, -1, 80, 10, -1, -1, -1]
    del session.items["0.png"]
    assert Explorer(session).map("Ada")["ids"] == IDS[1:]


def test_without_a_label_disagreement_is_between_the_last_models(session):
    session.chain.scores = Scores.empty("").with_more(IDS, session.chain.scores.features, 1 - CHANCES[None], {})
    session.chain.live.ids = session.chain.scores.ids
    assert Explorer(session).map(None)["disagreement"][:5] == [80, 20, 10, 80, 10]
    session.chain.live = None  # labels that a student has learned from are not compared with what it predicts
    found = Explorer(session).map(None)
    assert (found["predicted"][:5], found["disagreement"]) == ([1, 1, 0, -1, -1], [-1] * 8)


def test_before_there_is_a_model_there_is_a_map(tmp_path):
    session = make(tmp_path, live=False)
    found = Explorer(session).map(None)
    assert (found["predicted"], found["disagreement"]) == ([-1] * 8, [-1] * 8)
    assert Explorer(session).gallery(Wish("unsure"), None)["images"] == []
    session.chain.scores = Scores.empty("")
    assert Explorer(session).map(None)["ids"] == []


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        (Wish(), [*IDS, "bad.png", "new.png"]),
        (Wish("unlabeled"), ["0.png", "1.png", "2.png", "6.png", "7.png", "new.png"]),
        (Wish("labeled"), ["5.png", "4.png", "3.png"]),
        (Wish("unsure"), ["2.png", "1.png", "7.png", "0.png", "6.png"]),
        (Wish("contradicted"), ["3.png"]),
        (Wish("unreadable"), ["bad.png"]),
        (Wish("queued"), ["7.png", "3.png"]),
        (Wish(label="well"), ["4.png"]),
        (Wish(label="cannot tell"), ["5.png"]),
        (Wish("unlabeled", predicted="well"), ["2.png", "7.png"]),
        (Wish(person="Ada"), ["3.png", "4.png", "5.png"]),
        (Wish(person="Bob"), []),
    ],
)
def test_lists_have_what_is_wished(session, wish, expected):
    session.queues.put("Ada", ["7.png", "3.png"])
    found = Explorer(session).gallery(wish, "Ada")
    assert (ids(found), found["total"], found["people"]) == (expected, len(expected), ["Ada"])


def test_a_list_comes_in_parts_and_says_all_of_an_image(session):
    found = Explorer(session).gallery(Wish(), None, first=3, count=1)
    assert found["total"] == 10
    assert found["images"] == [
        {
            "id": "3.png", "label": "ill", "who": "Ada", "reason": None, "predicted": "well", "probability": 0.8,
            "disagreement": 0.8, "contradicted": True,
        }
    ]  # fmt: skip
    [bad] = Explorer(session).gallery(Wish("unreadable"), None)["images"]
    assert (bad["reason"], bad["predicted"], bad["contradicted"]) == ("it is damaged", None, False)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish("unsur"), "show: expected one of .*, got 'unsur'. Did you mean 'unsure'"),
        (Wish(label="wel"), "label: expected one of .*, got 'wel'. Did you mean 'well'"),
        (Wish(predicted="x"), "predicted: expected one of .*, got 'x'"),
    ],
)
def test_an_unknown_list_is_refused(session, wish, message):
    with pytest.raises(ValueError, match=message):
        Explorer(session).gallery(wish, None)


def test_similar_images_are_ordered_by_the_cosine_to_one(session):
    points = session.chain.points
    found = ids(Explorer(session).alike("2.png", None))
    assert found == [IDS[place] for place in np.argsort(-(points @ points[2]), kind="stable")]
    assert (found[0], ids(Explorer(session).alike("2.png", None, count=3))) == ("2.png", found[:3])


def test_an_image_that_is_not_there_or_has_not_been_seen_has_none_like_it(session):
    with pytest.raises(UnknownImageError):
        Explorer(session).alike("gone.png", None)
    for key in ("bad.png", "new.png"):
        with pytest.raises(ValueError, match=f"id: expected an image that the network has seen, got '{key}'"):
            Explorer(session).alike(key, None)


def test_who_reads_an_image_blind_is_told_nothing_of_it(tmp_path):
    session = make(tmp_path, share=1.0)
    session.readers.put("3.png", "ill", who="Ada", settle=False)
    explorer = Explorer(session)
    for who, label in (("Ada", 0), ("Bob", -1)):
        found = explorer.map(who)
        assert (found["label"][3], found["predicted"], found["disagreement"]) == (label, [-1] * 8, [-1] * 8)
    assert explorer.gallery(Wish(label="ill"), "Bob")["total"] == 0
    assert explorer.gallery(Wish("labeled"), "Ada")["images"][0]["who"] == "Ada"
    session.readers.put("3.png", "ill", who="Bob", settle=False)
    assert explorer.map("Cyd")["label"][3] == 0  # both have read it


def test_of_findings_the_first_one_that_is_present_counts(tmp_path):
    session = make(tmp_path, findings=True)
    session.store.put("3.png", "ill=0|well=1", who="Ada")
    session.store.put("4.png", "ill=0", who="Ada")
    session.chain.live.probabilities = CHANCES.copy()
    session.chain.live.probabilities[0] = [0.3, 0.4]
    session.chain.live.held_out = {"3.png": np.array([0.9, 0.8]), "4.png": np.array([0.1, 0.9])}
    explorer = Explorer(session)
    found = explorer.map(None)
    assert (found["words"], found["predictable"]) == (["ill", "well", "no finding", "cannot tell"], 3)
    assert (found["label"][:5], found["predicted"][:5]) == ([-1, -1, -1, 1, 2], [2, 0, 1, 0, 1])
    assert found["disagreement"][3:5] == [55, 10]  # (0.9 + 0.2) / 2; of what is not known, nothing is said
    assert ids(explorer.gallery(Wish("contradicted"), None)) == ["3.png"]
    assert ids(explorer.gallery(Wish("unsure"), None))[0] == "2.png"
    assert ids(explorer.gallery(Wish(label="no finding"), None)) == ["4.png"]
