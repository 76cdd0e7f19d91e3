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
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from monai_weckd.annotation import AnnotationSession, UnknownImageError
from monai_weckd.annotation.alike import confirm_batch, find_batch, related_images, similar_labeled
from monai_weckd.annotation.explore import Explorer
from monai_weckd.annotation.label_files import rebuild_labels
from monai_weckd.annotation.order import Outputs, Scores, components
from monai_weckd.plan.label_kind import LabelKind

NAMES = [f"{number}.png" for number in range(12)]


@pytest.fixture
def here(tmp_path):
    """Return a session of twelve images: eight ill ones, of which four are as good as the same, and four well ones."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in NAMES:
        Image.new("RGB", (4, 4)).save(folder / name)
    random = np.random.default_rng(0)
    features = random.normal(0, 1, (12, 20))
    features[:4] = features[0] + 0.01 * random.normal(0, 1, (4, 20))
    ill = np.array([0.95] * 4 + [0.99] * 4 + [0.01] * 3 + [0.4])
    scores = Scores("", tuple(NAMES), features.astype(np.float32), np.zeros((12, 0)), np.zeros(12), {})
    points = components(scores)
    outputs = Outputs(scores.ids, points, np.stack([ill, 1 - ill], axis=1))
    bundle = SimpleNamespace(
        kind=LabelKind(("ill", "well")), spatial_dims=2, item_level="image", root=Path("b"), seed=0
    )
    chain = SimpleNamespace(
        bundle=bundle,
        output_dir=tmp_path / "output",
        learn=lambda *given: None,
        outputs=outputs,
        scores=scores,
        points=points,
        live=None,
        unreadable={},
    )
    return AnnotationSession(chain, folder)


def test_a_batch_is_the_tightest_group_of_the_class_with_most_confident_images(here):
    found = find_batch(here, count=4)
    assert found.label == "ill"
    assert sorted(found.ids) == NAMES[:4]
    assert found.probabilities == (0.95,) * 4
    assert len(find_batch(here).ids) == 8


def test_labeled_images_and_those_of_other_windows_are_in_no_batch(here):
    here.put_label("0.png", "well")
    here.leases.take("other", [SimpleNamespace(id="1.png")], count=1)
    assert set(find_batch(here, window="mine").ids) == set(NAMES[2:8])
    for name in NAMES[2:8]:
        here.put_label(name, "ill")
    assert find_batch(here, window="mine").label == "well"
    assert set(find_batch(here, window="mine").ids) == set(NAMES[8:11])  # not the one of which nobody is sure
    for name in NAMES[8:10]:
        here.put_label(name, "ill")
    assert find_batch(here, window="mine") is None
    here.chain.outputs = here.chain.outputs._replace(probabilities=None)
    assert find_batch(here) is None


def test_what_is_confirmed_says_so_in_the_log(here):
    here.put_label("1.png", "well", who="Bob")
    found = confirm_batch(here, "Ill", NAMES[:4], who="Ada")
    assert found == {"labeled": ["0.png", "2.png", "3.png"], "left": ["1.png"]}
    assert here.labels == {"1.png": "well", **dict.fromkeys(found["labeled"], "ill")}
    lines = [json.loads(line) for line in here.store.path.with_suffix(".log").read_text().splitlines()][1:]
    assert [(line["who"], line["what"], line["id"], line["label"], line["info"]) for line in lines] == [
        ("Ada", "label", key, "ill", {"batch": 3}) for key in found["labeled"]
    ]
    assert here.store.info("0.png")["batch"] == 3
    assert rebuild_labels(here.store.path)


def test_what_is_confirmed_leaves_the_queue_of_the_person(here):
    here.queue(["0.png", "5.png"], who="Ada")
    confirm_batch(here, "ill", NAMES[:4], who="Ada")
    assert here.queues.of("Ada") == ("5.png",)


def test_what_is_no_image_or_class_is_refused_before_any_label(here):
    with pytest.raises(UnknownImageError):
        confirm_batch(here, "ill", ["0.png", "none"])
    with pytest.raises(ValueError, match="label: expected one of the 2 classes, got 'il'"):
        confirm_batch(here, "il", ["0.png"])
    with pytest.raises(ValueError, match=r"count: expected 2 images or more, got 1\. Pass e\.g\. 12\."):
        find_batch(here, count=1)
    assert here.labels == {}
    here.chain.bundle.kind = LabelKind(("ill", "well"), findings=True)
    for ask in (find_batch, lambda session: confirm_batch(session, "ill", ["0.png"])):
        with pytest.raises(
            ValueError, match=r"batch: expected one class an image, got findings\. Label these images one"
        ):
            ask(here)


def test_images_that_are_read_twice_are_in_no_batch_and_show_no_similar_ones(here):
    here.readers.share = 1.0
    assert find_batch(here, who="Ada") is None
    assert confirm_batch(here, "ill", ["0.png"], who="Ada") == {"labeled": [], "left": ["0.png"]}
    here.readers.share = 0.0
    here.put_label("1.png", "ill")
    assert similar_labeled(here, "0.png", who="Ada") == [{"id": "1.png", "label": "ill"}]
    here.readers.share = 1.0
    assert similar_labeled(here, "0.png", who="Ada") == []


def test_the_most_similar_labeled_images_come_first(here):
    assert similar_labeled(here, "0.png") == []
    for name in NAMES[5:9]:
        here.put_label(name, "well")
    here.put_label("3.png", "ill")
    here.put_label("2.png", "cannot tell")
    found = similar_labeled(here, "0.png")
    assert len(found) == 3
    assert found[0] == {"id": "3.png", "label": "ill"}
    # in the order of "more like this"
    ordered = [one["id"] for one in Explorer(here).alike("0.png", None)["images"]]
    assert [one["id"] for one in found] == [key for key in ordered if key in here.labels and key != "0.png"][:3]
    with pytest.raises(UnknownImageError):
        similar_labeled(here, "none")
    here.chain.scores = Scores.empty("")
    assert similar_labeled(here, "0.png") == []


def test_other_images_of_a_group_are_those_nearest_by_name(here):
    for key, item in here.items.items():
        item["group"] = "a" if key in NAMES[:6] else key
    order = [key for key in here.items if key in NAMES[:6]]
    own = order.index("3.png")
    assert related_images(here, "3.png", count=2) == [order[own - 1], order[own + 1]]
    assert related_images(here, "3.png") == [key for key in order if key != "3.png"]
    assert related_images(here, "7.png") == []
    # the index of groups is that of the last list
    (here.studies / "2.png").unlink()
    here.refresh()
    assert related_images(here, "3.png") == []
