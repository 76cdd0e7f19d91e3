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

import hashlib
import json

import numpy as np
import pytest

from monai_weckd.plan.oracle import LabelOracle, LedgerEntry, index_items, is_labeled
from monai_weckd.utils.enums import UNLABELED

ITEMS = [{"id": "a", "label": 0}, {"id": "b", "label": 1}, {"id": "c", "label": UNLABELED}, {"id": "d"}]


def test_items_validation():
    with pytest.raises(ValueError, match=r"items: expected an 'id' in every item, got the keys \['image', 'label'\]"):
        LabelOracle([{"label": 0, "image": "a.png"}])
    with pytest.raises(ValueError, match=r"items: expected distinct ids, got 'a' twice. Remove one"):
        LabelOracle([*ITEMS, {"id": "a"}])


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("x", r"ids: expected ids of the items, got 'x'. Use the plan"),
        ("c", r"ids: expected labeled items, got 'c' without a label. Label it"),
        ("d", r"ids: expected labeled items, got 'd' without a label. Label it"),
        ("e", r"label: expected a class index, got 'benign' for 'e'. Index the class names"),
    ],
)
def test_refused_ids_leave_no_trace(key, message):
    oracle = LabelOracle([*ITEMS, {"id": "e", "label": "benign"}])
    with pytest.raises(ValueError, match=message):
        oracle.reveal(["a", key], purpose="shard")
    assert oracle.ledger == ()
    assert oracle.revealed == frozenset()


def test_reveal_keeps_the_order_of_the_ids():
    assert list(LabelOracle(ITEMS).reveal(["b", "a"], purpose="shard").items()) == [("b", 1), ("a", 0)]


def test_ledger():
    oracle = LabelOracle(ITEMS)
    oracle.reveal(["b", "a"], purpose="shard", stage=1)
    digest = hashlib.sha256(b"a\nb").hexdigest()
    assert oracle.ledger == (LedgerEntry("shard", 1, 2, digest),)
    # the same labels for the same purpose: the same line, in whatever order they are asked for
    oracle.reveal(["a", "b"], purpose="shard", stage=1)
    assert len(oracle.ledger) == 1
    oracle.reveal(["a"], purpose="shard", stage=2)
    assert [entry["labels"] for entry in oracle.to_dicts()] == [2, 1]
    assert json.loads(json.dumps(oracle.to_dicts()))[0] == {
        "purpose": "shard",
        "stage": 1,
        "labels": 2,
        "digest": digest,
    }


def test_budget_counts_each_item_once_and_neither_planning_nor_test():
    oracle = LabelOracle([{"id": str(i), "label": i % 2} for i in range(10)])
    for purpose in ("classes", "split", "stratification"):
        oracle.reveal(["0", "1", "2", "3"], purpose=purpose)
    oracle.reveal(["8", "9"], purpose="test")
    assert oracle.budget == 0
    oracle.reveal(["0", "1"], purpose="shard", stage=1)
    oracle.reveal(["1", "4"], purpose="shard", stage=2)
    oracle.reveal(["5"], purpose="validation")
    assert oracle.budget == 4
    assert oracle.revealed == set("01234589")


def test_a_label_is_read_when_it_is_revealed():
    item = {"id": "a", "label": UNLABELED}
    oracle = LabelOracle([item])
    item["label"] = 3
    assert oracle.reveal("a", purpose="shard") == {"a": 3}


@pytest.mark.parametrize("label", [2, np.int64(2), np.uint8(2), True])
def test_labels_come_as_python_integers(label):
    (value,) = LabelOracle([{"id": "a", "label": label}]).reveal(["a"], purpose="shard").values()
    assert type(value) is int
    assert value == int(label)


def test_is_labeled():
    assert [is_labeled(item) for item in [*ITEMS, {"id": "e", "label": None}]] == [True, True, False, False, False]


def test_index_items():
    assert list(index_items(iter(ITEMS))) == ["a", "b", "c", "d"]


def test_ids_that_are_no_utf8():
    # a Latin-1 file name as os.walk gives it under a UTF-8 locale
    name = b"k\xe4se.png".decode(errors="surrogateescape")
    assert LabelOracle([{"id": name, "label": 0}]).reveal([name], purpose="shard") == {name: 0}


def test_of_some_items_only_the_asked_findings_are_revealed():
    items = [{"id": name, "label": np.array(label)} for name, label in zip("ab", ([1.0, 0.0, -1.0], [1.0, 1.0, 0.0]))]  # noqa: B905
    oracle = LabelOracle(items, findings=True)
    assert oracle.reveal("ab", purpose="split") == {"a": (1, 0, -1), "b": (1, 1, 0)}
    oracle.ask({"a": (1, 2)})
    assert oracle.reveal("ab", purpose="shard", stage=1) == {"a": (-1, 0, -1), "b": (1, 1, 0)}
    split, shard = oracle.to_dicts()
    assert "asked" not in split
    assert (shard["labels"], shard["known"], shard["asked"]) == (2, (1, 2, 1), 2)
    other = LabelOracle([{**items[0], "label": np.array([0.0, 0.0, 1.0])}, items[1]], findings=True)
    other.ask({"a": (1,)})
    oracle.ask({"a": (1,)})
    other.load_state_dict(oracle.state_dict())  # a finding that nobody asked for may change
    assert other.ledger == oracle.ledger


def test_a_ledger_can_be_gone_on_with():
    items = [{"id": name, "label": number} for number, name in enumerate("abc")]
    first, second = LabelOracle(items), LabelOracle(items)
    first.reveal("ab", purpose="shard", stage=1)
    first.reveal("c", purpose="test")
    second.load_state_dict(first.state_dict())
    assert (second.ledger, second.budget, second.revealed) == (first.ledger, 2, frozenset("abc"))
    second.reveal("ab", purpose="shard", stage=1)
    assert len(second.ledger) == 2
    changed = LabelOracle([{**items[0], "label": 2}, *items[1:]])
    with pytest.raises(ValueError, match="labels: expected class 0 for 'a', as it was revealed, got 2"):
        changed.load_state_dict(first.state_dict())
