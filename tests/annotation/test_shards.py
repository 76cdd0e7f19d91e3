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
from hypothesis import given as for_all
from hypothesis import strategies as st

from monai_weckd.annotation.label_words import LabelWords
from monai_weckd.annotation.shards import GivenLabels, labeled_items, plan_next_stage
from monai_weckd.plan.checks import check_plan
from monai_weckd.plan.label_kind import LabelKind

CLASSES = ("ill", "well")
ITEMS = [{"id": f"{group}{number}", "group": group} for group in "abcdefgh" for number in (1, 2)]


def plan(labels, given=None, *, items=ITEMS, policy="cumulative", val_fraction=0.25, seed=0, classes=CLASSES):
    settings = {
        "words": LabelWords(LabelKind(tuple(classes))),
        "policy": policy,
        "val_fraction": val_fraction,
        "seed": seed,
    }
    return plan_next_stage(items, labels, given or GivenLabels(), **settings)


FIRST = {"a1": "ill", "b1": "well", "c1": "ill", "d1": "well", "a2": "ill"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({}, r"labels: expected labels in two groups or more of at least two classes, got 0 of 'ill', 0 of 'well'\. L"),
        ({"a1": "ill", "b1": "well"}, r"got 1 of 'ill', 1 of 'well'\. Label more images\."),
        # two images of one group do not part
        ({"a1": "ill", "a2": "ill", "b1": "well", "b2": "well"}, "got 2 of 'ill', 2 of 'well'"),
        ({"a1": "ill", "b1": "ill", "c1": "well"}, "got 2 of 'ill', 1 of 'well'"),
    ],
)
def test_refuses_labels_that_cannot_both_train_and_validate(labels, message):
    with pytest.raises(ValueError, match=message):
        plan(labels)


def test_refuses_another_class():
    with pytest.raises(ValueError, match=r"label: expected one of the 2 classes, got 'wel'\. Did you mean 'well'"):
        plan({**FIRST, "a1": "wel"})


def test_refuses_a_stage_without_new_labels():
    _, given = plan(FIRST)
    with pytest.raises(ValueError, match=r"labels: expected new labels for training since stage 1, got none\. Label"):
        plan(FIRST, given)


def test_refuses_a_stage_when_nothing_is_left_of_an_earlier_one():
    _, given = plan(FIRST)
    others = {f"{group}1": CLASSES[place % 2] for place, group in enumerate("efgh")}
    validating = {key: label for key, label in FIRST.items() if given.split_of[key[0]] == "val"}
    with pytest.raises(ValueError, match=r"labels: expected some of the labels of stage 1, got none, as all were with"):
        plan({**others, **validating}, given)


def test_the_first_stage_has_all_labels_that_do_not_validate():
    found, given = plan(FIRST)
    validating = {group for group, split in given.split_of.items() if split == "val"}
    # one group of each class validates, the other one trains
    assert len(validating & {"a", "c"}) == len(validating & {"b", "d"}) == 1
    assert set(found.val) == {key for key in FIRST if key[0] in validating}
    assert set(found.stages[0].labeled) == FIRST.keys() - set(found.val)
    assert set(found.pool(1)) == {
        item["id"] for item in ITEMS if item["group"] not in validating and item["id"] not in FIRST
    }
    assert set(found.unused) == {
        item["id"] for item in ITEMS if item["group"] in validating and item["id"] not in FIRST
    }
    assert given.shards == (tuple(key for key in FIRST if key[0] not in validating),)
    assert given.touched == FIRST.keys()
    assert found.settings.selection == "given"


@pytest.mark.parametrize("policy", ["cumulative", "disjoint"])
def test_the_next_stage_brings_what_came_since(policy):
    _, given = plan(FIRST, policy=policy)
    labels = {**FIRST, "e1": "ill", "f1": "well", "g1": "ill"}
    found, later = plan(labels, given, policy=policy)
    assert {key: later.split_of[key] for key in given.split_of} == given.split_of
    assert later.shards[0] == given.shards[0]
    new = {key for key in ("e1", "f1", "g1") if later.split_of[key[0]] == "train"}
    assert set(found.stages[1].new) == new
    old = set(given.shards[0]) if policy == "cumulative" else set()
    assert set(found.stages[1].labeled) == new | old
    assert set(found.pool(2)) == set(found.train) - new - old


def test_a_label_taken_back_before_the_stage_leaves_no_trace():
    labels = {**FIRST, "e1": "ill"}
    del labels["e1"]
    assert plan(labels) == plan(FIRST)


def test_a_label_taken_back_after_a_stage_leaves_its_shard_and_stays_in_the_budget():
    _, given = plan(FIRST)
    gone, *rest = given.shards[0]
    labels = {key: label for key, label in {**FIRST, "e1": "ill", "f1": "well", "g1": "ill"}.items() if key != gone}
    found, later = plan(labels, given)
    assert later.shards[0] == tuple(rest)
    assert gone in found.pool(2)
    assert gone in later.touched


def test_a_changed_label_stays_in_its_shard():
    _, given = plan(FIRST)
    key = given.shards[0][0]
    labels = {**FIRST, key: "well" if FIRST[key] == "ill" else "ill", "e1": "ill", "f1": "well", "g1": "ill"}
    found, later = plan(labels, given)
    assert later.shards[0] == given.shards[0]
    items = {item["id"]: item["label"] for item in labeled_items(ITEMS, labels, LabelWords(LabelKind(tuple(CLASSES))))}
    assert items[key] == CLASSES.index(labels[key])
    assert items["h1"] == -1
    assert key in found.stages[1].labeled


def test_images_that_are_gone_are_left_out():
    _, given = plan(FIRST)
    key = given.shards[0][0]
    items = [item for item in ITEMS if item["id"] != key]
    found, later = plan({**FIRST, "e1": "ill", "f1": "well", "g1": "ill"}, given, items=items)
    assert key not in {*found.train, *found.val}
    assert key not in later.shards[0]


def moved(group_of):
    return [{**item, "group": group_of(item["id"])} for item in ITEMS]


def test_images_that_have_trained_go_on_training_in_another_group():
    apart = moved(lambda key: key)  # as without a manifest
    labels = {item["id"]: CLASSES[ord(item["group"]) % 2] for item in ITEMS[:10]}
    _, given = plan(labels, items=apart)
    more = {**labels, **{item["id"]: CLASSES[ord(item["group"]) % 2] for item in ITEMS[10:]}}
    for seed in range(8):  # each draws other groups for validation
        found, later = plan(more, given, seed=seed)
        trained = {key[0] for key in given.shards[0]}
        assert trained.isdisjoint(key[0] for key in found.val)
        assert later.shards[0] == given.shards[0]


def test_refuses_to_validate_with_an_image_that_has_trained():
    _, given = plan(FIRST)
    key = given.shards[0][0]
    validating = next(group for group, split in given.split_of.items() if split == "val")
    with pytest.raises(
        ValueError, match=rf"group: expected one in training for '{key}', as before, got '{validating}', which is for"
    ):
        plan(
            {**FIRST, "e1": "ill", "f1": "well", "g1": "ill"},
            given,
            items=moved(lambda one: validating if one == key else one[0]),
        )


def test_what_is_kept_survives_json():
    _, given = plan(FIRST)
    assert GivenLabels.from_dict(given.to_dict()) == GivenLabels(given.split_of, given.shards, given.touched)


@for_all(
    order=st.permutations([item["id"] for item in ITEMS]),
    cuts=st.tuples(st.integers(6, 9), st.integers(10, 12), st.integers(13, 16)),
    fraction=st.sampled_from([0.1, 0.25, 0.5]),
    seed=st.integers(0, 3),
)
def test_no_group_is_ever_in_two_splits(order, cuts, fraction, seed):
    given, home = GivenLabels(), {}
    for cut in cuts:
        labels = {key: CLASSES[ord(key[0]) % 2] for key in order[:cut]}
        try:
            found, given = plan(labels, given, val_fraction=fraction, seed=seed)
        except ValueError as error:
            assert str(error).startswith("labels: expected")  # noqa: PT017
            continue
        assert (
            check_plan(found, labeled_items(ITEMS, labels, LabelWords(LabelKind(tuple(CLASSES)))))[1:] == []
        )  # but that there is no test split
        for split in ("train", "val"):
            for key in getattr(found, split):
                if key in labels:
                    assert home.setdefault(key[0], split) == split
        for name in CLASSES:
            groups = {key[0] for key, label in labels.items() if label == name}
            validating = sum(given.split_of[group] == "val" for group in groups)
            assert validating <= max(1, round(fraction * len(groups)))
            assert validating < max(2, len(groups))


def test_without_validation_every_label_trains():
    found, given = plan({"a1": "ill", "b1": "well"}, val_fraction=0.0)
    assert set(given.split_of.values()) == {"train"}
    assert (found.val, found.unused) == ((), ())
    assert set(found.stages[0].labeled) == {"a1", "b1"}
    assert set(found.train) == {item["id"] for item in ITEMS}
    with pytest.raises(ValueError, match="labels: expected labels of at least two classes, got 1 of 'ill', 0 of 'wel"):
        plan({"a1": "ill"}, val_fraction=0.0)


def test_groups_that_validated_go_on_when_no_more_are_asked_for():
    _, given = plan(FIRST)
    found, later = plan({**FIRST, "e1": "ill", "f1": "well", "g1": "ill"}, given, val_fraction=0.0)
    validating = {group for group, split in given.split_of.items() if split == "val"}
    assert {key[0] for key in found.val} == validating
    assert {later.split_of[group] for group in "efg"} == {"train"}
    # of what is left of them, one class cannot be told from another
    left = {key: label for key, label in FIRST.items() if key[0] not in validating or label == "ill"}
    with pytest.raises(ValueError, match=r"labels: expected labels in two groups or more of at least two classes, got"):
        plan({**left, "e1": "ill", "f1": "well"}, given, val_fraction=0.0)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [],
        None,
        "x",
        {"split_of": {}, "shards": [[1]], "touched": []},
        {"split_of": {"a": "test"}, "shards": [], "touched": []},
        {"split_of": {}, "shards": 5, "touched": []},
        {"split_of": {}, "shards": [], "touched": [None]},
    ],
)
def test_a_record_of_another_form_is_refused(content):
    with pytest.raises((ValueError, KeyError, TypeError)):
        GivenLabels.from_dict(content)
