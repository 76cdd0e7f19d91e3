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

from monai_weckd.annotation.readings import decision, is_wanted, readings_of, shares_of, with_reading, without_reading


def entry_of(*said):
    entry = {}
    for ts, (who, label) in enumerate(said):
        entry = with_reading(entry, {"who": who, "label": label, "ts": ts})
    return entry


def test_readings_that_agree_give_the_label():
    entry = entry_of(("ada", "ill"), (None, "ill"))
    assert (entry["label"], entry["ts"], readings_of(entry)) == ("ill", 1, {"ada": "ill", None: "ill"})
    assert readings_of({"label": "ill"}) == {}


def test_readings_that_differ_give_none_until_one_changes():
    entry = entry_of(("ada", "ill"), ("bob", "well"))
    assert (entry["label"], entry["who"]) == (None, None)
    entry = with_reading(entry, {"who": "ada", "label": "well", "ts": 9})
    assert (entry["label"], list(readings_of(entry))) == ("well", ["ada", "bob"])  # in the order of the first readings
    settled = {**entry_of(("ada", "ill"), ("bob", "well")), "label": "well", "settled": True}
    assert with_reading(settled, {"who": "eve", "label": "ill", "ts": 9})["label"] == "well"


def test_a_reading_is_withdrawn():
    entry = entry_of(("ada", "ill"), ("bob", "well"))
    assert without_reading(entry, "bob")["label"] == "ill"
    assert without_reading(without_reading(entry, "bob"), "ada") == {}


@pytest.mark.parametrize(
    ("said", "who", "policy", "wanted"),
    [
        ((), "ada", "settle", True),
        ((("ada", "ill"),), "bob", "settle", True),
        ((("ada", "ill"), ("bob", "well")), "ada", "settle", True),  # changes her own
        ((("ada", "ill"), ("bob", "well")), "eve", "settle", False),
        ((("ada", "ill"), ("bob", "well")), "eve", "majority", True),
        ((("ada", "ill"), ("bob", "ill")), "eve", "majority", False),
        ((("ada", "ill"), ("bob", "well")), "eve", "soft", True),
        ((("ada", "ill"), ("bob", "well"), ("eve", "ill")), "tom", "majority", False),
    ],
)
def test_who_may_read(said, who, policy, wanted):
    entry = entry_of(*said)
    assert is_wanted(entry, who, policy) == wanted
    assert not is_wanted({**entry, "settled": True}, who, policy)


def test_a_majority_is_more_than_half():
    two = entry_of(("ada", "ill"), ("bob", "well"))
    three = with_reading(two, {"who": "eve", "label": "well", "ts": 9})
    assert [decision(entry, "majority") for entry in (two, three)] == [None, "well"]
    assert decision(three, "settle") is None
    assert decision({"label": "ill"}, "majority") == "ill"


@pytest.mark.parametrize(
    ("said", "shares", "counts"),
    [
        (("ill", "well"), {"ill": 1 / 2, "well": 1 / 2}, "ill"),  # of equal shares, the first reading's
        (("well", "ill"), {"well": 1 / 2, "ill": 1 / 2}, "well"),
        (("well", "ill", "ill"), {"well": 1 / 3, "ill": 2 / 3}, "ill"),
        (("well", "cannot tell", "ill"), {"well": 1 / 2, "ill": 1 / 2}, "well"),
        (("well", "cannot tell", "well"), {"well": 1}, "well"),
        (("cannot tell", "cannot tell", "well"), {}, "cannot tell"),
        (("ill", "cannot tell"), {}, None),  # until a third person reads it
        (("ill", "ill"), {}, "ill"),
    ],
)
def test_readings_that_differ_share_the_image(said, shares, counts):
    entry = {}
    for who, label in enumerate(said):
        answer = {"answer": True} if label == "cannot tell" else {}
        entry = with_reading(entry, {"who": str(who), "label": label, "ts": 0, **answer})
    assert list(shares_of(entry).items()) == list(shares.items())
    assert decision(entry, "soft") == counts
    assert shares_of({**entry, "label": "ill", "settled": True}) == {}
