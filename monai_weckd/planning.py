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

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from monai_weckd.plan import ChainPlan
from monai_weckd.splits import identify

__all__ = ["plan_training"]


def plan_training(
    items: Iterable[Mapping[str, Any]],
    *,
    classes: Sequence[str],
    num_stages: int = 3,
    label_fraction: float = 0.1,
    policy: str = "disjoint",
    shard_by: str = "item",
    stratify: bool = True,
    selection: str = "random",
    missing_classes: str = "error",
    seed: int = 0,
) -> ChainPlan:
    """Plan a chain in a pipeline that has its own validation: :py:func:`monai_weckd.plan_chain` with no split to make.

    Args:
        items: the training items, in any MONAI data list: one without ``id`` is known by its ``image``, one without
            ``group`` is a group of its own.
        classes: class names in the order of their indices.
        num_stages: number of stages, default 3.
        label_fraction: size of a shard, as a fraction of the labeled items in (0, 1], default 0.1.
        policy: "disjoint" (default), "cumulative" or "shared".
        shard_by: draw single items ("item", default) or whole groups ("group").
        stratify: whether to give each shard the class proportions of the items, default True.
        selection: how to choose shards: "random" (default), or a strategy of :py:mod:`monai_weckd.selection`.
        missing_classes: "error" (default) refuses a random shard without a label of some class, "allow" takes it.
        seed: seed of the shards, default 0.

    Raises:
        ValueError: When a setting is out of its range, or there are too few labels for it.
        PlanError: When a stage lacks a class.

    Example::

        >>> items = [{"image": f"{i:03}.png", "label": i % 2} for i in range(100)]
        >>> plan = plan_training(items, classes=["ill", "well"])
        >>> [len(stage.labelled) for stage in plan.stages], len(plan.train), len(plan.val)
        ([10, 10, 10], 100, 0)

    """
    plan = ChainPlan(
        classes=tuple(classes),
        seed=seed,
        num_stages=num_stages,
        label_fraction=label_fraction,
        policy=policy,
        shard_by=shard_by,
        stratify=stratify and selection == "random",
        selection=selection,
        missing_classes=missing_classes,
    )
    return plan.replan(identify(items))
