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

"""Give a plan its stages, with random or given shards."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from monai_weckd.plan.chain_plan import ChainPlan, divide_shards
from monai_weckd.plan.checks import class_problems, refuse, stage_problems
from monai_weckd.plan.oracle import LabelOracle, is_labeled
from monai_weckd.plan.splits import draw_shards, group_of

__all__ = ["plan_stages"]


def plan_stages(
    plan: ChainPlan,
    index: Mapping[str, Mapping[str, Any]],
    oracle: LabelOracle,
    *,
    shards: Sequence[Collection[str]] | None = None,
) -> ChainPlan:
    """Return a plan with its stages; their shards are filled in if they are random or given.

    Args:
        plan: the plan with its splits; its stages are ignored.
        index: items by id.
        oracle: access to the labels.
        shards: the ids of given shards, default None.

    Raises:
        ValueError: When there are too few labels, or given shards do not fit the stages.
        PlanError: When a required class is missing.

    """
    labeled = [key for key in plan.train if is_labeled(index[key])]
    number = 1 if plan.settings.policy == "shared" else plan.settings.num_stages
    if shards is not None:
        drawn = _given(plan, shards, set(labeled), number)
    else:
        plan = replace(plan, shard_size=round(plan.settings.label_fraction * len(labeled)))
        _check_size(plan, number, len(labeled))
        drawn = _random(plan, index, oracle, labeled, number) if plan.settings.selection == "random" else []
    plan = replace(plan, shard_size=plan.shard_size or len(drawn[0]), stages=divide_shards(drawn, plan))
    shown = [oracle.reveal(stage.new, purpose="shard", stage=stage.stage) for stage in plan.stages if stage.new]
    refuse(stage_problems(plan, index, {key: label for part in shown for key, label in part.items()}))
    return plan


def _random(
    plan: ChainPlan, index: Mapping[str, Mapping[str, Any]], oracle: LabelOracle, labeled: Sequence[str], number: int
) -> list[tuple[str, ...]]:
    labels = oracle.reveal(labeled, purpose="stratification") if plan.settings.stratify else None
    if labels is not None:
        refuse(class_problems(plan, "train", labels, "Pass another seed, or give every item a split."))
    units: dict[str, list[str]] = {}
    if plan.settings.shard_by == "group":
        for key in labeled:
            units.setdefault(group_of(index[key]), []).append(key)
    else:
        units = {key: [key] for key in labeled}
    shards = draw_shards(units, labels, num_shards=number, size=plan.shard_size, seed=plan.settings.seed)
    for stage, shard in enumerate(shards, 1):
        if len(shard) < plan.shard_size:
            raise ValueError(
                f"shard_by: expected {plan.shard_size} labels for stage {stage}, got {len(shard)}, as others took "
                "whole groups. Pass shard_by='item', a smaller label_fraction, or fewer stages."
            )
    return shards


def _given(
    plan: ChainPlan, shards: Sequence[Collection[str]], labeled: Collection[str], number: int
) -> list[tuple[str, ...]]:
    parts = [tuple(sorted(set(shard))) for shard in shards if len(shard)]
    if number == 1:
        parts = [tuple(sorted({key for part in parts for key in part}))]
    if len(parts) != number or not parts[0]:
        raise ValueError(
            f"shards: expected one for each of {number} stages, got {len(parts)}. Pass as many, or policy='shared'."
        )
    ids = [key for part in parts for key in part]
    if len(set(ids)) < len(ids) or not set(ids) <= set(labeled):
        raise ValueError(
            f"shards: expected distinct ids of labeled training items, got {len(ids) - len(set(ids))} twice and "
            f"{len(set(ids) - set(labeled))} others. Use shards of a run with the same splits."
        )
    return parts


def _check_size(plan: ChainPlan, number: int, labeled: int) -> None:
    size = plan.shard_size
    fraction = f"label_fraction={plan.settings.label_fraction} of {labeled} labeled training items"
    least = len(plan.classes) if plan.settings.missing_classes == "error" and plan.settings.selection == "random" else 1
    if size < max(least, 1):
        raise ValueError(
            f"label_fraction: expected a label of each of {len(plan.classes)} classes in a shard, got {size} labels "
            f"({fraction}). Pass a larger label_fraction, or label more images."
        )
    if number * size > labeled:
        raise ValueError(
            f"num_stages: expected stages that need {labeled} labels at most, got {number} x {size} ({fraction}). "
            "Pass fewer stages, a smaller label_fraction, or policy='shared'."
        )
