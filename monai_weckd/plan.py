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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from monai_weckd.oracle import LabelOracle, index_items, is_labeled
from monai_weckd.plan_checks import PlanError, check_plan, class_problems, split_problems, stage_problems
from monai_weckd.plan_json import ANEW, FORMAT, read_plan_fields
from monai_weckd.splits import SPLITS, assign_split, draw_shards, group_of
from monai_weckd.utils import nearest

__all__ = ["ChainPlan", "PlanError", "StagePlan", "check_plan", "plan_chain"]

POLICIES = ("disjoint", "cumulative", "shared")
SHARD_UNITS = ("item", "group")


@dataclass(frozen=True)
class StagePlan:
    """One stage of a plan.

    Args:
        stage: stage number, from 1.
        new: ids whose labels the stage brings in, its shard.
        labelled: ids whose labels the stage trains on.

    """

    stage: int
    new: tuple[str, ...]
    labelled: tuple[str, ...]


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
    val_fraction: float
    test_fraction: float
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    stages: tuple[StagePlan, ...]
    skipped: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, valid in (("policy", POLICIES), ("shard_by", SHARD_UNITS)):
            value = getattr(self, name)
            if value not in valid:
                raise ValueError(f"{name}: expected one of {valid}, got {value!r}. {nearest(value, valid)}")
        for name in ("seed", "num_stages"):
            value = getattr(self, name)
            if not isinstance(value, int) or (name == "num_stages" and value < 1):
                least = "of at least 1" if name == "num_stages" else "of any size"
                raise ValueError(f"{name}: expected an integer {least}, got {value!r}. Pass such a number.")
        for name in ("label_fraction", "val_fraction", "test_fraction"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value <= 1:
                raise ValueError(f"{name}: expected a fraction in (0, 1], got {value!r}. Pass such a number.")
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"val_fraction, test_fraction: expected a sum below 1, got {self.val_fraction} + {self.test_fraction}. "
                "Leave groups for training."
            )

    @property
    def digest(self) -> str:
        """SHA-256 of the plan's canonical JSON, in hexadecimal: two plans are the same if their digests are."""
        text = json.dumps(self._fields(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label_budget(self) -> dict[str, int]:
        """Number of distinct labels that training and validation use."""
        return {"train": len({key for stage in self.stages for key in stage.new}), "val": len(self.val)}

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
        return _plan_stages(plan, index, LabelOracle(list(index.values())) if oracle is None else oracle)

    def to_json(self) -> str:
        """Return the plan as JSON, with its digest."""
        return json.dumps({**self._fields(), "digest": self.digest}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> ChainPlan:
        """Return the plan that :py:meth:`to_json` wrote.

        Args:
            text: the JSON.

        Raises:
            ValueError: When it is not the JSON of a plan, or not as it was written.

        """
        content = read_plan_fields(text, [field.name for field in fields(cls)])
        digest = content.pop("digest")
        try:
            stages = tuple(
                StagePlan(stage["stage"], tuple(stage["new"]), tuple(stage["labelled"])) for stage in content["stages"]
            )
            lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
            plan = cls(**{**content, **lists, "stages": stages})
        except (KeyError, TypeError) as error:
            raise ValueError(f"plan: expected the fields as they were written, got {error!r}. {ANEW}") from error
        if plan.digest != digest:
            raise ValueError(
                f"plan: expected digest {plan.digest}, got {digest}: it was changed after it was made. {ANEW}"
            )
        return plan

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
    Without, no training label is read but those of the shards.

    Args:
        items: dictionaries with ``id``, ``label``, and where known ``group`` and ``split``, as
            :py:func:`monai_weckd.data.datalist.load_datalist` makes them.
        classes: class names in the order of their indices, default None: the indices in validation and test.
        num_stages: number of stages, default 3.
        label_fraction: size of a shard, as a fraction of the labeled training items in (0, 1], default 0.1.
        policy: what a stage trains on: "disjoint" its own shard, "cumulative" its own and all earlier shards,
            "shared" the first shard. Default "disjoint".
        shard_by: draw single items ("item"), or whole groups ("group") until a shard has its size. Default "item".
        stratify: whether to give each shard the class proportions of the training items, default True.
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
        stratify=stratify,
        val_fraction=val_fraction,
        test_fraction=test_fraction,
        train=(),
        val=(),
        test=(),
        stages=(),
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
    _refuse(split_problems(plan, index, labels))
    return _plan_stages(plan, index, oracle)


def _plan_splits(plan: ChainPlan, index: Mapping[str, Mapping[str, Any]]) -> ChainPlan:
    explicit = any(item.get("split") for item in index.values())
    members: dict[str, list[str]] = {split: [] for split in SPLITS}
    for key in sorted(index):
        if explicit:
            split = _explicit_split(index[key])
        else:
            split = assign_split(
                group_of(index[key]),
                seed=plan.seed,
                val_fraction=plan.val_fraction,
                test_fraction=plan.test_fraction,
            )
        members[split].append(key)
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


def _plan_stages(plan: ChainPlan, index: Mapping[str, Mapping[str, Any]], oracle: LabelOracle) -> ChainPlan:
    """Draw the shards of a plan that has its splits."""
    labeled = [key for key in plan.train if is_labeled(index[key])]
    size = round(plan.label_fraction * len(labeled))
    num_shards = 1 if plan.policy == "shared" else plan.num_stages
    _check_size(plan, size, num_shards, len(labeled))
    labels = oracle.reveal(labeled, purpose="stratification") if plan.stratify else None
    if labels is not None:
        _refuse(class_problems(plan, "train", labels, "Pass another seed, or give every item a split."))
    units: dict[str, list[str]] = {}
    for key in labeled:
        units.setdefault(group_of(index[key]) if plan.shard_by == "group" else key, []).append(key)
    shards = draw_shards(units, labels, num_shards=num_shards, size=size, seed=plan.seed)
    for number, shard in enumerate(shards, 1):
        if len(shard) < size:
            raise ValueError(
                f"shard_by: expected {size} labels for stage {number}, got {len(shard)}, as others took whole groups. "
                "Pass shard_by='item', a smaller label_fraction, or fewer stages."
            )
    plan = replace(plan, stages=_stages(shards, plan))
    shown = [oracle.reveal(stage.new, purpose="shard", stage=stage.stage) for stage in plan.stages if stage.new]
    _refuse(stage_problems(plan, index, {key: label for part in shown for key, label in part.items()}))
    return plan


def _check_size(plan: ChainPlan, size: int, num_shards: int, labeled: int) -> None:
    fraction = f"label_fraction={plan.label_fraction} of {labeled} labeled training items"
    if size < max(len(plan.classes), 1):
        raise ValueError(
            f"label_fraction: expected a label of each of {len(plan.classes)} classes in a shard, got {size} labels "
            f"({fraction}). Pass a larger label_fraction, or label more images."
        )
    if num_shards * size > labeled:
        raise ValueError(
            f"num_stages: expected stages that need {labeled} labels at most, got {num_shards} x {size} ({fraction}). "
            "Pass fewer stages, a smaller label_fraction, or policy='shared'."
        )


def _stages(shards: Sequence[tuple[str, ...]], plan: ChainPlan) -> tuple[StagePlan, ...]:
    stages = []
    for number in range(1, plan.num_stages + 1):
        new = shards[number - 1] if number <= len(shards) else ()
        known = sorted(key for shard in shards[:number] for key in shard)
        stages.append(StagePlan(number, new, new if plan.policy == "disjoint" else tuple(known)))
    return tuple(stages)


def _refuse(problems: Iterable[str]) -> None:
    found = list(problems)
    if found:
        raise PlanError(found)
