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
import os
import time

import pytest
from annotation_runs import QuietChain, label_all

from monai_weckd.annotation import (
    AnnotationSession,
    NoStageError,
    StageStoppedError,
    UnknownImageError,
    session,
    state,
)
from monai_weckd.annotation.order import Suggestion
from monai_weckd.plan.label_kind import LabelKind


def counts(**known):
    names = ("total", "labeled", "set_aside", "unlabeled", "disputed", "shared", "waiting", "unreadable")
    return {**dict.fromkeys(names, 0), **known}


def test_refuses_an_image_that_is_not_there(here):
    for ask in (here.item, lambda key: here.put_label(key, "ill")):
        with pytest.raises(
            UnknownImageError, match=r"id: expected an image in 'images', got 'none'\. Ask for the list\."
        ):
            ask("none")


def test_refuses_another_class_and_a_folder_without_images(here, tmp_path):
    with pytest.raises(ValueError, match=r"label: expected one of the 2 classes, got 'backgrund'\. Did you mean"):
        here.put_label("g0/ear.png", "backgrund")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="images: expected PNG, JPEG, TIFF, BMP, NIfTI or DICOM files below"):
        AnnotationSession(here.chain, tmp_path / "empty")


def test_refuses_a_file_name_that_no_answer_can_hold(here, images):
    os.rename(images / "g3", os.fsencode(images) + b"/\xff")
    with pytest.raises(ValueError, match=r"images: expected file names in UTF-8, got '\\udcff/ear\.png'\. Rename it\."):
        here.refresh()


def test_refuses_a_prediction_before_there_is_a_student(here):
    with pytest.raises(NoStageError, match=r"model: expected a chain with a stage, got none yet\. Label images and"):
        here.predict(here.item("g0/ear.png")["image"])


def test_refuses_a_label_budget_below_one(here):
    with pytest.raises(ValueError, match=r"label_budget: expected 1 label or more, got 0\. Pass e\.g\. 48\."):
        AnnotationSession(here.chain, here.studies, label_budget=0)
    assert AnnotationSession(here.chain, here.studies, label_budget=2).state()["label_budget"] == 2


def test_tells_the_last_labels_and_what_they_replaced(here, monkeypatch):
    monkeypatch.setattr(state, "LAST", 4)
    assert here.state()["last_labels"] == []
    for key in sorted(here.items):
        assert here.put_label(key, "ill") is None
    assert here.put_label("g1/ear.png", "Background", who="Ada") == "ill"
    found = here.state()["last_labels"]
    assert found[0] == {"id": "g1/ear.png", "label": "Background", "who": "Ada"}
    assert found[1]["who"] is None
    assert [one["id"][:2] for one in found] == ["g1", "g5", "g4", "g3"]


def test_new_images_are_found_and_those_gone_are_forgotten(here, images, monkeypatch):
    monkeypatch.setattr(session, "_LISTED_FOR", -1.0)
    here.put_label("g1/ear.png", "ill")
    (images / "g0" / "ear.png").rename(images / "new.png")
    (images / "g1" / "ear.png").unlink()
    wanted = {"new.png", *(f"g{number}/ear.png" for number in range(2, 6))}
    until = time.monotonic() + 200
    while set(here.items) != wanted:  # listed in the background
        assert time.monotonic() < until
        time.sleep(0.01)
    assert here.labels == {}
    assert here.state()["images"] == {
        "total": 5,
        "labeled": 0,
        "set_aside": 0,
        "unlabeled": 5,
        "disputed": 0,
        "shared": 0,
        "waiting": 0,
        "unreadable": 0,
    }


def test_what_is_asked_for_and_not_known_is_looked_at_behind(here):
    assert [one.id for one in here.next(count=2)] == sorted(here.items)[:2]
    assert here.chain.looked.wait(200)


def test_the_log_has_all_that_was_done(here):
    label_all(here)
    here.skip("g0/ear.png", who="Ada")
    here.skip("g0/ear.png", who="Ada", undo=True)
    here.remove_label("g0/ear.png", who="Ada")
    here.put_label("g0/ear.png", "ill", who="Ada")
    here.reserve(who="Ada")
    here.stop()
    with pytest.raises(StageStoppedError):
        here.train(reserved=True)
    here.chain.go.set()
    here.train()
    log = here.store.path.with_suffix(".log").read_text().splitlines()
    done = [{key: value for key, value in json.loads(line).items() if key != "ts"} for line in log][6:]
    assert done[:4] == [
        {"who": "Ada", "what": what, "id": "g0/ear.png", **more}
        for what, more in (("skip", {}), ("undo skip", {}), ("undo", {}), ("label", {"label": "ill"}))
    ]
    assert [(one["who"], one["what"], one["stage"]) for one in done[4:]] == [
        ("Ada", "training", 1),
        (None, "trained", 1),
        (None, "training", 1),
        (None, "trained", 1),
    ]
    assert done[4]["labels"] == 6
    assert done[5]["error"].startswith("stage: stopped after epoch 2")
    with pytest.raises(UnknownImageError):
        here.skip("none")


def test_an_answer_in_place_of_a_class_is_kept_and_counted_and_trains_nothing(here):
    seen = []
    here.chain.learn = lambda items, labels, shares: seen.append(({item["id"] for item in items}, set(labels)))
    label_all(here)
    for number, answer in enumerate(("cannot tell", "bad quality", "Cannot tell")):
        here.put_label(f"g{number}/ear.png", answer, who="Ada")
    found = here.state()
    assert found["images"] == {
        "total": 6,
        "labeled": 3,
        "set_aside": 3,
        "unlabeled": 0,
        "disputed": 0,
        "shared": 0,
        "waiting": 0,
        "unreadable": 0,
    }
    assert found["labels"] == {"ill": 1, "Background": 2}
    assert found["answers"] == {"cannot tell": 2, "bad quality": 1}
    assert found["last_labels"][0] == {"id": "g2/ear.png", "label": "cannot tell", "who": "Ada"}
    assert here.budget() == 3
    assert set(here.labels) == {f"g{number}/ear.png" for number in (3, 4, 5)}
    while not seen or seen[-1][1] != set(here.labels):
        time.sleep(0.01)
    assert seen[-1][0] == set(here.labels)
    here.remove_label("g0/ear.png")
    here.remove_label("g3/ear.png")
    assert [one.id for one in here.next(count=6)] == ["g0/ear.png", "g3/ear.png"]
    given = []
    here.chain.val_fraction = 0
    here.chain.append_stage = lambda items, labels, **options: given.append((items, labels)) or {"stage": 1}
    here.train()
    assert {item["id"] for item in given[0][0]} == {f"g{number}/ear.png" for number in (0, 3, 4, 5)}
    assert set(given[0][1]) == {"g4/ear.png", "g5/ear.png"}
    with pytest.raises(ValueError, match=r"label: expected one of the 2 classes, got 'bad qualty'\. Did you mean"):
        here.put_label("g0/ear.png", "bad qualty")


def test_an_answer_that_is_a_class_is_a_class(images, tmp_path):
    chain = QuietChain(tmp_path / "output")
    chain.bundle.kind = LabelKind(("ill", "Cannot Tell"))
    here = AnnotationSession(chain, images)
    assert here.answers == ("bad quality",)
    here.put_label("g0/ear.png", "cannot tell")
    assert here.labels == {"g0/ear.png": "Cannot Tell"}
    assert here.store.info("g0/ear.png").get("answer") is None


def wanted(here, who="Ada", **options):
    return [(one.id[:2], one.reason) for one in here.next(who=who, **options)]


def test_queued_images_come_before_the_order_for_who_queued_them(here, tmp_path):
    assert here.queue(["g4/ear.png", "g2/ear.png"], who="Ada") == 2
    assert wanted(here, count=3) == [("g4", "you queued it"), ("g2", "you queued it"), ("g0", "why")]
    assert wanted(here, "Bob") == [("g0", "why")]
    here.put_label("g4/ear.png", "ill", who="Bob")  # she may still say what she thinks
    assert wanted(here)[0][0] == "g4"
    here.put_label("g4/ear.png", "Background", who="Ada")
    here.skip("g2/ear.png", who="Ada", undo=True)
    assert wanted(here)[0][0] == "g2"
    here.skip("g2/ear.png", who="Ada")
    assert wanted(here, without=["g2/ear.png"]) == [("g0", "why")]
    here.queue(["g5/ear.png"], who="Ada")
    assert here.queue([], who="Ada") == 0
    lines = [json.loads(line) for line in (tmp_path / "output" / "labels.log").read_text().splitlines()]
    queued = [(line["who"], line["ids"]) for line in lines if line["what"] == "queue"]
    assert queued == [("Ada", ["g4/ear.png", "g2/ear.png"]), ("Ada", ["g5/ear.png"]), ("Ada", [])]


def test_a_labeled_image_in_the_queue_is_shown_once(here):
    here.put_label("g1/ear.png", "ill", who="Ada")
    here.queue(["g1/ear.png", "g3/ear.png"], who="Ada")
    assert [name for name, _ in wanted(here, window="w", count=2)] == ["g1", "g3"]
    assert [name for name, _ in wanted(here, window="w", count=2)] == ["g3", "g0"]
    assert [name for name, _ in wanted(here, window="w", count=2)] == ["g3", "g0"]  # it has no label yet


def test_what_cannot_be_queued_is_refused_or_left_out(here):
    with pytest.raises(UnknownImageError):
        here.queue(["g0/ear.png", "none"], who="Ada")
    here.chain.unreadable = {"g0/ear.png": "it is damaged"}
    assert here.queue(["g0/ear.png"], who="Ada") == 0


def test_a_window_keeps_what_it_has_got_ready(here, monkeypatch):
    assert [name for name, _ in wanted(here, window="w", count=2)] == ["g0", "g1"]
    here.put_label("g0/ear.png", "ill", who="Ada")
    order = ["g5", "g4"]
    monkeypatch.setattr(
        here.chain, "next", lambda items, labels, *, count: [Suggestion(f"{one}/ear.png", "new", None) for one in order]
    )
    assert wanted(here, window="w", count=2) == [("g1", "why"), ("g5", "new")]
    here.put_label("g1/ear.png", "ill", who="Bob")
    assert [name for name, _ in wanted(here, window="w", count=2)] == ["g5", "g4"]
