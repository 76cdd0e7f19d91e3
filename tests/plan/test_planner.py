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

import builtins
import hashlib
import json
import random
from collections import Counter
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from call_counts import count_calls
from held_out import FRACTIONS, held_out
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from monai_weckd.data.datalist import load_datalist
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.checks import PlanError, check_plan
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.plan.planner import plan_chain, plan_training
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.utils.draws import apportion
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.options import option_names

CLASSES = ("ill", "well", "unsure")
POLICIES = ("disjoint", "cumulative", "shared")


def make_items(count: int = 300, *, per_group: int = 2, unlabeled: int = 0) -> list[dict]:
    """Return items whose groups and classes are independent, the last few unlabeled."""
    return [
        {
            "id": f"i{i:04}",
            "image": f"/data/i{i:04}.png",
            "group": f"p{i // per_group}",
            "label": UNLABELED if i >= count - unlabeled else (i * 7 + i // 5) % 3,
        }
        for i in range(count)
    ]


def with_splits(items: list[dict]) -> list[dict]:
    return [{**item, "split": ("train", "train", "val", "test")[int(item["group"][1:]) % 4]} for item in items]


def labels_of(items: list[dict]) -> dict[str, int]:
    return {item["id"]: item["label"] for item in items}


ITEMS = make_items()
SPLIT_ITEMS = with_splits(ITEMS)
PLAN = plan_chain(ITEMS, held_out(), classes=CLASSES)


def split_settings(arguments):
    """Return the arguments of plan_chain, of which those that are settings are passed as PlanSettings."""
    settings = {key: arguments.pop(key) for key in list(arguments) if key in option_names(PlanSettings)}
    return {**arguments, "settings": held_out(**settings)}


# ---------------------------------------------------------------------------------------------- validation


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_stages": 12, "items": ITEMS[:8], "val_fraction": 0, "test_fraction": 0},
            r"num_stages: expected as many labels of training items as stages, got 8 labels for 12 stages. Label more",
        ),
        (
            {"num_stages": 12, "items": ITEMS[:20], "val_fraction": 0, "test_fraction": 0},
            r"num_stages: expected a label of each of 3 classes in a shard, got 1 labels \(20 labels for 12 stages\)",
        ),
        (
            {"label_fraction": 0.002},
            r"expected a label of each of 3 classes in a shard, got 0 labels \(label_fraction=0.002",
        ),
        ({"label_fraction": 0.01}, r"expected a label of each of 3 classes in a shard, got 2 labels .*Pass larger"),
        ({"shard_size": 2}, r"shard_size: expected a label of each of 3 classes in a shard, got 2 labels"),
        ({"classes": ("ill", "well")}, r"items: expected class indices below 2, got 2 for 'i.*'. Pass all classes"),
        (
            {"classes": (*CLASSES, "rare")},
            r"class 'rare': expected labeled images in 3 groups or more, .*, got 0. Label .*, or leave the class out\.",
        ),
        (
            # two groups of nine
            {"shard_by": "group", "items": make_items(18, per_group=9), "stratify": False, "missing_classes": "allow"}
            | {"val_fraction": 0, "test_fraction": 0},
            r"shard_by: expected a group for each of 3 shards, got 2 labeled groups. Pass shard_by='item'",
        ),
    ],
)
def test_argument_validation(settings, message):
    with pytest.raises(ValueError, match=message) as error:
        plan_chain(**split_settings({"items": ITEMS, "classes": CLASSES, **FRACTIONS, **settings}))
    assert "\n" not in str(error.value)


def test_items_validation():
    with pytest.raises(ValueError, match="items: expected at least one, got none"):
        plan_chain([])
    with pytest.raises(ValueError, match="items: expected distinct ids, got 'i0000' twice"):
        plan_chain([*ITEMS, ITEMS[0]])
    with pytest.raises(ValueError, match="items: expected an 'id' in every item"):
        plan_chain([{"image": "a.png", "label": 0}])
    with pytest.raises(ValueError, match=r"num_stages: expected as many labels .* got 0 labels for 3 stages"):
        plan_chain([item if item["split"] != "train" else {**item, "label": UNLABELED} for item in with_splits(ITEMS)])


def test_explicit_split_validation():
    items = with_splits(ITEMS)
    with pytest.raises(ValueError, match=r"split: expected one for every item or for none, got none for 'i0007'"):
        plan_chain([{**item, "split": ""} if item["id"] == "i0007" else item for item in items])
    with pytest.raises(ValueError, match=r"split: expected one of .*, got 'tain' for 'i0000'. Did you mean 'train'\?"):
        plan_chain([{**item, "split": "tain"} if item["id"] == "i0000" else item for item in items])
    with pytest.raises(PlanError, match=r"train: expected at least one item, got none. Give some items another split"):
        plan_chain([{**item, "split": "test"} for item in items])
    with pytest.raises(
        PlanError, match=r"group: expected each in one split, got 1 parted, first 'p0' in train and test"
    ):
        plan_chain([{**item, "split": "test"} if item["id"] == "i0001" else item for item in items])


def test_class_missing_from_train():
    items = [
        {**item, "label": 0} if item["split"] == "train" and item["label"] == 2 else item for item in with_splits(ITEMS)
    ]
    with pytest.raises(PlanError, match=r"^train: expected labels of every class, got none of \['unsure'\] among \d+"):
        plan_chain(items, classes=CLASSES)
    with pytest.raises(
        PlanError, match=r"^stage 1: expected labels of every class, got none of \['unsure'\] among 15"
    ) as error:
        plan_chain(items, held_out(stratify=False), classes=CLASSES)
    assert [problem.split(":")[0] for problem in error.value.problems] == ["stage 1", "stage 2", "stage 3"]
    assert str(error.value).endswith("(2 more, see `problems`)")


def test_class_too_rare_for_the_stages():
    rare = [item["id"] for item in with_splits(ITEMS) if item["split"] == "train" and item["label"] == 2][2:]
    items = [{**item, "label": 0} if item["id"] in rare else item for item in with_splits(ITEMS)]
    with pytest.raises(PlanError, match=r"^stage 3: expected labels of every class, got none of \['unsure'\] among 15"):
        plan_chain(items, classes=CLASSES)
    assert plan_chain(items, held_out(num_stages=2), classes=CLASSES).settings.num_stages == 2


# ---------------------------------------------------------------------------------------------------- splits


def test_splits_hold_all_items_and_no_group_twice():
    assert sorted(PLAN.train + PLAN.val + PLAN.test) == sorted(labels_of(ITEMS))
    groups = [{item["group"] for item in PLAN.select(ITEMS, split)} for split in ("train", "val", "test")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 150


def home_of(plan):
    return {key: split for split in ("train", "val", "test") for key in getattr(plan, split)}


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.sets(st.integers(0, 149), min_size=1, max_size=60))
@settings(max_examples=30, deadline=None)
def test_a_later_plan_moves_no_group_of_an_earlier_one(seed, later_seed, removed):
    fewer = [item for item in ITEMS if int(item["group"][1:]) not in removed]
    earlier = plan_chain(fewer, held_out(seed=seed), classes=CLASSES)
    later = plan_chain(ITEMS, held_out(seed=later_seed), classes=CLASSES, earlier=earlier)
    assert home_of(earlier).items() <= home_of(later).items()
    assert check_plan(later, ITEMS) == []
    # the new groups bring the splits to their sizes
    assert abs(len(later.val) - 45) <= 12
    assert abs(len(later.test) - 75) <= 12


def test_an_earlier_plan_is_read_from_its_file(tmp_path):
    earlier = plan_chain(ITEMS[:200], held_out(), classes=CLASSES)
    path = tmp_path / "plan.json"
    path.write_text(earlier.to_json())
    later = plan_chain(ITEMS, held_out(seed=9), classes=CLASSES, earlier=path)
    assert later == plan_chain(ITEMS, held_out(seed=9), classes=CLASSES, earlier=earlier)
    path.write_text("{}")
    with pytest.raises(ValueError, match=rf"^{path}: plan: expected format 2, got None"):
        plan_chain(ITEMS, held_out(), classes=CLASSES, earlier=str(path))


def test_held_out_groups_stay_where_nothing_more_is_held_out():
    earlier = plan_chain(ITEMS[:200], held_out(), classes=CLASSES)
    later = plan_chain(ITEMS, classes=CLASSES, earlier=earlier)
    assert (later.val, later.test) == (earlier.val, earlier.test)
    assert set(later.train) == {item["id"] for item in ITEMS} - {*earlier.val, *earlier.test}


def test_an_earlier_plan_that_held_nothing_out_reads_no_label():
    oracle = LabelOracle(ITEMS)
    earlier = plan_chain(ITEMS[:200], PlanSettings(selection="herding"), classes=CLASSES)
    plan_chain(ITEMS, PlanSettings(selection="herding"), classes=CLASSES, earlier=earlier, oracle=oracle)
    assert oracle.revealed == frozenset()


def test_a_new_image_follows_the_group_it_belongs_to():
    earlier = plan_chain(ITEMS, held_out(), classes=CLASSES)
    groups = {item["id"]: item["group"] for item in ITEMS}
    more = [{"id": f"new{n}", "group": groups[key]} for n, key in enumerate((earlier.train[0], earlier.val[0]))]
    later = plan_chain([*ITEMS, *more], held_out(), classes=CLASSES, earlier=earlier)
    assert "new0" in later.train
    assert later.unused == ("new1",)


def test_what_does_not_fit_an_earlier_plan_is_refused():
    earlier = plan_chain(ITEMS, held_out(), classes=CLASSES)
    joined = [{**item, "group": "p"} if item["id"] in (earlier.train[0], earlier.test[0]) else item for item in ITEMS]
    with pytest.raises(
        ValueError, match=r"group: expected items of one split of the earlier plan in 'p', got train and"
    ):
        plan_chain(joined, held_out(), classes=CLASSES, earlier=earlier)
    others = [{**item, "id": f"x{item['id']}"} for item in ITEMS]
    with pytest.raises(ValueError, match=r"earlier: expected a plan of some of these items, got one of others"):
        plan_chain(others, held_out(), classes=CLASSES, earlier=earlier)


def test_splits_of_the_items_win_over_an_earlier_plan():
    earlier = plan_chain(ITEMS, held_out(), classes=CLASSES)
    items = with_splits(ITEMS)
    assert plan_chain(items, classes=CLASSES, earlier=earlier) == plan_chain(items, classes=CLASSES)


@given(
    st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), min_size=30, max_size=60),
    st.sampled_from(POLICIES),
    st.sampled_from(["item", "group"]),
    st.booleans(),
    st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_what_holds_for_every_plan(sizes, policy, shard_by, stratify, seed):
    items = [
        {"id": f"{group}/{place}", "image": "x", "group": f"g{group}", "label": (label + place) % 3}
        for group, (size, label) in enumerate(sizes)
        for place in range(size)
    ]
    arguments = {"policy": policy, "shard_by": shard_by, "stratify": stratify, "missing_classes": "allow"}
    try:
        plan = plan_chain(items, held_out(label_fraction=0.2, seed=seed, **arguments), classes=CLASSES)
    except PlanError:  # a class of fewer groups than splits, which is told
        assume(False)
    assert Counter(plan.train + plan.val + plan.test) == Counter(labels_of(items).keys())
    group = {item["id"]: item["group"] for item in items}
    splits = [{group[key] for key in getattr(plan, split)} for split in ("train", "val", "test")]
    assert sum(map(len, splits)) == len(sizes)
    seen = set()
    for stage in plan.stages:
        labeled, new = set(stage.labeled), set(stage.new)
        assert len(labeled) == len(stage.labeled) > 0
        assert labeled <= set(plan.train)
        assert not new & seen
        assert not labeled & set(plan.pool(stage.stage))
        if shard_by == "group":
            assert not {group[key] for key in new} & {group[key] for key in seen}
        seen |= new
        assert labeled == (new if policy == "disjoint" else seen)
    assert plan.label_budget["train"] == len(seen)


def test_explicit_splits_are_kept():
    items = with_splits(ITEMS)
    plan = plan_chain(items, held_out(seed=5), classes=CLASSES)
    for split in ("train", "val", "test"):
        assert set(getattr(plan, split)) == {item["id"] for item in items if item["split"] == split}


def test_explicit_splits_may_lack_validation_and_test():
    for absent in (["val"], ["test"], ["val", "test"]):
        items = [{**item, "split": "train" if item["split"] in absent else item["split"]} for item in SPLIT_ITEMS]
        plan = plan_chain(items)
        assert not any(getattr(plan, split) for split in absent)
        assert plan.classes == ("0", "1", "2")
        assert check_plan(plan, items) == []
        assert ChainPlan.from_json(plan.to_json()) == plan


def test_unlabeled_items_are_pool_in_train_and_unused_in_explicit_splits():
    items = make_items(unlabeled=60)
    unlabeled = {item["id"] for item in items if item["label"] == UNLABELED}
    for given_items in (items, with_splits(items)):
        plan = plan_chain(given_items, held_out(), classes=CLASSES)
        assert unlabeled == (set(plan.train) & unlabeled) | set(plan.unused)
        assert bool(plan.unused) == (given_items is not items)
        assert set(plan.train) & unlabeled
        for stage in plan.stages:
            assert not unlabeled & set(stage.labeled)
            assert unlabeled - set(plan.unused) <= set(plan.pool(stage.stage))


def test_by_default_nothing_is_held_out_of_few_labels():
    assert plan_chain(make_items(499), classes=CLASSES).train == tuple(sorted(labels_of(make_items(499))))
    plan = plan_chain(make_items(500), classes=CLASSES)
    assert abs(len(plan.val) - 75) <= 4
    assert abs(len(plan.test) - 125) <= 4
    # the labels count, not the items
    assert plan_chain(make_items(600, unlabeled=101), classes=CLASSES).val == ()


# ------------------------------------------------------------------------------------------------ few labels


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(("stratify", "selection"), [(True, "random"), (False, "herding")])
def test_twenty_labels(seed, stratify, selection):
    # five labels of each of four classes, in twenty of sixty patients
    items = [
        {"id": f"p{p:02}_{k}", "group": f"p{p}", "label": p % 4 if p < 20 and k == 0 else UNLABELED}
        for p in range(60)
        for k in range(5)
    ]
    plan = plan_chain(items, PlanSettings(seed=seed, stratify=stratify, selection=selection), classes="abcd")
    assert plan.label_budget == {"train": 20, "val": 0}
    assert plan.shard_sizes == (6, 7, 7)
    assert len(plan.train) == 300
    assert check_plan(plan, items) == []
    labels = labels_of(items)
    if selection == "random":
        assert all({labels[key] for key in stage.new} == {0, 1, 2, 3} for stage in plan.stages)
    held = plan_chain(items, held_out(seed=seed, stratify=stratify, selection=selection), classes="abcd")
    assert {len({labels[key] for key in ids}) for ids in (held.val, held.test)} == {4}
    assert sum(held.label_budget.values()) + len(held.test) == 20


def test_one_label_of_each_class_in_each_shard():
    items = [{"id": f"{n}", "label": n % 4 if n < 12 else UNLABELED} for n in range(50)]
    plan = plan_chain(items, classes="abcd")
    labels = labels_of(items)
    assert [sorted(labels[key] for key in stage.new) for stage in plan.stages] == [[0, 1, 2, 3]] * 3


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"label_fraction": 0.1}, (30, 30, 30)),
        ({"shard_size": 7}, (7, 7, 7)),
        ({"labels_per_class": 4}, (12, 12, 12)),
        ({"shard_size": 50}, (33, 33, 34)),
        ({"labels_per_class": 50, "policy": "shared"}, (100,)),
        ({"shard_size": 7, "policy": "shared"}, (7,)),
    ],
)
@pytest.mark.parametrize("selection", ["random", "herding"])
def test_sizes(options, sizes, selection):
    items = make_items(unlabeled=200)
    plan = plan_chain(items, PlanSettings(selection=selection, **options), classes=CLASSES)
    assert plan.shard_sizes == sizes
    assert [plan.size_of(stage) for stage in (1, 2, 3)] == [*sizes, 0, 0][:3]
    assert plan.label_budget["train"] == sum(sizes)
    if selection == "random":
        assert tuple(len(stage.new) for stage in plan.stages if stage.new) == sizes


@pytest.mark.parametrize(("policy", "totals"), [("disjoint", [33, 33, 34]), ("cumulative", [33, 66, 100])])
def test_a_stage_counts_the_labels_of_unequal_shards(policy, totals):
    items = make_items(unlabeled=200)
    plan = plan_chain(items, PlanSettings(selection="herding", shard_size=50, policy=policy), classes=CLASSES)
    assert [plan.num_labeled(stage) for stage in (1, 2, 3)] == totals
    labeled = [item["id"] for item in items if item["label"] != UNLABELED]
    for stage, (first, last) in enumerate(((0, 33), (33, 66), (66, 100)), 1):
        plan = plan.draw(stage, labeled[first:last])
    assert [plan.num_labeled(stage) for stage in (1, 2, 3)] == totals


def test_shared_labels_are_told(caplog):
    with caplog.at_level("INFO", logger="monai_weckd.plan"):
        plan_chain(make_items(unlabeled=200), PlanSettings(shard_size=50), classes=CLASSES)
    assert [record.getMessage() for record in caplog.records] == [
        "100 labels instead of 3 x 50: the shards share them, [33, 33, 34]"
    ]


# ---------------------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize("stratify", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_policies(policy, stratify):
    plan = plan_chain(ITEMS, held_out(policy=policy, stratify=stratify), classes=CLASSES)
    size = round(0.1 * len(plan.train))
    new, labeled = [stage.new for stage in plan.stages], [stage.labeled for stage in plan.stages]
    assert [stage.stage for stage in plan.stages] == [1, 2, 3]
    if policy == "shared":
        assert list(map(len, new)) == [size, 0, 0]
        assert labeled == [new[0]] * 3
    else:
        assert list(map(len, new)) == [size] * 3
        assert len(set(sum(new, ()))) == 3 * size
    if policy == "disjoint":
        assert labeled == new
    if policy == "cumulative":
        assert [set(part) for part in labeled] == [set(new[0]), set(new[0] + new[1]), set(sum(new, ()))]
        assert list(map(len, labeled)) == [size, 2 * size, 3 * size]
    for stage in plan.stages:
        assert set(plan.pool(stage.stage)) == set(plan.train) - set(stage.labeled)
    assert plan.label_budget == {"train": size if policy == "shared" else 3 * size, "val": len(plan.val)}


def test_stratified_quotas():
    labels = labels_of(ITEMS)
    left = Counter(labels[key] for key in PLAN.train)
    for stage in PLAN.stages:
        drawn = Counter(labels[key] for key in stage.new)
        assert [drawn[c] for c in range(3)] == apportion(len(stage.new), [left[c] for c in range(3)])
        for c in range(3):
            assert abs(drawn[c] - len(stage.new) * left[c] / sum(left.values())) < 1
        left -= drawn


def test_shards_of_groups():
    plan = plan_chain(ITEMS, held_out(shard_by="group", num_stages=2), classes=CLASSES)
    groups = [{item["group"] for item in ITEMS if item["id"] in stage.new} for stage in plan.stages]
    assert not groups[0] & groups[1]
    for stage, names in zip(plan.stages, groups, strict=True):
        assert {item["id"] for item in ITEMS if item["group"] in names} == set(stage.new)
        assert len(stage.new) == plan.size_of(stage.stage)
        assert round(0.1 * len(plan.train)) - 1 <= len(stage.new) <= round(0.1 * len(plan.train))


def test_all_labels_are_allowed_for_the_upper_bound():
    plan = plan_chain(ITEMS, held_out(label_fraction=1.0, policy="shared"), classes=CLASSES)
    assert plan.stages[2].labeled == plan.train
    assert plan.pool(3) == ()


# ------------------------------------------------------------------------------------------------- the door


@pytest.mark.parametrize("shard_by", ["item", "group"])
def test_blindness(shard_by):
    oracle = LabelOracle(SPLIT_ITEMS)
    plan = plan_chain(SPLIT_ITEMS, PlanSettings(stratify=False, shard_by=shard_by), classes=CLASSES, oracle=oracle)
    assert oracle.revealed == {*plan.val, *plan.test, *(key for stage in plan.stages for key in stage.new)}
    hidden = [item for item in SPLIT_ITEMS if item["id"] not in oracle.revealed]
    assert len(hidden) > 80
    shuffled = random.Random(0).sample([item["label"] for item in hidden], len(hidden))
    swap = {item["id"]: label for item, label in zip(hidden, shuffled, strict=True)}
    again = plan_chain(
        [{**item, "label": swap.get(item["id"], item["label"])} for item in SPLIT_ITEMS],
        PlanSettings(stratify=False, shard_by=shard_by),
        classes=CLASSES,
    )
    assert again == plan
    assert again.digest == plan.digest


def test_hidden_labels_are_not_even_looked_at():
    class Secret:
        def __index__(self):
            pytest.fail("a hidden label was read")

    plan = plan_chain(SPLIT_ITEMS, PlanSettings(stratify=False))
    seen = {*plan.val, *plan.test, *(key for stage in plan.stages for key in stage.new)}
    items = [item if item["id"] in seen else {**item, "label": Secret()} for item in SPLIT_ITEMS]
    assert plan_chain(items, PlanSettings(stratify=False)) == plan
    assert check_plan(plan, items) == []
    assert plan.classes == ("0", "1", "2")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("stratify", [True, False])
def test_the_ledger_of_a_plan(stratify, policy):
    oracle = LabelOracle(SPLIT_ITEMS)
    plan = plan_chain(SPLIT_ITEMS, PlanSettings(stratify=stratify, policy=policy), classes=CLASSES, oracle=oracle)
    lines = {(entry.purpose, entry.stage): entry.labels for entry in oracle.ledger}
    expected = {("validation", None): len(plan.val), ("test", None): len(plan.test)}
    expected |= {("shard", stage.stage): len(stage.new) for stage in plan.stages if stage.new}
    expected |= {("stratification", None): len(plan.train)} if stratify else {}
    assert lines == expected
    assert plan.purposes == (("stratification",) if stratify else ())
    assert oracle.budget == sum(plan.label_budget.values())


@pytest.mark.parametrize("stratify", [True, False])
def test_the_ledger_of_a_plan_that_holds_labels_out(stratify):
    oracle = LabelOracle(ITEMS)
    plan = plan_chain(ITEMS, held_out(stratify=stratify), classes=CLASSES, oracle=oracle)
    read = ("split", "stratification") if stratify else ("split",)
    assert plan.purposes == read
    assert [entry.purpose for entry in oracle.ledger] == ["split", "validation", "test", *read[1:], *["shard"] * 3]
    assert oracle.ledger[0].labels == 300
    assert oracle.budget == sum(plan.label_budget.values()) == len(plan.val) + 54


def test_the_ledger_of_a_plan_that_holds_nothing_out():
    oracle = LabelOracle(ITEMS)
    plan = plan_chain(ITEMS, PlanSettings(stratify=False), classes=CLASSES, oracle=oracle)
    assert [entry.purpose for entry in oracle.ledger] == ["shard"] * 3
    assert plan.purposes == ()
    # names of classes that nobody gave are counted, and nothing else
    oracle = LabelOracle(ITEMS)
    assert plan_chain(ITEMS, PlanSettings(selection="herding"), oracle=oracle).classes == ("0", "1", "2")
    assert [(entry.purpose, entry.labels) for entry in oracle.ledger] == [("classes", 300)]
    assert oracle.budget == 0


def test_labels_come_through_the_oracle_alone():
    # the items only tell that there is a label; the oracle's answer counts
    blank = [{**item, "label": 0} for item in ITEMS]
    assert plan_chain(blank, held_out(), classes=CLASSES, oracle=LabelOracle(ITEMS)) == PLAN


# --------------------------------------------------------------------------------------------- pure function


@given(st.randoms(use_true_random=False), st.sampled_from(POLICIES), st.booleans(), st.sampled_from(["item", "group"]))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_items_does_not_matter(rng, policy, stratify, shard_by):
    shuffled = rng.sample(ITEMS, len(ITEMS))
    plans = [
        plan_chain(items, held_out(policy=policy, stratify=stratify, shard_by=shard_by, num_stages=2), classes=CLASSES)
        for items in (ITEMS, shuffled, iter(shuffled))
    ]
    assert plans[0] == plans[1] == plans[2]
    assert len({plan.digest for plan in plans}) == len(set(plans)) == 1


def test_another_seed_or_setting_is_another_plan():
    others = [{"seed": 1}, {"label_fraction": 0.12}, {"policy": "cumulative"}, {"stratify": False}, {"skipped": ["x"]}]
    plans = [
        PLAN,
        *(plan_chain(**split_settings({"items": ITEMS, "classes": CLASSES, **FRACTIONS, **other})) for other in others),
    ]
    assert len({plan.digest for plan in plans}) == len(plans)


def test_the_plan_does_not_change_with_the_version():
    # a change here moves items between splits for everybody: it needs a new format number
    plan = plan_chain(make_items(60), held_out(), classes=CLASSES)
    text = json.dumps([plan.train, plan.val, plan.test, [stage.new for stage in plan.stages]])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "6a2c4c0d839a0f70"


class CountedId(str):
    """An id that is compared by Python code, so that a profiler counts each comparison."""

    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other):
        return str.__eq__(self, other)

    def __lt__(self, other):
        return str.__lt__(self, other)


def test_the_work_grows_with_the_number_of_items_and_no_faster():
    def plan(count):
        items = [{**item, "id": CountedId(item["id"]), "group": CountedId(item["group"])} for item in make_items(count)]
        return count_calls(lambda: plan_chain(items, classes=CLASSES))

    # 4 for what is linear, a little more for what is sorted, 16 for what looks at all items for each item
    assert plan(4000) / plan(1000) < 5


@pytest.mark.slow
def test_a_hundred_thousand_items():
    plan = plan_chain(make_items(100_000), classes=CLASSES)
    assert len(plan.train) + len(plan.val) + len(plan.test) == 100_000


# ------------------------------------------------------------------------------------------------- the object


def test_a_plan_is_immutable():
    with pytest.raises(FrozenInstanceError):
        PLAN.settings.seed = 1  # type: ignore[misc]
    assert hash(PLAN) == hash(plan_chain(ITEMS, held_out(), classes=CLASSES))


def test_select():
    assert [item["id"] for item in PLAN.select(reversed(ITEMS), "val")] == list(PLAN.val)
    with pytest.raises(ValueError, match=r"split: expected one of .*, got 'vall'. Did you mean 'val'\?"):
        PLAN.select(ITEMS, "vall")
    absent = PLAN.test[3]
    with pytest.raises(ValueError, match=rf"items: expected all \d+ of test, got none for 1, first '{absent}'. Use"):
        PLAN.select([item for item in ITEMS if item["id"] != absent], "test")


def test_select_gives_copies():
    PLAN.select(ITEMS, "val")[0]["label"] = 99
    assert all(item["label"] != 99 for item in ITEMS)


@pytest.mark.parametrize("stage", [0, 4, -1])
def test_pool_validation(stage):
    with pytest.raises(ValueError, match=rf"stage: expected a number from 1 to 3, got {stage}"):
        PLAN.pool(stage)


# -------------------------------------------------------------------------------------------------- real data


@pytest.mark.parametrize("name", ["otoscopy", "brain_mri", "blood_smear", "mednist_mini", "hippocampus_mri_3d"])
@pytest.mark.parametrize("stratify", [True, False])
def test_real_sets(shared_data, monkeypatch, name, stratify):
    genuine = builtins.open

    def guarded(file, *args, **kwargs):
        assert str(file).endswith(".csv"), f"{file} was opened"
        return genuine(file, *args, **kwargs)

    folder = shared_data(name)
    monkeypatch.setattr(builtins, "open", guarded)
    monkeypatch.setattr("PIL.Image.open", lambda *_, **__: pytest.fail("an image was opened"))
    items, classes, *_ = load_datalist(folder)
    plan = plan_chain(items, held_out(stratify=stratify), classes=classes)
    assert check_plan(plan, items) == []
    split_of: dict[str, str] = {}
    for split in ("train", "val", "test"):
        for item in plan.select(items, split):
            assert split_of.setdefault(item["group"], split) == split
    shards = [key for stage in plan.stages for key in stage.new]
    assert len(shards) == len(set(shards)) == 3 * round(0.1 * len(plan.train))
    if stratify:
        assert np.ptp([len(stage.new) for stage in plan.stages]) == 0


@pytest.mark.parametrize("item", [["a.png", 0], ("a.png", 0), "a.png", None])
@pytest.mark.parametrize("plan", [plan_training, plan_chain])
def test_items_that_are_no_dictionaries_are_refused(plan, item):
    with pytest.raises(TypeError, match=r"^items: expected dictionaries with 'image' and 'label', got .* as item 0"):
        plan([item] * 40, classes=["a", "b"])


def test_an_item_without_a_name_is_refused():
    with pytest.raises(ValueError, match=r"^items: expected an 'image' or an 'id' in every item, got the keys"):
        plan_training([{"label": 0}] * 40, classes=["a", "b"])
