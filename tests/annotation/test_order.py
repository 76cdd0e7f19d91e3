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

import numpy as np
import pytest

from monai_weckd.annotation.order import Scores, suggest
from monai_weckd.plan.label_kind import LabelKind

CLASSES = ("ill", "well")
ITEMS = [{"id": f"i{number:02}", "group": f"g{number // 2}"} for number in range(12)]
IDS = [item["id"] for item in ITEMS]


def scores(*, students=2, ids=IDS, unreadable=(), seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(len(ids), 5)).astype(np.float32)
    first = rng.uniform(size=(students, len(ids), 1))
    probabilities = np.concatenate([first, 1 - first], axis=2)
    return Scores.empty("x").with_more(ids, features, probabilities, dict.fromkeys(unreadable, "broken"))


def ask(found, *, labeled=(), count=4, items=ITEMS, stage=1):
    return suggest(
        found, items, dict.fromkeys(labeled, "ill"), kind=LabelKind(CLASSES), count=count, stage=stage, seed=0
    )


def test_disagreement_is_the_total_variation_distance():
    probabilities = np.array([[[0.9, 0.1], [0.5, 0.5]], [[0.2, 0.8], [0.5, 0.5]]])
    found = Scores.empty("x").with_more(["a", "b"], np.zeros((2, 3)), probabilities, {})
    np.testing.assert_allclose(found.disagreement, [0.7, 0.0], atol=1e-12)
    np.testing.assert_array_equal(found.probabilities, probabilities[1])


@pytest.mark.parametrize("students", [0, 1, 2])
def test_what_is_kept_survives_the_file(tmp_path, students):
    found = scores(students=students, unreadable=["z"])
    found.save(tmp_path)
    again = Scores.load(tmp_path, "x")
    assert (again.ids, again.made_by, again.unreadable) == (found.ids, "x", {"z": "broken"})
    for name in ("features", "probabilities", "disagreement"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert Scores.load(tmp_path, "another student").ids == ()
    assert Scores.load(tmp_path / "none", "x").ids == ()


def test_further_images_are_added_behind():
    first, second = scores(ids=IDS[:5]), scores(ids=IDS[5:], seed=1)
    both = first.with_more(IDS[5:], second.features, np.stack([second.probabilities] * 2), {})
    assert both.ids == tuple(IDS)
    np.testing.assert_array_equal(both.features, np.concatenate([first.features, second.features]))


def test_before_a_student_images_that_stand_for_others_are_asked_for():
    found = ask(scores(students=0), count=3)
    assert len({one.id for one in found}) == 3
    assert {one.reason for one in found} == {"stands for many images without a label"}
    assert [one.probabilities for one in found] == [None] * 3


def test_those_on_which_students_differ_come_first():
    seen = scores()
    found = ask(seen, count=5)
    place = {key: row for row, key in enumerate(seen.ids)}
    changes = [seen.disagreement[place[one.id]] for one in found]
    assert changes == sorted(changes, reverse=True)
    assert "the last two students differ by" in found[0].reason
    assert "margin" in found[0].reason


def test_with_one_student_the_smallest_margin_comes_first():
    found = ask(scores(students=1), count=5)
    margins = [abs(one.probabilities[0] - one.probabilities[1]) for one in found]
    assert margins == sorted(margins)
    assert "differ" not in found[0].reason


def test_images_not_yet_seen_come_first_and_unreadable_ones_never():
    seen = scores(ids=IDS[:8], unreadable=[IDS[11]])
    found = [one.id for one in ask(seen, count=2)]
    assert sorted(found[:3]) == IDS[8:11]
    assert len(found) == 5
    assert IDS[11] not in found


@pytest.mark.parametrize("students", [0, 2])
def test_every_image_is_asked_for_once_until_none_is_left(students):
    seen, labeled = scores(students=students), []
    while found := ask(seen, labeled=labeled, count=5):
        labeled += [one.id for one in found]
    assert sorted(labeled) == IDS


def test_a_labeled_image_or_one_that_is_gone_is_not_asked_for():
    found = ask(scores(), labeled=IDS[:4], items=ITEMS[:10], count=50)
    assert sorted(one.id for one in found) == IDS[4:10]
    assert ask(scores(), labeled=IDS) == []


def flipped(content, place):
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("name", ["scores.npz", "features.npy"])
@pytest.mark.parametrize("damage", ["empty", "cut", "other", "gone", "huge", "a bit", "another bit"])
def test_damaged_scores_are_made_anew(tmp_path, caplog, name, damage):
    scores = Scores("s", ("a", "b"), np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2), {"c": "broken"}).save(tmp_path)
    assert Scores.load(tmp_path, "s").ids == scores.ids
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        huge = (
            np.lib.format.magic(1, 0)
            + b"v\0"
            + b"{'descr': '<f8', 'fortran_order': False, 'shape': (2000000000000, 3)}".ljust(117)
            + b"\n"
        )
        contents = {"empty": b"", "cut": content[:-40], "other": b"\x00" * 200, "huge": huge}
        # within an array of each file
        contents |= {"a bit": flipped(content, -5), "another bit": flipped(content, 140)}
        path.write_bytes(contents[damage])
    found = Scores.load(tmp_path, "s")
    assert (found.ids, found.unreadable) == ((), {})
    assert (f"{tmp_path / 'scores.npz'}: expected scores, got" in caplog.text) == (
        damage != "gone" or name != "scores.npz"
    )
    scores.save(tmp_path)


def test_a_guide_decides_where_there_is_no_student_yet():
    random = np.random.default_rng(0)
    ids = tuple(f"{place}.png" for place in range(60))
    items = [{"id": key, "image": key} for key in ids]
    features = random.normal(size=(60, 4)).astype(np.float32)
    scores = Scores.empty("").with_more(ids, features, np.zeros((0, 60, 2)), {})
    sure, unsure = np.array([1.0, 0.0]), np.array([0.5, 0.5])
    guide = np.where((np.arange(60) < 6)[:, None], unsure, sure)
    options = {"kind": LabelKind(("a", "b")), "count": 6, "stage": 1, "seed": 0}
    found = suggest(scores, items, {"59.png": "a"}, guide=guide, **options)
    alone = suggest(scores, items, {"59.png": "a"}, **options)
    assert {one.id for one in found} == set(ids[:6])
    assert {one.id for one in alone} != set(ids[:6])
    assert all(one.probabilities is None for one in found)
