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

"""The arms of a comparison: the chain, its controls, and what each changes in the configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from monai_weckd.engines.options import ChainOptions
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import longest_stage
from monai_weckd.utils.messages import nearest

__all__ = ["ARMS", "PLAIN", "PLAIN_SOLVED", "Arm", "ChainSize", "arm_overrides", "choose_arms"]

# a separate view for the teacher, augmented less than the student's
_WEAK_VIEW = {
    "_target_": "monai_weckd.transforms.BatchAugment",
    "transforms": [{"_target_": "monai_weckd.transforms.BatchRandFlip"}],
}
# turns off everything that makes a training a chain; the training of the network itself stays as configured
PLAIN: Mapping[str, Any] = MappingProxyType(
    {
        "selection": "random",
        "plan#shards": None,
        "distillation_weight_end": None,
        "chain#stage_epochs": None,
        "chain#init": "initial",
        "chain#accept": "always",
        "chain#teacher": "last",
        "chain#alignment": False,
        "chain#calibrate": False,
        "chain#pool_ratio": 0,
        "loss_function#threshold": 0.0,
        "loss_function#hard_labels": False,
        "loss_function#attention_weight": 0.0,
        "train#prepare_batch#teacher_augment": None,
    }
)
# the same for a solved head, which has fewer features to turn off
PLAIN_SOLVED: Mapping[str, Any] = MappingProxyType(
    {"selection": "random", "plan#shards": None, "chain": {"_target_": "monai_weckd.engines.ChainOptions"}}
)
_SELF_TAUGHT = {
    "num_stages": 1,
    "distillation_weight": 0.5,
    "loss_function#temperature": 1.0,
    "train#handlers#1#schedule": None,
    "train#prepare_batch#teacher_augment": _WEAK_VIEW,
}
_FIXMATCH = {
    **_SELF_TAUGHT,
    "chain#teacher": "student",
    "loss_function#threshold": 0.95,
    "loss_function#hard_labels": True,
}
_MEAN_TEACHER = {**_SELF_TAUGHT, "chain#teacher": "average"}


@dataclass(frozen=True)
class ChainSize:
    """The amount of training and labels of a configured chain; its controls get the same amounts.

    Args:
        plan: settings of the plan.
        chain: options of the chain.
        max_epochs: epochs of the whole chain.

    """

    plan: PlanSettings
    chain: ChainOptions
    max_epochs: int

    @property
    def longest_stage(self) -> int:
        """Epochs of the longest stage."""
        return longest_stage(self.max_epochs, self.plan.num_stages, self.chain.stage_epochs)


@dataclass(frozen=True)
class Arm:
    """One way to train, defined by its changes to the configuration of a bundle's chain.

    Args:
        name: name on the command line and in result files.
        title: name in sentences.
        overrides: values by key of the configuration.
        kind: the configuration that the arm changes: "trained" (step by step, the default), "solved" (its head is
            solved) or "configured" (as the chain is configured).
        labels: number of labels: "chain" (as the chain is configured), "first" (as many as one shard), "all" (as many
            as all shards of the chain), or "everything" (all of the training split).
        steps: length of training step by step: "stage" (that of the longest stage of a trained chain) or "total" (that
            of the whole chain).
        plain: whether to turn off all features of a chain first, default True.
        file: an overlay of the bundle to apply, such as "paper", default None.
        uses_pool: whether the arm also learns from the pool, default False.
        needs: names of the arms whose runs this arm uses, default none: the labels of the first one, and the
            predictions of all of them where the arm averages.
        taught: whether a solved head on the same labels teaches, default False.
        members: number of networks whose probabilities are averaged, default 1; the first ones are those of the arms
            ``needs``.
        without_pool: name of the arm that is the same without the pool, default None.
        active: whether the arm makes sense only if the chain chooses its labels, default False.
        one_class: why the arm is for one class an image alone, default "": it is for findings as well.

    """

    name: str
    title: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    kind: str = "trained"
    labels: str = "all"
    steps: str = "total"
    plain: bool = True
    file: str | None = None
    uses_pool: bool = False
    needs: Sequence[str] = ()
    taught: bool = False
    members: int = 1
    without_pool: str | None = None
    active: bool = False
    one_class: str = ""


_SINGLE = {"num_stages": 1}
_CHOSEN = "on the labels that the chain chose"
_BY_THRESHOLD = "a threshold of the largest probability says nothing about several findings"
_LONG = "one model trained for as many steps as a trained chain"

_TABLE = (
    Arm("chain", "the chain", kind="configured", labels="chain", plain=False, uses_pool=True),
    Arm("paper", "the chain of the paper's preset", labels="chain", file="paper"),
    Arm("first", "one model on as many labels as one shard has", _SINGLE, labels="first", steps="stage"),
    Arm(
        "single",
        "one model trained for as many steps as one stage of a trained chain on as many random labels",
        _SINGLE,
        steps="stage",
    ),
    Arm("single_long", f"{_LONG} on as many random labels", _SINGLE),
    Arm("kd", "distillation in one step on as many random labels", {"num_stages": 2, "plan#settings#policy": "shared"}),
    Arm(
        "born_again",
        "three born-again generations on as many random labels",
        {"num_stages": 3, "plan#settings#policy": "shared"},
    ),
    Arm(
        "fixmatch",
        "FixMatch on as many random labels",
        _FIXMATCH,
        uses_pool=True,
        without_pool="single_long",
        one_class=_BY_THRESHOLD,
    ),
    Arm(
        "mean_teacher",
        "Mean Teacher on as many random labels",
        _MEAN_TEACHER,
        uses_pool=True,
        without_pool="single_long",
    ),
    Arm(
        "ensemble",
        "three single models together on as many random labels",
        _SINGLE,
        steps="stage",
        needs=("single",),
        members=3,
    ),
    Arm("solved", "one solved head on as many random labels", _SINGLE, kind="solved", uses_pool=True),
    Arm("single_long+labels", f"{_LONG} {_CHOSEN}", _SINGLE, needs=("chain",), active=True),
    Arm(
        "fixmatch+labels",
        f"FixMatch {_CHOSEN}",
        _FIXMATCH,
        uses_pool=True,
        needs=("chain",),
        without_pool="single_long+labels",
        active=True,
        one_class=_BY_THRESHOLD,
    ),
    Arm(
        "mean_teacher+labels",
        f"Mean Teacher {_CHOSEN}",
        _MEAN_TEACHER,
        uses_pool=True,
        needs=("chain",),
        without_pool="single_long+labels",
        active=True,
    ),
    Arm(
        "solved+labels",
        f"one solved head {_CHOSEN}",
        _SINGLE,
        kind="solved",
        uses_pool=True,
        needs=("chain",),
        active=True,
    ),
    Arm(
        "compact",
        f"a network from scratch, taught by a solved head {_CHOSEN}",
        kind="trained",
        file="compact",
        uses_pool=True,
        needs=("chain",),
        taught=True,
        active=True,
    ),
    Arm(
        "tuned+labels",
        f"the whole pretrained network fine-tuned {_CHOSEN}",
        _SINGLE,
        file="pretrained",
        needs=("chain",),
        active=True,
    ),
    Arm(
        "two_views",
        f"the chain's model and the fine-tuned network together {_CHOSEN}",
        kind="configured",
        labels="chain",
        plain=False,
        needs=("chain", "tuned+labels"),
        members=2,
        active=True,
    ),
    Arm("everything", f"{_LONG} on all labels", _SINGLE, labels="everything"),
    Arm("solved_everything", "one solved head on all labels", _SINGLE, kind="solved", labels="everything"),
)
ARMS: Mapping[str, Arm] = MappingProxyType({arm.name: arm for arm in _TABLE})


def choose_arms(
    names: Sequence[str] | None, *, active: bool, solved: bool, fault: Callable[[Arm], str] = lambda _: ""
) -> list[Arm]:
    """Return the chosen arms, and the arms that they need, in an order in which they can be run.

    Args:
        names: the wanted arms, default None: all that make sense.
        active: whether the chain chooses its labels.
        solved: whether the chain's heads are solved; its last stage then is the arm "solved+labels".
        fault: says why the bundle cannot run an arm, default: it can run all.

    Raises:
        ValueError: When a name is unknown, or the bundle cannot run an arm.

    """
    if names is None:
        sensible = (a for a in ARMS.values() if not a.active or (active and not (solved and a.kind == "solved")))
        return [arm for arm in sensible if not any(map(fault, _with_needs(arm)))]
    for name in names:
        if name not in ARMS:
            raise ValueError(f"arms: expected some of {', '.join(ARMS)}, got {name!r}. {nearest(name, list(ARMS))}")
    wanted = {*names, *(needed for name in names for needed in ARMS[name].needs)}
    found = [arm for arm in ARMS.values() if arm.name in wanted]
    for arm in found:
        if reason := fault(arm):
            raise ValueError(f"arms: expected arms that this bundle can run, got {arm.name!r}: {reason}. Leave it out.")
    return found


def _with_needs(arm: Arm) -> list[Arm]:
    return [arm, *(ARMS[name] for name in arm.needs)]


def arm_overrides(
    arm: Arm, size: ChainSize, *, shards: Sequence[int], labeled: int, overlay: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the changes of an arm to the configuration, except labels from other runs.

    Args:
        arm: the arm.
        size: the labels of the configured chain, and the training of a chain of the arm's kind.
        shards: number of labels in each shard of the chain.
        labeled: number of labeled training items.
        overlay: content of the arm's file, default None.

    """
    plain = PLAIN_SOLVED if arm.kind == "solved" else PLAIN
    overrides = {**(plain if arm.plain else {}), **(overlay or {}), **arm.overrides}
    if arm.labels == "chain":
        return overrides
    sizes = {"first": shards[0], "all": sum(shards), "everything": labeled}
    overrides["plan#settings#shard_size"] = sizes[arm.labels]
    if size.plan.labels_per_class is not None:
        overrides["plan#settings#labels_per_class"] = None
    if arm.labels == "everything" and size.plan.findings_per_image is not None:
        overrides["plan#settings#findings_per_image"] = None
    if arm.kind == "solved":
        # a solved stage is always one iteration
        return overrides
    overrides["max_epochs"] = size.max_epochs if arm.steps == "total" else size.longest_stage
    if arm.uses_pool:
        overrides["chain#pool_ratio"] = max(1, size.chain.pool_ratio)
    if overrides.get("chain#teacher") == "average":
        overrides["chain#averaging"] = size.chain.averaging or 0.99
    return overrides
