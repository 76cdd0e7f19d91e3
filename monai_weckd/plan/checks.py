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

"""Verify a plan against the items that it was made from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.label_kind import Label
from monai_weckd.plan.oracle import LabelOracle, index_items, is_labeled
from monai_weckd.plan.splits import SPLITS, group_of

__all__ = ["PlanError", "check_plan", "refuse", "class_problems", "label_problem", "split_problems", "stage_problems"]


class PlanError(ValueError):
    """A plan with problems.

    Args:
        problems: the problems, one line each; the message is the first, with the number of the others.

    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        others = f" ({len(problems) - 1} more, see `problems`)" if len(problems) > 1 else ""
        super().__init__(problems[0] + others)


def refuse(problems: Iterable[str]) -> None:
    """Raise a PlanError if there is any problem.

    Args:
        problems: the problems, one line each.

    """
    found = list(problems)
    if found:
        raise PlanError(found)


def check_plan(plan: ChainPlan, items: Iterable[Mapping[str, Any]]) -> list[str]:
    """Verify a plan independently: no group in two splits, shards that follow the settings, and no missing class.

    Among the training labels, only those of the shards are read. Validation and test may be empty.

    Args:
        plan: the plan.
        items: the items that it was made from.

    Returns:
        The problems, one line each; empty if the plan is good.

    """
    index = index_items(items)
    ids = {key for part in (plan.val, plan.test, *(stage.labeled for stage in plan.stages)) for key in part}
    usable = [key for key in ids if key in index and is_labeled(index[key])]
    oracle = LabelOracle(list(index.values()), findings=plan.findings)
    oracle.ask(plan.asked)
    labels = oracle.reveal(usable, purpose="test")
    return [*split_problems(plan, index, labels), *stage_problems(plan, index, labels)]


def split_problems(
    plan: ChainPlan, index: Mapping[str, Mapping[str, Any]], labels: Mapping[str, Label]
) -> Iterator[str]:
    """Yield the problems of a plan's splits.

    Args:
        plan: a plan, with or without stages.
        index: items by id.
        labels: revealed labels by id, those of validation and test at least.

    """
    yield from _group_problems(plan, index)
    for split in SPLITS:
        ids = getattr(plan, split)
        if len(set(ids)) < len(ids):
            yield f"{split}: expected distinct ids, got {len(ids) - len(set(ids))} repeated. Make the plan anew."
        if unknown := [key for key in ids if key not in index]:
            yield (
                f"{split}: expected ids of the items, got {len(unknown)} unknown, first {unknown[0]!r}. "
                "Use the items that the plan was made from."
            )
        if split == "train" and not ids:
            yield "train: expected at least one item, got none. Give some items another split."
        elif split != "train" and ids:
            remedy = f"Put a group with each {plan.kind.word} there, or give no item this split."
            yield from class_problems(plan, split, {key: labels.get(key) for key in ids}, remedy)


def stage_problems(
    plan: ChainPlan, index: Mapping[str, Mapping[str, Any]], labels: Mapping[str, Label]
) -> Iterator[str]:
    """Yield the problems of a plan's stages.

    Args:
        plan: a plan.
        index: items by id, those of the shards at least.
        labels: revealed labels by id, those of the shards at least.

    """
    numbers = [stage.stage for stage in plan.stages]
    if numbers != list(range(1, plan.settings.num_stages + 1)):
        yield f"stages: expected the numbers 1 to {plan.settings.num_stages}, got {numbers}. Make the plan anew."
    yield from _policy_problems(plan)
    yield from _shard_problems(plan, index)
    if plan.settings.missing_classes == "allow" or plan.settings.selection != "random":
        return  # the classes of a shard that a network selects cannot be known in advance
    for stage in plan.stages:
        remedy = "Pass larger shards, stratify=True, another seed, or missing_classes='allow'."
        yield from class_problems(plan, f"stage {stage.stage}", {key: labels.get(key) for key in stage.labeled}, remedy)


def class_problems(plan: ChainPlan, place: str, labels: Mapping[str, Label | None], remedy: str) -> Iterator[str]:
    """Yield the problems with the labels of one split or stage: a label of another kind, or a missing outcome.

    Args:
        plan: a plan.
        place: the split or stage.
        labels: its labels by id, None for items without a label.
        remedy: what to do if a class is missing.

    """
    if problem := label_problem(plan, place, labels):
        yield problem
        return
    kind = plan.kind
    found = {outcome for label in labels.values() if label is not None for outcome in kind.outcomes_of(label)}
    if missing := [name for i, name in enumerate(kind.outcomes) if i not in found]:
        yield f"{place}: expected labels of every {kind.word}, got none of {missing} among {len(labels)}. {remedy}"


def label_problem(plan: ChainPlan, place: str, labels: Mapping[str, Label | None]) -> str | None:
    """Return the problem with the first label that is not of the plan's kind, None if all are.

    Args:
        plan: a plan.
        place: the split or stage.
        labels: its labels by id, None for items without a label.

    """
    kind = plan.kind
    for key, label in labels.items():
        if fault := kind.fault(label):
            return f"{place}: {fault} for {key!r}. Pass all {'findings' if kind.findings else 'classes'}."
    return None


def _group_problems(plan: ChainPlan, index: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    home: dict[str, str] = {}
    parted: dict[str, str] = {}
    for split in SPLITS:
        for key in getattr(plan, split):
            item = index.get(key)
            if item is not None and home.setdefault(group := group_of(item), split) != split:
                parted[group] = split
    if parted:
        first = min(parted)
        yield (
            f"group: expected each in one split, got {len(parted)} parted, first {first!r} in {home[first]} and "
            f"{parted[first]}. Give all items of a group the same split."
        )


def _policy_problems(plan: ChainPlan) -> Iterator[str]:
    train, brought = set(plan.train), set[str]()
    for stage in plan.stages:
        if plan.settings.policy == "shared" and stage.stage > 1 and stage.new:
            yield f"stage {stage.stage}: expected no new labels (shared), got {len(stage.new)}. Make the plan anew."
        brought |= set(stage.new)
        if not stage.labeled and plan.settings.selection not in ("random", "given"):
            continue  # its shard has not been drawn
        expected = set(stage.new) if plan.settings.policy == "disjoint" else brought
        if set(stage.labeled) != expected:
            yield (
                f"stage {stage.stage}: expected the {len(expected)} labels of policy {plan.settings.policy!r}, "
                f"got {len(set(stage.labeled) ^ expected)} too many or too few. Make the plan anew."
            )
        if strange := set(stage.labeled) - train:
            yield f"stage {stage.stage}: expected training items, got {min(strange)!r}. Make the plan anew."


def _shard_problems(plan: ChainPlan, index: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    home: dict[str, int] = {}
    for stage in plan.stages:
        known = {key for key in stage.new if key in index}
        units = {group_of(index[key]) for key in known} if plan.settings.shard_by == "group" else known
        if twice := sorted(unit for unit in units if home.setdefault(unit, stage.stage) != stage.stage):
            yield (
                f"stage {stage.stage}: expected each {plan.settings.shard_by} in one shard, got {len(twice)} in two, "
                f"first {twice[0]!r} as in stage {home[twice[0]]}. Make the plan anew."
            )
