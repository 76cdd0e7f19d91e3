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

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from monai_weckd.oracle import LabelOracle, index_items, is_labeled
from monai_weckd.plan_checks import PlanError, check_plan, check_settings, split_problems
from monai_weckd.plan_json import ANEW, FORMAT, read_plan_fields
from monai_weckd.plan_stages import StagePlan, divide_shards, plan_stages, refuse
from monai_weckd.splits import SPLITS, assign_split, group_of
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.records import json_digest, sealed_json

__all__ = ["ChainPlan", "PlanError", "StagePlan", "check_plan", "plan_chain", "read_shards"]


@dataclass(frozen=True)
class ChainPlan:
    """Who sees what when: the splits, and the labels of each stage. Made by :py:func:`plan_chain`.

    Args:
        classes: class names in the order of their indices.
        seed: seed of the splits and shards.
        num_stages: number of stages.
        label_fraction: size of a shard, as a fraction of the labeled training items.
        policy: what a stage trains on: "disjoint" its own shard, "cumulative" its own and all earlier shards,
            "shared" the first shard.
        shard_by: what shards are drawn from: single items ("item"), or whole groups ("group").
        stratify: whether each shard has the class proportions of the training items.
        selection: how shards are chosen: "random" when the plan is made, "given" by whoever made it, or by one of
            :py:data:`monai_weckd.selection.STRATEGIES`, when their stage starts: until then its ids are empty.
        shard_size: number of labels that a shard brings in.
        missing_classes: what to do about a shard without a label of some class: "error" or "allow".
        val_fraction: expected fraction of groups in validation.
        test_fraction: expected fraction of groups in the test split.
        train: ids of the training items, labeled and unlabeled, sorted.
        val: ids of the validation items, sorted.
        test: ids of the test items, sorted.
        stages: the stages in order.
        skipped: ids of items that could not be read.
        unused: ids of unlabeled items in validation and test, of no use there.

    Raises:
        ValueError: When a setting is out of its range.

    """

    classes: tuple[str, ...]
    seed: int
    num_stages: int
    label_fraction: float
    policy: str
    shard_by: str
    stratify: bool
    selection: str
    shard_size: int = 0
    missing_classes: str = "error"
    val_fraction: float = 0.15
    test_fraction: float = 0.25
    train: tuple[str, ...] = ()
    val: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    stages: tuple[StagePlan, ...] = ()
    skipped: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_settings(self)

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON, in hexadecimal; two plans are the same if their digests are."""
        return json_digest(self._fields())

    @property
    def label_budget(self) -> dict[str, int]:
        """Number of distinct labels that training and validation use, or will use."""
        shards = 1 if self.policy == "shared" else len(self.stages)
        drawn = len({key for stage in self.stages for key in stage.new})
        return {"train": drawn if self.undrawn is None else shards * self.shard_size, "val": len(self.val)}

    @property
    def undrawn(self) -> int | None:
        """The first stage whose shard is yet to be drawn, None if there is none."""
        return next((stage.stage for stage in self.stages if not stage.labelled), None)

    def num_labelled(self, stage: int) -> int:
        """Return how many labels a stage trains on, or will.

        Args:
            stage: stage number, from 1.

        """
        shards = stage if self.policy == "cumulative" else 1
        return len(self.stages[stage - 1].labelled) or shards * self.shard_size

    def draw(self, stage: int, ids: Collection[str]) -> ChainPlan:
        """Return the plan with the shard that has been chosen for a stage; it must be the first one not yet drawn.

        Args:
            stage: stage number, from 1.
            ids: ids of ``shard_size`` training items.

        Raises:
            ValueError: When the stage has its shard, or it is another one's turn, or the ids are not as they must be.

        """
        if stage != self.undrawn:
            raise ValueError(f"stage: expected {self.undrawn}, whose shard is next, got {stage}. Draw them in turn.")
        known = {key for part in self.stages for key in part.new}
        chosen = set(ids)
        if len(chosen) != self.shard_size or not chosen <= set(self.train) or chosen & known:
            raise ValueError(
                f"ids: expected {self.shard_size} training items that no stage has yet, got {len(chosen)}, "
                f"{len(chosen - set(self.train))} of them strange and {len(chosen & known)} known. Choose others."
            )
        shards = [part.new for part in self.stages[: stage - 1]]
        return replace(self, stages=divide_shards([*shards, tuple(sorted(chosen))], self))

    def pool(self, stage: int) -> tuple[str, ...]:
        """Return the training ids whose labels a stage does not see.

        Args:
            stage: stage number, from 1.

        Raises:
            ValueError: When there is no such stage.

        """
        if not 1 <= stage <= len(self.stages):
            raise ValueError(f"stage: expected a number from 1 to {len(self.stages)}, got {stage!r}. Count from 1.")
        labelled = set(self.stages[stage - 1].labelled)
        return tuple(key for key in self.train if key not in labelled)

    def select(self, items: Iterable[Mapping[str, Any]], split: str) -> list[dict[str, Any]]:
        """Return the items of a split, in the plan's order.

        Args:
            items: the items that the plan was made from.
            split: "train", "val" or "test".

        Raises:
            ValueError: When ``split`` is unknown, or an item of it is not among ``items``.

        """
        if split not in SPLITS:
            raise ValueError(f"split: expected one of {SPLITS}, got {split!r}. {nearest(split, SPLITS)}")
        index = index_items(items)
        absent = [key for key in getattr(self, split) if key not in index]
        if absent:
            raise ValueError(
                f"items: expected all {len(getattr(self, split))} of {split}, got none for {len(absent)}, "
                f"first {absent[0]!r}. Use the items that the plan was made from."
            )
        return [dict(index[key]) for key in getattr(self, split)]

    def replan(self, train_items: Iterable[Mapping[str, Any]], *, oracle: LabelOracle | None = None) -> ChainPlan:
        """Return a plan with other training items, under the same settings, validation and test split.

        For programs that replace the training list. Their groups cannot be compared with those of validation and test,
        of which a plan has only the ids.

        Args:
            train_items: the new training items.
            oracle: door to their labels, default None: the items themselves.

        Raises:
            ValueError: When an item belongs to validation or test, or the stages cannot be planned.

        """
        index = index_items(train_items)
        taken = sorted(index.keys() & {*self.val, *self.test})
        if taken:
            raise ValueError(
                f"train_items: expected no item of validation or test, got {len(taken)}, first {taken[0]!r}. "
                "Leave them out."
            )
        plan = replace(self, train=tuple(sorted(index)))
        if self.selection == "given":
            raise ValueError("train_items: expected the items of the given shards, got others. Plan the chain anew.")
        return plan_stages(plan, index, LabelOracle(list(index.values())) if oracle is None else oracle)

    def to_json(self) -> str:
        """Return the plan as JSON, with its digest."""
        return sealed_json(self._fields(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> ChainPlan:
        """Return the plan that :py:meth:`to_json` wrote.

        Args:
            text: the JSON.

        Raises:
            ValueError: When it is not the JSON of a plan, or not as it was written.

        """
        content = read_plan_fields(text, [field.name for field in fields(cls)])
        try:
            stages = tuple(
                StagePlan(stage["stage"], tuple(stage["new"]), tuple(stage["labelled"])) for stage in content["stages"]
            )
            lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
            return cls(**{**content, **lists, "stages": stages})
        except (KeyError, TypeError) as error:
            raise ValueError(f"plan: expected the fields as they were written, got {error!r}. {ANEW}") from error

    def _fields(self) -> dict[str, Any]:
        shallow = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"format": FORMAT, **shallow, "stages": [vars(stage) for stage in self.stages]}


def plan_chain(
    items: Iterable[Mapping[str, Any]],
    *,
    classes: Sequence[str] | None = None,
    num_stages: int = 3,
    label_fraction: float = 0.1,
    policy: str = "disjoint",
    shard_by: str = "item",
    stratify: bool = True,
    selection: str = "random",
    shards: Sequence[Collection[str]] | None = None,
    missing_classes: str = "error",
    val_fraction: float = 0.15,
    test_fraction: float = 0.25,
    seed: int = 0,
    oracle: LabelOracle | None = None,
    skipped: Sequence[str] = (),
) -> ChainPlan:
    """Plan a chain: split the items by group, and draw the labels of each stage. No image is opened.

    If the items have a ``split``, it is kept. Otherwise each group is assigned by a hash of its name, see
    :py:func:`monai_weckd.splits.assign_split`. A shard has ``round(label_fraction * labeled training items)`` labels.
    The plan depends on the arguments alone, not on the order of the items.

    With ``stratify`` the labels of all training items are read, which the ledger tells apart as "stratification".
    Without, no training label is read but those of the shards. With another ``selection`` than "random" the shards are
    drawn by :py:func:`monai_weckd.selection.select_items` when their stages start.

    Args:
        items: dictionaries with ``id``, ``label``, and where known ``group`` and ``split``, as
            :py:func:`monai_weckd.data.load_datalist` makes them.
        classes: class names in the order of their indices, default None: the indices in validation and test.
        num_stages: number of stages, default 3.
        label_fraction: size of a shard, as a fraction of the labeled training items in (0, 1], default 0.1.
        policy: what a stage trains on: "disjoint" its own shard, "cumulative" its own and all earlier shards,
            "shared" the first shard. Default "disjoint".
        shard_by: draw single items ("item"), or whole groups ("group") until a shard has its size. Default "item".
        stratify: whether to give each shard the class proportions of the training items, default True; of no use
            where shards are chosen or given.
        selection: how to choose shards: "random" (default), or a strategy of :py:mod:`monai_weckd.selection`.
        shards: ids of the shards themselves, as another run's teacher has chosen them: one for each stage, or, for a
            single stage or ``policy="shared"``, any number, which become one. Default None.
        missing_classes: "error" (default) refuses a random shard without a label of some class, "allow" takes it.
        val_fraction: expected fraction of groups in validation, default 0.15.
        test_fraction: expected fraction of groups in the test split, default 0.25.
        seed: seed of splits and shards, default 0.
        oracle: door to the labels, default None: the items themselves.
        skipped: ids of items that could not be read, for the record.

    Raises:
        ValueError: When a setting is out of its range, or there are too few labels for it.
        PlanError: When a split or a stage lacks a class, a split is empty, or a group is in two splits.

    Example::

        >>> items = [{"id": f"{i:03}", "group": f"patient {i // 2}", "label": i % 2} for i in range(200)]
        >>> plan = plan_chain(items, classes=["ill", "well"])
        >>> [len(ids) for ids in (plan.train, plan.val, plan.test)], plan.label_budget
        ([108, 40, 52], {'train': 33, 'val': 40})

    """
    plan = ChainPlan(
        classes=() if classes is None else tuple(classes),
        seed=seed,
        num_stages=num_stages,
        label_fraction=label_fraction,
        policy=policy,
        shard_by=shard_by,
        stratify=stratify and selection == "random" and shards is None,
        selection=selection if shards is None else "given",
        missing_classes=missing_classes,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        skipped=tuple(skipped),
    )
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


def read_shards(path: str | os.PathLike[str]) -> list[tuple[str, ...]]:
    """Return the shards of a plan that a run has written, for another run that is to use the same labels.

    Args:
        path: a ``plan.json``.

    Raises:
        ValueError: When it is no plan, or some of its shards were never drawn.

    """
    # a byte that is no UTF-8 is replaced, and the digest tells
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
    # one hash for a group, not one for each of its items
    assign = cache(
        partial(assign_split, seed=plan.seed, val_fraction=plan.val_fraction, test_fraction=plan.test_fraction)
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
