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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from monai_weckd.utils.messages import nearest

__all__ = ["ARMS", "Arm", "ChainSize", "arm_overrides", "choose_arms"]

# what makes a chain of a training, each set so that it does nothing; how the network is trained stays as configured
PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "selection": "random",
        "shard_file": None,
        "stage_epochs": None,
        "init": "initial",
        "accept": "always",
        "teacher": "last",
        "teacher_view": "same",
        "distillation_weight_end": None,
        "threshold": 0.0,
        "hard_labels": False,
        "alignment": False,
        "calibrate": False,
        "attention_weight": 0.0,
        "pool_ratio": 0,
    }
)
_NO_TEMPERATURE = {"temperature_start": 1.0, "temperature_end": 1.0, "temperature_shape": "constant"}
_SELF_TAUGHT = {**_NO_TEMPERATURE, "num_stages": 1, "distillation_weight": 0.5, "teacher_view": "weak"}
_FIXMATCH = {**_SELF_TAUGHT, "teacher": "student", "threshold": 0.95, "hard_labels": True}
_MEAN_TEACHER = {**_SELF_TAUGHT, "teacher": "average"}


@dataclass(frozen=True)
class ChainSize:
    """How much a configured chain trains, on how many labels: what its controls are measured out by.

    Args:
        num_stages: number of stages.
        shard_policy: "disjoint", "cumulative" or "shared".
        label_fraction: size of a shard, as a fraction of the labeled training items.
        max_epochs: epochs of the whole chain.
        stage_epochs: epochs of each stage, None where they are shared evenly.
        pool_ratio: pool items for each labeled item in a batch.
        averaging: decay of the moving average of the weights.
        selection: who chooses each shard.

    """

    num_stages: int
    shard_policy: str
    label_fraction: float
    max_epochs: int
    stage_epochs: Sequence[int] | None = None
    pool_ratio: int = 0
    averaging: float = 0.0
    selection: str = "random"

    @property
    def longest_stage(self) -> int:
        """Epochs of the longest stage."""
        return max(self.stage_epochs or [-(-self.max_epochs // self.num_stages)])


@dataclass(frozen=True)
class Arm:
    """One way to train, given as what it changes in the configuration of a bundle's chain.

    Args:
        name: how the command line and the result files call it.
        title: how a sentence calls it.
        overrides: values by key of ``train.json``.
        labels: which labels it trains on: "chain" (as the chain is configured), "first" (as many as one shard), "all"
            (as many as all shards of the chain), or "everything" (all of the training split).
        steps: how long: "stage" (as the longest stage) or "total" (as the whole chain).
        plain: whether to begin from a training that has nothing of a chain, default True.
        file: an overlay of the bundle to put on, such as "paper", default None.
        uses_pool: whether it learns from the pool too, default False.
        needs: name of the arm whose labels it uses, default None.
        members: number of networks whose probabilities are averaged, default 1; the first is that of the arm ``needs``.
        active: whether it makes sense only where the chain chooses its labels, default False.

    """

    name: str
    title: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    labels: str = "all"
    steps: str = "total"
    plain: bool = True
    file: str | None = None
    uses_pool: bool = False
    needs: str | None = None
    members: int = 1
    active: bool = False


_SINGLE = {"num_stages": 1}
_CHOSEN = "on the labels that the chain chose"

_TABLE = (
    Arm("chain", "the chain", labels="chain", plain=False, uses_pool=True),
    Arm("paper", "the chain of the paper's preset", labels="chain", file="paper"),
    Arm("first", "one model on as many labels as one shard has", _SINGLE, labels="first", steps="stage"),
    Arm("single", "one model trained for as many steps as one stage on as many random labels", _SINGLE, steps="stage"),
    Arm("single_long", "one model trained for as many steps on as many random labels", _SINGLE),
    Arm("kd", "distillation in one step on as many random labels", {"num_stages": 2, "shard_policy": "shared"}),
    Arm(
        "born_again",
        "three born-again generations on as many random labels",
        {"num_stages": 3, "shard_policy": "shared"},
    ),
    Arm("fixmatch", "FixMatch on as many random labels", _FIXMATCH, uses_pool=True),
    Arm("mean_teacher", "Mean Teacher on as many random labels", _MEAN_TEACHER, uses_pool=True),
    Arm(
        "ensemble",
        "three single models together on as many random labels",
        _SINGLE,
        steps="stage",
        needs="single",
        members=3,
    ),
    Arm("single_long+labels", f"one model trained for as many steps {_CHOSEN}", _SINGLE, needs="chain", active=True),
    Arm("fixmatch+labels", f"FixMatch {_CHOSEN}", _FIXMATCH, uses_pool=True, needs="chain", active=True),
    Arm("mean_teacher+labels", f"Mean Teacher {_CHOSEN}", _MEAN_TEACHER, uses_pool=True, needs="chain", active=True),
    Arm("everything", "one model trained for as many steps on all labels", _SINGLE, labels="everything"),
)
ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _TABLE})


def choose_arms(names: Sequence[str] | None, *, active: bool) -> list[Arm]:
    """Return arms, and those whose labels they use, in an order in which they can be run.

    Args:
        names: the wanted arms, default None: all that make sense.
        active: whether the chain chooses its labels.

    Raises:
        ValueError: When a name is unknown.

    """
    if names is None:
        return [arm for arm in ARMS.values() if active or not arm.active]
    for name in names:
        if name not in ARMS:
            raise ValueError(f"arms: expected some of {', '.join(ARMS)}, got {name!r}. {nearest(name, list(ARMS))}")
    wanted = {*names, *(ARMS[name].needs for name in names)}
    return [arm for arm in ARMS.values() if arm.name in wanted]


def arm_overrides(
    arm: Arm, size: ChainSize, *, labeled: int, keys: Mapping[str, Any], overlay: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return what an arm changes in the configuration, labels of other runs apart.

    Args:
        arm: the arm.
        size: the configured chain.
        labeled: number of labeled training items.
        keys: the configuration, of whose keys only those that there are need be made plain.
        overlay: content of the arm's file, default None.

    """
    found = {key: value for key, value in PLAIN.items() if key in keys} if arm.plain else {}
    found.update({**(overlay or {}), **arm.overrides})
    if keys.get("freeze_backbone") and "attention_weight" in found:
        # a frozen backbone leaves no attention to pass on
        found["attention_weight"] = 0.0
    if arm.labels == "chain":
        return found
    shard = round(size.label_fraction * labeled)
    shards = {"first": 1, "all": 1 if size.shard_policy == "shared" else size.num_stages}
    # a fraction that comes to exactly as many labels as the chain's shards have together
    found["label_fraction"] = 1.0 if arm.labels == "everything" else min(1.0, shards[arm.labels] * shard / labeled)
    found["max_epochs"] = size.max_epochs if arm.steps == "total" else size.longest_stage
    if arm.uses_pool:
        found["pool_ratio"] = max(1, size.pool_ratio)
    if found.get("teacher") == "average":
        found["averaging"] = size.averaging or 0.99
    if found["num_stages"] == 1 and keys.get("unfreeze_last"):
        # a single stage cannot be frozen and last at once: it trains the whole network, as the last stage does
        found.update(freeze_backbone=False, unfreeze_last=False)
    return found
