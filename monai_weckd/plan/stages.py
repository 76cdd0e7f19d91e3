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

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from monai_weckd.plan.chain_plan import ChainPlan, divide_shards
from monai_weckd.plan.checks import class_problems, refuse, stage_problems
from monai_weckd.plan.label_kind import Label
from monai_weckd.plan.oracle import LabelOracle, is_labeled
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import draw_shards, group_of
from monai_weckd.selection.findings import choose_findings

__all__ = ["divide_labels", "plan_stages"]

logger = logging.getLogger(__name__)


def plan_stages(
    plan: ChainPlan,
    index: Mapping[str, Mapping[str, Any]],
    oracle: LabelOracle,
    *,
    shards: Sequence[Collection[str]] | None = None,
    asked: Mapping[str, tuple[int, ...]] | None = None,
) -> ChainPlan:
    """Return a plan with its stages; their shards are filled in if they are random or given.

    Args:
        plan: the plan with its splits; its stages are ignored.
        index: items by id.
        oracle: access to the labels.
        shards: the ids of given shards, default None.
        asked: places of the findings that were asked for in them, by id, default None: as the settings say.

    Raises:
        ValueError: When there are too few labels, or given shards do not fit the stages.
        PlanError: When a required class is missing.

    """
    labeled = [key for key in plan.train if is_labeled(index[key])]
    number = 1 if plan.settings.policy == "shared" else plan.settings.num_stages
    sizes: Sequence[int] = ()
    if shards is not None:
        drawn = _given(plan, shards, set(labeled), number)
    else:
        sizes = divide_labels(
            plan.settings,
            len(plan.classes),
            items=len(plan.train),
            labeled=len(labeled),
            least=plan.kind.fewest,
        )
        drawn = _random(plan, index, oracle, labeled, sizes) if plan.settings.selection == "random" else []
    # shards of whole groups may be smaller than planned
    plan = replace(plan, shard_sizes=tuple(map(len, drawn)) or tuple(sizes), stages=divide_shards(drawn, plan))
    plan = plan.asking(asked) if asked else _ask_findings(plan)
    oracle.ask(plan.asked)
    shown = [oracle.reveal(stage.new, purpose="shard", stage=stage.stage) for stage in plan.stages if stage.new]
    refuse(stage_problems(plan, index, {key: label for part in shown for key, label in part.items()}))
    return plan


def _ask_findings(plan: ChainPlan) -> ChainPlan:
    """Return a plan that asks for as many findings of the items in its shards as the settings say, by chance."""
    count, names = plan.settings.findings_per_image, plan.classes
    if count is None:
        return plan
    if not plan.findings or count > len(names):
        got = f"{count} of {len(names)} findings" if plan.findings else f"{count} for labels of one class an image"
        raise ValueError(f"findings_per_image: expected at most as many as there are, got {got}. Leave it out.")
    ids = [key for stage in plan.stages for key in stage.new]
    options = {"num_findings": len(names), "count": count, "seed": plan.settings.seed}
    return plan.asking(choose_findings(None, ids, **options) if ids else {})


def divide_labels(
    settings: PlanSettings, num_classes: int, *, items: int, labeled: int, least: int | None = None
) -> tuple[int, ...]:
    """Return how many labels each shard gets.

    That is what the settings ask for. Where fewer labels exist, the shards share them evenly: their sizes differ by one
    at most, the smaller ones first.

    Args:
        settings: settings of the plan.
        num_classes: number of classes.
        items: number of training items, labeled or not.
        labeled: number of labeled training items.
        least: smallest random shard that can have every class, default None: ``num_classes``.

    Raises:
        ValueError: When there are fewer labels than shards, or a random shard has no room for every class.

    """
    number = 1 if settings.policy == "shared" else settings.num_stages
    if labeled < number:
        raise ValueError(
            f"num_stages: expected as many labels of training items as stages, got {labeled} labels for {number} "
            "stages. Label more images, or pass fewer stages."
        )
    name, size = _wanted_size(settings, num_classes, items)
    how = f"{name}={getattr(settings, name)} of {items} training items" if name == "label_fraction" else f"of {labeled}"
    sizes = [size] * number
    if size * number > labeled:
        sizes = [(labeled + shard) // number for shard in range(number)]
        name, how = "num_stages", f"{labeled} labels for {number} stages"
        logger.info("%d labels instead of %d x %d: the shards share them, %s", labeled, number, size, sizes)
    needs_all = settings.missing_classes == "error" and settings.selection == "random"
    if sizes[0] < max((num_classes if least is None else least) if needs_all else 1, 1):
        raise ValueError(
            f"{name}: expected a label of each of {num_classes} classes in a shard, got {sizes[0]} labels ({how}). "
            "Pass larger shards or fewer stages, or label more images."
        )
    return tuple(sizes)


def _wanted_size(settings: PlanSettings, num_classes: int, items: int) -> tuple[str, int]:
    """Return the setting that decides how many labels a shard gets, and their number."""
    if settings.shard_size is not None:
        return "shard_size", settings.shard_size
    if settings.labels_per_class is not None:
        return "labels_per_class", settings.labels_per_class * num_classes
    return "label_fraction", round(settings.label_fraction * items)


def _random(
    plan: ChainPlan,
    index: Mapping[str, Mapping[str, Any]],
    oracle: LabelOracle,
    labeled: Sequence[str],
    sizes: Sequence[int],
) -> list[tuple[str, ...]]:
    labels = oracle.reveal(labeled, purpose="stratification") if plan.settings.stratify else None
    if labels is not None:
        refuse(class_problems(plan, "train", labels, "Label images of them, or leave them out of classes."))
        labels = _strata(labels)
    units: dict[str, list[str]] = {}
    if plan.settings.shard_by == "group":
        for key in labeled:
            units.setdefault(group_of(index[key]), []).append(key)
    else:
        units = {key: [key] for key in labeled}
    shards = draw_shards(units, labels, sizes=sizes, seed=plan.settings.seed)
    if not all(shards):
        raise ValueError(
            f"shard_by: expected a group for each of {len(sizes)} shards, got {len(units)} labeled groups. "
            "Pass shard_by='item', or fewer stages."
        )
    return shards


def _strata(labels: Mapping[str, Label]) -> dict[str, int]:
    """Return the strata of a stratified draw: the class of an item, or its combination of findings."""
    ordered: list[Any] = sorted(set(labels.values()))
    numbers = {label: number for number, label in enumerate(ordered)}
    return {key: numbers[label] for key, label in labels.items()}


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
