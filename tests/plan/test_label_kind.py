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

from itertools import product

import numpy as np
import pytest
import torch

from monai_weckd.plan import LabelOracle, PlanError, PlanSettings, check_plan, plan_chain, plan_training
from monai_weckd.plan.label_kind import LabelKind, finding_values, is_known

FINDINGS = ("effusion", "mass")


def items_of(labels, groups=None):
    values = [np.array(label, dtype=np.float32) for label in labels]
    names = [f"{n:03}" for n in range(len(values))]
    groups = names if groups is None else groups
    return [{"id": n, "label": value, "group": g} for n, value, g in zip(names, values, groups, strict=True)]


def both_outcomes(index, ids):
    values = np.array([index[key] for key in ids])
    return all({0.0, 1.0} <= set(column) for column in values.T)


@pytest.mark.parametrize("label", [[1, 0], (1.0, -1.0), np.array([1, 0]), torch.tensor([0.0, 1.0]), np.array([1.0])])
def test_a_row_is_the_label_of_findings(label):
    assert finding_values(label) is not None
    assert is_known(label)


@pytest.mark.parametrize("label", [0, 3, np.int64(2), torch.tensor(1), np.array([2]), "ill"])
def test_an_index_is_the_label_of_a_class(label):
    assert finding_values(label) is None


def test_labels_of_the_other_kind_are_refused():
    with pytest.raises(ValueError, match=r"label: expected a class index, got array\(\[1\., 0\.\]"):
        LabelOracle(items_of([[1, 0]])).reveal(["000"], purpose="shard")
    with pytest.raises(ValueError, match=r"label: expected 0, 1 or -1 \(unknown\) for each finding, got 1 for 'a'"):
        LabelOracle([{"id": "a", "label": 1}], findings=True).reveal(["a"], purpose="shard")
    with pytest.raises(ValueError, match=r"label: expected 0, 1 or -1 \(unknown\) for each finding, got array\(\[0.3"):
        LabelOracle(items_of([[0.3, 1]]), findings=True).reveal(["000"], purpose="shard")
    assert LabelKind(FINDINGS, findings=True).fault((1, 0, 1)) == (
        "expected 0, 1 or -1 for each of 2 findings, got (1, 0, 1)"
    )


def test_the_ledger_counts_what_is_known_of_each_finding():
    oracle = LabelOracle(items_of([[1, -1], [0, np.nan], [1, 1], [-1, -1]]), findings=True)
    assert oracle.reveal(["000", "001", "002"], purpose="shard", stage=1) == {
        "000": (1, -1),
        "001": (0, -1),
        "002": (1, 1),
    }
    (line,) = oracle.to_dicts()
    assert (line["labels"], line["known"], oracle.budget) == (3, (3, 1), 3)
    again = LabelOracle(items_of([[1, -1], [0, np.nan], [1, 1]]), findings=True)
    again.load_state_dict(oracle.state_dict())
    assert again.ledger == oracle.ledger
    with pytest.raises(ValueError, match="expected labeled items, got '003' without a label"):
        oracle.reveal(["003"], purpose="shard")


def test_the_ledger_of_classes_has_no_such_count():
    oracle = LabelOracle([{"id": "a", "label": 1}])
    oracle.reveal(["a"], purpose="shard")
    assert set(oracle.to_dicts()[0]) == {"purpose", "stage", "labels", "digest"}


@pytest.mark.parametrize("seed", range(4))
def test_a_split_is_found_wherever_one_exists(seed):
    rng = np.random.default_rng(seed)
    found = refused = 0
    for _ in range(30):
        groups = rng.integers(0, 5, 8)
        items = items_of(rng.choice([-1, 0, 1], (8, 2), p=[0.2, 0.4, 0.4]), [f"p{g}" for g in groups])
        index = {item["id"]: item["label"] for item in items}
        members = {g: [i["id"] for i in items if i["group"] == f"p{g}"] for g in set(groups.tolist())}
        # the oracle tries every assignment
        possible = any(
            all(
                both_outcomes(
                    index, [key for g, side in zip(members, sides, strict=True) if side == part for key in members[g]]
                )
                for part in (0, 1)
            )
            for sides in product((0, 1), repeat=len(members))
            if len(set(sides)) == 2
        )
        try:
            plan = plan_chain(
                items,
                PlanSettings(num_stages=1, shard_size=1, selection="herding", test_fraction=0.4, val_fraction=0),
                classes=FINDINGS,
                findings=True,
            )
        except PlanError:
            refused += 1
            assert not possible
        else:
            found += 1
            assert possible
            assert both_outcomes(index, plan.train)
            assert both_outcomes(index, plan.test)
    assert found
    assert refused


def test_a_refused_split_names_the_finding():
    items = items_of([[1, 0], [0, 0], [1, 1], [0, 0]])
    with pytest.raises(PlanError, match=r"finding 'mass=1': expected labeled images in 2 groups or more, .*, got 1"):
        plan_chain(items, PlanSettings(test_fraction=0.5, val_fraction=0), classes=FINDINGS, findings=True)


def test_explicit_splits_need_both_outcomes():
    items = [{**item, "split": "test" if n < 2 else "train"} for n, item in enumerate(items_of([[1, 0]] * 6))]
    with pytest.raises(
        PlanError, match=r"test: expected labels of every finding, got none of \['effusion=0', 'mass=1'"
    ):
        plan_chain(items, classes=FINDINGS, findings=True)


def test_random_shards_keep_the_shares_of_combinations():
    labels = [[1, 1]] * 20 + [[0, 1]] * 40 + [[0, 0]] * 40
    items = items_of(labels)
    plan = plan_training(items, classes=FINDINGS, findings=True, num_stages=2, shard_size=10)
    index = {item["id"]: tuple(item["label"].tolist()) for item in items}
    for stage in plan.stages:
        combinations = [index[key] for key in stage.new]
        assert [combinations.count(c) for c in ((1, 1), (0, 1), (0, 0))] == [2, 4, 4]
    assert check_plan(plan, items) == []


def test_a_shard_without_a_finding_is_refused():
    items = items_of([[1, 1]] + [[0, 1]] * 20 + [[1, 0]] * 20)
    plan_training(items, classes=FINDINGS, findings=True, num_stages=1, shard_size=2)
    with pytest.raises(PlanError, match=r"stage 1: expected labels of every finding, got none of \["):
        plan_training(items, classes=FINDINGS, findings=True, num_stages=1, shard_size=1)


def test_no_withheld_label_decides_the_plan():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, (60, 2))
    settings = {"num_stages": 2, "shard_size": 5, "selection": "herding"}
    first, second = (
        plan_training(items_of(values), classes=FINDINGS, findings=True, **settings)
        for values in (labels, rng.permutation(labels))
    )
    assert first == second
