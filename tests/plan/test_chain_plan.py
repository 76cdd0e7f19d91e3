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

import pytest
from held_out import held_out
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.checks import PlanError, check_plan
from monai_weckd.plan.planner import plan_chain
from monai_weckd.utils.records import sealed_json

CLASSES = ("ill", "well", "unsure")
ITEMS = [{"id": f"i{i:04}", "group": f"p{i // 2}", "label": (i * 7 + i // 5) % 3} for i in range(300)]
PLAN = plan_chain(ITEMS, held_out(), classes=CLASSES)


@given(
    st.integers(-(2**70), 2**70),
    st.sampled_from(["disjoint", "cumulative", "shared"]),
    st.floats(0.05, 0.3),
    st.booleans(),
)
@settings(max_examples=20, deadline=None)
def test_json_round_trip(seed, policy, label_fraction, stratify):
    try:
        plan = plan_chain(
            ITEMS,
            held_out(seed=seed, policy=policy, label_fraction=label_fraction, stratify=stratify),
            classes=CLASSES,
            skipped=["é"],
        )
    except PlanError:
        assume(False)
    again = ChainPlan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest == json.loads(plan.to_json())["digest"]
    assert check_plan(again, ITEMS) == []


def test_digest_is_the_hash_of_the_canonical_json():
    content = json.loads(PLAN.to_json())
    del content["digest"]
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert PLAN.digest == hashlib.sha256(text.encode()).hexdigest()


def edited(**changes) -> str:
    content = {**json.loads(PLAN.to_json()), **changes}
    return json.dumps({name: value for name, value in content.items() if value is not None})


def sealed(**changes) -> str:
    content = json.loads(edited(**changes))
    del content["digest"]
    return sealed_json(content, indent=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"plan: expected JSON, got .*Make the plan anew with `python -m monai_weckd plan`"),
        ("[" * 100_000, r"plan: expected JSON, got maximum recursion depth"),
        ("[]", r"plan: expected a JSON object, got list"),
        (edited(format=1), r"plan: expected format 2, got 1"),
        (edited(format=None), r"plan: expected format 2, got None"),
        (edited(classes=None), r"plan: expected a field 'classes', got none"),
        (edited(digest=None), r"plan: expected a field 'digest', got none"),
        (edited(clases=1), r"plan: expected no field 'clases'. Did you mean 'classes'\?"),
        (
            edited(shard_sizes=[1]),
            r"plan: expected digest [0-9a-f]{64}, got [0-9a-f]{64}: it was changed after it was made",
        ),
        (edited(train=["a"]), r"plan: expected digest"),
        (edited(train="abc"), r"plan: expected digest"),
        (sealed(settings={"policy": "disjont"}), r"policy: expected one of"),
        (sealed(settings={"sed": 1}), r"plan: expected the fields as they were written, got TypeError"),
        (sealed(stages=5), r"plan: expected the fields as they were written, got TypeError"),
        (sealed(stages=[{"stage": 1}]), r"plan: expected the fields as they were written, got KeyError\('new'\)"),
    ],
)
def test_from_json_validation(text, message):
    with pytest.raises(ValueError, match=message) as error:
        ChainPlan.from_json(text)
    assert "\n" not in str(error.value)


def test_another_run_s_plan_gives_its_shards(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(PLAN.to_json(), encoding="utf-8")
    for place in (path, str(path)):
        again = plan_chain(ITEMS, held_out(policy="cumulative"), classes=CLASSES, shards=place)
        assert [stage.new for stage in again.stages] == [stage.new for stage in PLAN.stages]
        assert again.settings.selection == "given"
    path.write_text(sealed(stages=5), encoding="utf-8")
    with pytest.raises(ValueError, match=rf"^{path}: plan: expected the fields as they were written, got TypeError"):
        plan_chain(ITEMS, held_out(), classes=CLASSES, shards=path)
