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

from dataclasses import replace
from pathlib import Path

import pytest

from monai_weckd.compare.arms import ARMS, PLAIN, PLAIN_SOLVED, ChainSize, arm_overrides, choose_arms
from monai_weckd.compare.folds import FoldSplit
from monai_weckd.compare.training import ComparedBundle
from monai_weckd.data import Datalist
from monai_weckd.engines import ChainOptions
from monai_weckd.plan import PlanSettings
from monai_weckd.plan.stages import divide_labels

OTOSCOPY = Path(__file__).resolve().parents[2] / "bundles" / "otoscopy_chain_classification"
PLAN = PlanSettings(num_stages=3, policy="cumulative", label_fraction=0.1)
SIZE = ChainSize(PLAN, ChainOptions(pool_ratio=2), max_epochs=36)


def overrides(name, size=SIZE, *, labeled=237, overlay=None):
    shards = divide_labels(size.plan, 3, items=labeled, labeled=labeled)
    return arm_overrides(ARMS[name], size, shards=shards, labeled=labeled, overlay=overlay)


def test_unknown_arm_names_the_nearest():
    with pytest.raises(ValueError, match=r"arms: expected some of chain, .*, got 'fixmach'. Did you mean 'fixmatch'\?"):
        choose_arms(["chain", "fixmach"], active=False, solved=False)


def test_arms_come_after_those_whose_labels_they_use():
    for names in (None, ["ensemble", "fixmatch+labels", "two_views"]):
        arms = choose_arms(names, active=True, solved=False)
        place = [arm.name for arm in arms]
        assert all(place.index(needed) < place.index(arm.name) for arm in arms for needed in arm.needs)
    assert [arm.name for arm in choose_arms(["two_views"], active=True, solved=True)] == [
        "chain",
        "tuned+labels",
        "two_views",
    ]
    assert [arm.name for arm in choose_arms(["fixmatch+labels"], active=True, solved=False)] == [
        "chain",
        "fixmatch+labels",
    ]


def test_a_chain_of_random_labels_has_no_chosen_ones():
    for solved in (False, True):
        assert not [arm.name for arm in choose_arms(None, active=False, solved=solved) if "+labels" in arm.name]
        found = {arm.name for arm in choose_arms(None, active=True, solved=solved)}
        assert {"single_long+labels", "fixmatch+labels", "solved", "solved_everything", "everything"} <= found


def test_a_solved_head_on_the_labels_of_a_solved_chain_is_its_last_stage_again():
    left = {solved: {arm.name for arm in choose_arms(None, active=True, solved=solved)} for solved in (False, True)}
    assert left[False] - left[True] == {"solved+labels"}
    # who asks for it gets it
    assert [arm.name for arm in choose_arms(["solved+labels"], active=True, solved=True)] == ["chain", "solved+labels"]


def test_the_chain_is_the_bundle_as_configured():
    assert overrides("chain") == {}


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.labels == "all"])
def test_as_many_labels_as_all_shards_of_the_chain(name):
    # 0.1 x 237 labels are 24 in a shard and 72 in three, where 0.3 x 237 would be 71
    assert overrides(name)["plan#settings#shard_size"] == 72
    shared = replace(SIZE, plan=replace(PLAN, policy="shared"))
    assert overrides(name, shared)["plan#settings#shard_size"] == 24
    each = replace(SIZE, plan=replace(PLAN, labels_per_class=5))
    found = overrides(name, each)
    assert (found["plan#settings#shard_size"], found["plan#settings#labels_per_class"]) == (45, None)


def test_labels_of_the_other_controls():
    assert overrides("first")["plan#settings#shard_size"] == 24
    assert overrides("everything")["plan#settings#shard_size"] == 237
    # three shards of 0.4 share what there is
    most = replace(SIZE, plan=replace(PLAN, label_fraction=0.4))
    assert overrides("single", most)["plan#settings#shard_size"] == 237
    assert overrides("first", most)["plan#settings#shard_size"] == 79


def test_steps():
    assert {name: overrides(name)["max_epochs"] for name in ("first", "single", "single_long", "kd", "everything")} == {
        "first": 12,
        "single": 12,
        "single_long": 36,
        "kd": 36,
        "everything": 36,
    }
    uneven = ChainSize(PLAN, ChainOptions(stage_epochs=(5, 10, 20)), max_epochs=35)
    assert overrides("single", uneven)["max_epochs"] == 20
    assert overrides("single", replace(SIZE, max_epochs=35))["max_epochs"] == 12


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.kind == "trained" and name != "paper"])
def test_controls_have_nothing_of_the_configured_chain(name):
    found = overrides(name)
    assert found.keys() >= PLAIN.keys()
    assert found["selection"] == "random"
    assert [found[f"chain#{name}"] for name in ("alignment", "calibrate", "stage_epochs")] == [False, False, None]
    assert found["chain#pool_ratio"] == (2 if ARMS[name].uses_pool else 0)


def test_controls_keep_how_the_network_is_trained():
    recipe = {
        "learning_rate",
        "batch_size",
        "distillation_weight",
        "backbone#freeze",
        "chain#views",
        "plan#settings#stratify",
    }
    for name in ("single", "single_long", "kd", "everything"):
        assert not recipe & overrides(name).keys()


def test_a_solved_head_changes_its_labels_alone():
    assert {
        name: overrides(name)["plan#settings#shard_size"] for name, arm in ARMS.items() if arm.kind == "solved"
    } == {
        "solved": 72,
        "solved+labels": 72,
        "solved_everything": 237,
    }
    assert overrides("solved").keys() == PLAIN_SOLVED.keys() | {"num_stages", "plan#settings#shard_size"}
    each = replace(SIZE, plan=replace(PLAN, labels_per_class=5))
    assert overrides("solved", each)["plan#settings#labels_per_class"] is None


# findings are not compared
ONE_CLASS = [path for path in sorted(OTOSCOPY.parent.glob("*_chain_classification")) if "chest" not in path.name]


@pytest.mark.parametrize("overlays", [[], ["scratch.json"]])
@pytest.mark.parametrize("folder", ONE_CLASS, ids=lambda path: path.name)
def test_every_arm_is_one_of_every_bundle(folder, overlays, tmp_path):
    bundle = ComparedBundle(folder, tmp_path, overlays=overlays)
    items = [{"id": f"{n}", "image": "-", "label": n % 2, "group": f"{n}"} for n in range(60)]
    bundle.datalist = Datalist(items, ("ill", "well"))
    split = FoldSplit(0, 0, {item["id"]: "train" for item in items})
    for arm in ARMS.values():
        copy = bundle.copy_of(arm, bundle.overrides(arm, split))
        copy.refuse_unused()
        plan, chain = copy.value("plan#settings"), copy.value("chain")
        solved = copy["train#trainer#iteration_update"] is not None
        assert solved == (arm.kind == "solved" or (arm.kind == "configured" and not overlays))
        if solved:
            assert copy.value("max_epochs") == plan.num_stages
            assert copy["iterations_per_epoch"] == 1
        if arm.file is None and arm.plain:
            assert (plan.selection, copy["plan#shards"]) == ("random", None)
            assert solved or chain.accept == "always"


def test_self_taught_controls():
    fixmatch, mean_teacher = overrides("fixmatch"), overrides("mean_teacher")
    assert fixmatch["chain#teacher"] == "student"
    assert (fixmatch["loss_function#threshold"], fixmatch["loss_function#hard_labels"]) == (0.95, True)
    assert (mean_teacher["chain#teacher"], mean_teacher["chain#averaging"]) == ("average", 0.99)
    for found in (fixmatch, mean_teacher):
        assert (found["loss_function#temperature"], found["train#handlers#1#schedule"]) == (1.0, None)
        # the teacher sees a view of its own, which no other control has
        assert found["train#prepare_batch#teacher_augment"]["_target_"] == "monai_weckd.transforms.BatchAugment"
    assert overrides("kd")["train#prepare_batch#teacher_augment"] is None
    averaged = replace(SIZE, chain=ChainOptions(averaging=0.9))
    assert overrides("mean_teacher", averaged)["chain#averaging"] == 0.9
    assert overrides("fixmatch", averaged)["chain#pool_ratio"] == 1


def test_the_paper_s_file_goes_before_what_is_plain():
    found = overrides("paper", overlay={"loss_function#attention_weight": 1.0, "chain#accept": "improves"})
    assert found["loss_function#attention_weight"] == 1
    assert found["chain#accept"] == "improves"
    assert found["selection"] == "random"
    assert not [key for key in found if "shard_size" in key]


def test_an_arm_that_a_bundle_cannot_run_is_left_out_or_refused():
    def fault(arm):
        return "it lacks a file" if arm.name == "tuned+labels" else ""

    found = {arm.name for arm in choose_arms(None, active=True, solved=True, fault=fault)}
    everything = {arm.name for arm in choose_arms(None, active=True, solved=True)}
    assert everything - found == {"tuned+labels", "two_views"}  # the second needs the first
    with pytest.raises(ValueError, match=r"expected arms that this bundle can run, got 'tuned\+labels': it lacks"):
        choose_arms(["chain", "two_views"], active=True, solved=True, fault=fault)
