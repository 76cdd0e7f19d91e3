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

from collections import Counter

import numpy as np
import pytest
from held_out import held_out

from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.oracle import LabelOracle
from monai_weckd.plan.planner import plan_chain
from monai_weckd.tune.blind import BlindOracle, limit_validation


class Shut:
    """A label that cannot be read."""

    def __index__(self):
        raise AssertionError("a test label was read")

    def __eq__(self, other):
        return False

    __hash__ = None


def make_items(count=300, classes=3):
    return [{"id": f"{i:03}", "group": f"g{i // 2}", "label": i // 2 % classes} for i in range(count)]


def test_a_plan_is_the_same_when_no_test_label_can_be_read():
    splits = ("train", "train", "train", "val", "test")
    items = [{**item, "split": splits[place // 6 % 5]} for place, item in enumerate(make_items())]
    plan = plan_chain(items, held_out(stratify=False), classes=("a", "b", "c"))
    shut = [{**item, "label": Shut()} if item["id"] in plan.test else item for item in items]
    with pytest.raises(AssertionError, match="a test label was read"):
        plan_chain(shut, held_out(stratify=False), classes=("a", "b", "c"))
    oracle = BlindOracle(shut, kind=LabelKind(("a", "b", "c")))
    assert plan_chain(shut, held_out(stratify=False), classes=("a", "b", "c"), oracle=oracle).digest == plan.digest
    assert not oracle.revealed & set(plan.test)
    assert "test" not in [entry.purpose for entry in oracle.ledger]


def finding_items(count=300, *, rare=4):
    rng = np.random.default_rng(0)
    labels = rng.choice([-1, 0, 1], (count, 2), p=[0.2, 0.5, 0.3]).astype(np.float32)
    labels[:, 1] = np.where(np.arange(count) % (count // rare) == 3, 1.0, 0.0)
    return [{"id": f"{i:03}", "group": f"g{i}", "label": label} for i, label in enumerate(labels)]


@pytest.mark.parametrize("stratify", [False, True])
def test_a_plan_of_findings_is_the_same_whatever_the_test_images_show(stratify):
    splits = ("train", "train", "train", "val", "test")
    items = [{**item, "split": splits[place // 7 % 5]} for place, item in enumerate(finding_items(rare=60))]
    names, settings = ("mass", "edema"), held_out(stratify=stratify)
    kind = LabelKind(names, findings=True)

    def plan_of(items):
        return plan_chain(items, settings, classes=names, findings=True, oracle=BlindOracle(items, kind=kind))

    plan = plan_of(items)
    other = [{**item, "label": 1 - np.abs(item["label"])} if item["id"] in plan.test else item for item in items]
    assert plan_of(other).digest == plan.digest
    assert plan.digest == plan_chain(items, settings, classes=names, findings=True).digest


@pytest.mark.parametrize("seed", range(5))
def test_a_small_validation_of_findings_has_every_outcome(seed):
    items = finding_items()
    plan = plan_chain(
        items,
        held_out(label_fraction=0.05, missing_classes="allow", seed=seed),
        classes=("mass", "edema"),
        findings=True,
    )
    assert len(plan.val) > plan.shard_size
    limited = limit_validation(plan, LabelOracle(items, findings=True), seed=seed)
    assert (len(limited.val), set(limited.val) < set(plan.val)) == (plan.shard_size, True)
    labels = {item["id"]: tuple(item["label"].astype(int).tolist()) for item in items}
    found = {outcome for key in limited.val for outcome in plan.kind.outcomes_of(labels[key])}
    assert found == {0, 1, 2, 3}


def test_other_labels_are_revealed():
    items = make_items()
    ids = ["003", "100"]
    blind, plain = BlindOracle(items, kind=LabelKind(("a", "b", "c"))), LabelOracle(items)
    assert blind.reveal(ids, purpose="shard", stage=1) == plain.reveal(ids, purpose="shard", stage=1)
    assert blind.ledger == plain.ledger


@pytest.mark.parametrize("seed", range(5))
def test_validation_is_no_larger_than_a_shard_and_keeps_every_class(seed):
    items = make_items() + [{"id": f"rare{i}", "group": f"rare{i}", "label": 3} for i in range(40)]
    plan = plan_chain(items, held_out(label_fraction=0.05, seed=seed), classes=("a", "b", "c", "d"))
    assert len(plan.val) > plan.shard_size
    labels = {item["id"]: item["label"] for item in items}
    limited = limit_validation(plan, LabelOracle(items), seed=0)
    assert len(limited.val) == len(set(limited.val)) == plan.shard_size
    assert set(limited.val) < set(plan.val)
    assert limited.label_budget == {"train": plan.label_budget["train"], "val": plan.shard_size}
    assert set(Counter(labels[key] for key in limited.val)) == {0, 1, 2, 3}
    assert limited.stages == plan.stages
    assert limit_validation(plan, LabelOracle(items), seed=0) == limited
    assert limit_validation(plan, LabelOracle(items), seed=1) != limited


def test_a_small_validation_stays():
    items = make_items()
    plan = plan_chain(items, held_out(label_fraction=0.3), classes=("a", "b", "c"))
    assert len(plan.val) <= plan.shard_size
    assert limit_validation(plan, LabelOracle(items), seed=0) is plan
