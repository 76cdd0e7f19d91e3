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

from monai_weckd.compare.arms import ARMS, PLAIN, ChainSize, arm_overrides, choose_arms

SIZE = ChainSize(num_stages=3, shard_policy="cumulative", label_fraction=0.1, max_epochs=36, pool_ratio=2)
KEYS = {**dict.fromkeys([*PLAIN, "freeze_backbone", "unfreeze_last"]), "averaging": 0.0}


def overrides(name, size=SIZE, *, labeled=237, keys=KEYS, overlay=None):
    return arm_overrides(ARMS[name], size, labeled=labeled, keys=keys, overlay=overlay)


def test_unknown_arm_names_the_nearest():
    with pytest.raises(ValueError, match=r"arms: expected some of chain, .*, got 'fixmach'. Did you mean 'fixmatch'\?"):
        choose_arms(["chain", "fixmach"], active=False)


def test_arms_come_after_those_whose_labels_they_use():
    for names in (None, ["ensemble", "fixmatch+labels", "first"]):
        arms = choose_arms(names, active=True)
        place = [arm.name for arm in arms]
        assert all(place.index(arm.needs) < place.index(arm.name) for arm in arms if arm.needs)
    assert [arm.name for arm in choose_arms(["fixmatch+labels"], active=True)] == ["chain", "fixmatch+labels"]


def test_a_chain_of_random_labels_has_no_chosen_ones():
    assert not [arm.name for arm in choose_arms(None, active=False) if "+labels" in arm.name]
    assert {"single_long+labels", "fixmatch+labels"} <= {arm.name for arm in choose_arms(None, active=True)}


def test_the_chain_is_the_bundle_as_configured():
    assert overrides("chain") == {}


@pytest.mark.parametrize("name", [name for name, arm in ARMS.items() if arm.labels == "all"])
def test_as_many_labels_as_all_shards_of_the_chain(name):
    # 0.1 x 237 labels are 24 in a shard and 72 in three, where 0.3 x 237 would be 71
    assert round(overrides(name)["label_fraction"] * 237) == 72
    shared = ChainSize(num_stages=3, shard_policy="shared", label_fraction=0.1, max_epochs=36)
    assert round(overrides(name, shared)["label_fraction"] * 237) == 24


def test_labels_of_the_other_controls():
    assert round(overrides("first")["label_fraction"] * 237) == 24
    assert overrides("everything")["label_fraction"] == 1
    most = ChainSize(num_stages=3, shard_policy="cumulative", label_fraction=0.4, max_epochs=36)
    assert overrides("single", most)["label_fraction"] == 1


def test_steps():
    assert {name: overrides(name)["max_epochs"] for name in ("first", "single", "single_long", "kd", "everything")} == {
        "first": 12,
        "single": 12,
        "single_long": 36,
        "kd": 36,
        "everything": 36,
    }
    uneven = ChainSize(3, "cumulative", 0.1, 35, stage_epochs=[5, 10, 20])
    assert overrides("single", uneven)["max_epochs"] == 20
    assert overrides("single", ChainSize(3, "cumulative", 0.1, 35))["max_epochs"] == 12


@pytest.mark.parametrize("name", [name for name in ARMS if name not in ("chain", "paper")])
def test_controls_have_nothing_of_the_configured_chain(name):
    found = overrides(name)
    assert found.keys() >= PLAIN.keys()
    assert found["selection"] == "random"
    assert (found["alignment"], found["calibrate"], found["stage_epochs"]) == (False, False, None)
    assert found["pool_ratio"] == (2 if ARMS[name].uses_pool else 0)


def test_controls_keep_how_the_network_is_trained():
    recipe = {"learning_rate", "batch_size", "distillation_weight", "freeze_backbone", "views", "stratify"}
    for name in ("single", "single_long", "kd", "everything"):
        assert not recipe & overrides(name).keys()


def test_keys_that_a_bundle_lacks_are_left_out():
    found = overrides("single", keys={"pool_ratio": 1})
    assert "selection" not in found
    assert found["pool_ratio"] == 0


def test_self_taught_controls():
    fixmatch, mean_teacher = overrides("fixmatch"), overrides("mean_teacher")
    assert (fixmatch["teacher"], fixmatch["threshold"], fixmatch["hard_labels"]) == ("student", 0.95, True)
    assert (mean_teacher["teacher"], mean_teacher["averaging"]) == ("average", 0.99)
    averaged = ChainSize(3, "cumulative", 0.1, 36, averaging=0.9)
    assert overrides("mean_teacher", averaged)["averaging"] == 0.9
    assert overrides("fixmatch", ChainSize(3, "cumulative", 0.1, 36))["pool_ratio"] == 1


def test_the_paper_s_file_goes_before_what_is_plain():
    found = overrides("paper", overlay={"attention_weight": 1.0, "accept": "always"})
    assert found["attention_weight"] == 1
    assert found["selection"] == "random"
    assert "label_fraction" not in found


def test_a_frozen_backbone_passes_on_no_attention_and_a_single_stage_is_not_frozen_and_last():
    frozen = {**KEYS, "freeze_backbone": True}
    assert overrides("paper", keys=frozen, overlay={"attention_weight": 1.0})["attention_weight"] == 0
    assert "freeze_backbone" not in overrides("single", keys=frozen)
    thawed = overrides("single", keys={**frozen, "unfreeze_last": True})
    assert (thawed["freeze_backbone"], thawed["unfreeze_last"]) == (False, False)
    assert "freeze_backbone" not in overrides("kd", keys={**frozen, "unfreeze_last": True})
