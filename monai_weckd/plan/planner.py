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

"""Plan a chain from a list of items."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.checks import refuse, split_problems
from monai_weckd.plan.oracle import LabelOracle, index_items, is_labeled
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import SPLITS, assign_split, group_of, identify
from monai_weckd.plan.stages import plan_stages
from monai_weckd.utils.messages import nearest

__all__ = ["plan_chain", "plan_training", "read_shards", "replan"]


def plan_chain(
    items: Iterable[Mapping[str, Any]],
    settings: PlanSettings | None = None,
    *,
    classes: Sequence[str] | None = None,
    shards: Sequence[Collection[str]] | str | os.PathLike[str] | None = None,
    oracle: LabelOracle | None = None,
    skipped: Sequence[str] = (),
) -> ChainPlan:
    """Plan a chain: split the items by group, and draw the labels of each stage. No image is opened.

    If the items have a ``split``, it is kept. Otherwise each group is assigned by a hash of its name, see
    :py:func:`monai_weckd.plan.splits.assign_split`. A shard has
    ``round(label_fraction * labeled training items)`` labels. The plan depends on the arguments alone, not on the order
    of the items.

    With ``stratify`` the labels of all training items are read, and the ledger lists them as "stratification". Without
    it, only the training labels of the shards are read. With another ``selection`` than "random",
    :py:func:`monai_weckd.selection.select_items` draws each shard when its stage starts.

    Args:
        items: dictionaries with ``id``, ``label`` and, if known, ``group`` and ``split``, as
            :py:func:`monai_weckd.data.load_datalist` makes them.
        settings: settings of the plan, default None: :py:class:`PlanSettings` with its defaults.
        classes: class names in the order of their indices, default None: the indices in validation and test.
        shards: given shards, such as those of another run: the path of its ``plan.json``, or one collection of ids for
            each stage. For a single stage or ``policy="shared"``, any number of collections is merged into one.
            Default None.
        oracle: access to the labels, default None: an oracle over the items.
        skipped: ids of items that could not be read, for the record.

    Raises:
        ValueError: When there are too few labels for the settings.
        PlanError: When a split or a stage lacks a class, a split is empty, or a group is in two splits.

    Example::

        >>> items = [{"id": f"{i:03}", "group": f"patient {i // 2}", "label": i % 2} for i in range(200)]
        >>> plan = plan_chain(items, classes=["ill", "well"])
        >>> [len(ids) for ids in (plan.train, plan.val, plan.test)], plan.label_budget
        ([108, 40, 52], {'train': 33, 'val': 40})

    """
    settings = PlanSettings() if settings is None else settings
    if isinstance(shards, (str, os.PathLike)):
        shards = read_shards(shards)
    if shards is not None:
        settings = replace(settings, selection="given")
    plan = ChainPlan(() if classes is None else tuple(classes), _without_use(settings), skipped=tuple(skipped))
    index = index_items(items)
    if not index:
        raise ValueError("items: expected at least one, got none. Pass the items of load_datalist.")
    oracle = LabelOracle(list(index.values())) if oracle is None else oracle
    plan = _plan_splits(plan, index)
    labels = {**oracle.reveal(plan.val, purpose="validation"), **oracle.reveal(plan.test, purpose="test")}
    if classes is None:
        plan = replace(plan, classes=tuple(map(str, range(max(labels.values(), default=-1) + 1))))
    refuse(split_problems(plan, index, labels))
    return plan_stages(plan, index, oracle, shards=shards)


def plan_training(
    items: Iterable[Mapping[str, Any]],
    settings: PlanSettings | None = None,
    *,
    classes: Sequence[str],
) -> ChainPlan:
    """Plan a chain for a pipeline with its own validation: :py:func:`monai_weckd.plan_chain` without splitting.

    Args:
        items: the training items, in any MONAI data list. An item without ``id`` is identified by its ``image``; an
            item without ``group`` is a group of its own.
        settings: settings of the plan, default None: :py:class:`PlanSettings` with its defaults.
        classes: class names in the order of their indices.

    Raises:
        ValueError: When there are too few labels for the settings.
        PlanError: When a stage lacks a class.

    Example::

        >>> items = [{"image": f"{i:03}.png", "label": i % 2} for i in range(100)]
        >>> plan = plan_training(items, classes=["ill", "well"])
        >>> [len(stage.labeled) for stage in plan.stages], len(plan.train), len(plan.val)
        ([10, 10, 10], 100, 0)

    """
    settings = PlanSettings() if settings is None else settings
    return replan(ChainPlan(tuple(classes), _without_use(settings)), identify(items))


def replan(
    plan: ChainPlan, train_items: Iterable[Mapping[str, Any]], *, oracle: LabelOracle | None = None
) -> ChainPlan:
    """Return a plan with other training items, under the same settings, validation and test split.

    This is for programs that replace the training list. The new groups cannot be compared with those of validation and
    test, because a plan holds only ids.

    Args:
        plan: the plan.
        train_items: the new training items.
        oracle: access to their labels, default None: an oracle over the items.

    Raises:
        ValueError: When an item belongs to validation or test, or the stages cannot be planned.

    """
    index = index_items(train_items)
    taken = sorted(index.keys() & {*plan.val, *plan.test})
    if taken:
        raise ValueError(
            f"train_items: expected no item of validation or test, got {len(taken)}, first {taken[0]!r}. "
            "Leave them out."
        )
    if plan.settings.selection == "given":
        raise ValueError("train_items: expected the items of the given shards, got others. Plan the chain anew.")
    plan = replace(plan, train=tuple(sorted(index)))
    return plan_stages(plan, index, LabelOracle(list(index.values())) if oracle is None else oracle)


def read_shards(path: str | os.PathLike[str]) -> list[tuple[str, ...]]:
    """Return the shards from a run's plan file, so that another run can use the same labels.

    Args:
        path: a ``plan.json``.

    Raises:
        ValueError: When it is not a plan, or some of its shards were never drawn.

    """
    # invalid UTF-8 is replaced, and then the digest does not match
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        plan = ChainPlan.from_json(text)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    if plan.undrawn is not None:
        raise ValueError(f"path: expected a plan whose shards are drawn, got none for stage {plan.undrawn}. Finish it.")
    return [stage.new for stage in plan.stages]


def _plan_splits(plan: ChainPlan, index: Mapping[str, Mapping[str, Any]]) -> ChainPlan:
    explicit = any(item.get("split") for item in index.values())
    members: dict[str, list[str]] = {split: [] for split in SPLITS}
    # one hash per group, not one per item
    assign = cache(
        partial(
            assign_split,
            seed=plan.settings.seed,
            val_fraction=plan.settings.val_fraction,
            test_fraction=plan.settings.test_fraction,
        )
    )
    for key in sorted(index):
        item = index[key]
        members[_explicit_split(item) if explicit else assign(group_of(item))].append(key)
    held_out = members["val"] + members["test"]
    return replace(
        plan,
        train=tuple(members["train"]),
        val=tuple(key for key in members["val"] if is_labeled(index[key])),
        test=tuple(key for key in members["test"] if is_labeled(index[key])),
        unused=tuple(sorted(key for key in held_out if not is_labeled(index[key]))),
    )


def _explicit_split(item: Mapping[str, Any]) -> str:
    split = item.get("split")
    if not split:
        raise ValueError(f"split: expected one for every item or for none, got none for {item['id']!r}. Give it one.")
    if split not in SPLITS:
        raise ValueError(f"split: expected one of {SPLITS}, got {split!r} for {item['id']!r}. {nearest(split, SPLITS)}")
    return split


def _without_use(settings: PlanSettings) -> PlanSettings:
    """Return settings without ``stratify`` unless shards are random, so that no label is read without need."""
    return settings if settings.selection == "random" else replace(settings, stratify=False)
