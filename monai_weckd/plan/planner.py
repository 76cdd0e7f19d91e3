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
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from monai_weckd.plan.assignment import assign_groups
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.checks import label_problem, refuse, split_problems
from monai_weckd.plan.label_kind import Label
from monai_weckd.plan.oracle import LabelOracle, index_items, is_labeled
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.plan.splits import SPLITS, group_of, identify
from monai_weckd.plan.stages import plan_stages
from monai_weckd.utils.messages import nearest

__all__ = ["plan_chain", "plan_training", "read_shards", "replan"]


def plan_chain(
    items: Iterable[Mapping[str, Any]],
    settings: PlanSettings | None = None,
    *,
    classes: Sequence[str] | None = None,
    findings: bool = False,
    shards: Sequence[Collection[str]] | str | os.PathLike[str] | None = None,
    earlier: ChainPlan | str | os.PathLike[str] | None = None,
    oracle: LabelOracle | None = None,
    skipped: Sequence[str] = (),
) -> ChainPlan:
    """Plan a chain: split the items by group, and draw the labels of each stage. No image is opened.

    If the items have a ``split``, it is kept; validation and test may be absent. Otherwise
    :py:meth:`PlanSettings.held_out` says what is held out, and
    :py:func:`monai_weckd.plan.assignment.assign_groups` finds a split with every class in each part. It reads all
    labels, and the ledger lists them as "split". Groups without a label go to training. The plan depends on the
    arguments alone, not on the order of the items.

    A shard has ``shard_size`` labels, ``labels_per_class`` times the number of classes, or
    ``round(label_fraction * training items)``. Where fewer labels exist, the shards share them evenly.

    With ``stratify`` the labels of all training items are read, and the ledger lists them as "stratification". Without
    stratification and held-out splits, only the training labels of the shards are read. With another ``selection`` than
    "random", :py:func:`monai_weckd.selection.select_items` draws each shard when its stage starts.

    Args:
        items: dictionaries with ``id``, ``label`` and, if known, ``group`` and ``split``, as
            :py:func:`monai_weckd.data.load_datalist` makes them.
        settings: settings of the plan, default None: :py:class:`PlanSettings` with its defaults.
        classes: class names in the order of their indices, default None: the indices in validation and test, or those
            of all labels if nothing is held out or the labels are read anyway.
        findings: whether ``classes`` names findings, of which an image may show several or none. A label is then an
            array with 0, 1 or -1 (unknown) for each, and every part of a split has images with and without each
            finding. Default False: an image has one class.
        shards: given shards, such as those of another run: the path of its ``plan.json``, or one collection of ids for
            each stage. For a single stage or ``policy="shared"``, any number of collections is merged into one.
            Default None.
        earlier: plan of a part of these items, or the path of its ``plan.json``; its groups stay in their splits, and
            new groups are assigned around them. Items with a ``split`` keep that. Default None.
        oracle: access to the labels, default None: an oracle over the items.
        skipped: ids of items that could not be read, for the record.

    Raises:
        ValueError: When there are too few labels for the settings.
        PlanError: When a split or a stage lacks a class, nothing is left for training, or a group is in two splits.

    Example::

        >>> items = [{"id": f"{i:03}", "group": f"patient {i // 2}", "label": i % 2} for i in range(200)]
        >>> plan = plan_chain(items, classes=["ill", "well"])
        >>> [len(ids) for ids in (plan.train, plan.val, plan.test)], plan.label_budget
        ([200, 0, 0], {'train': 60, 'val': 0})
        >>> plan = plan_chain(items, PlanSettings(val_fraction=0.15, test_fraction=0.25), classes=["ill", "well"])
        >>> [len(ids) for ids in (plan.train, plan.val, plan.test)], plan.label_budget
        ([120, 30, 50], {'train': 36, 'val': 30})

    """
    settings = PlanSettings() if settings is None else settings
    asked: Mapping[str, tuple[int, ...]] = {}
    if isinstance(shards, (str, os.PathLike)):
        asked = _read_plan(shards).asked
        shards = read_shards(shards)
    if shards is not None:
        settings = replace(settings, selection="given")
    names = () if classes is None else tuple(classes)
    plan = ChainPlan(names, _without_use(settings), skipped=tuple(skipped), findings=findings)
    index = index_items(items)
    if not index:
        raise ValueError("items: expected at least one, got none. Pass the items of load_datalist.")
    oracle = LabelOracle(list(index.values()), findings=findings) if oracle is None else oracle
    if isinstance(earlier, (str, os.PathLike)):
        earlier = _read_plan(earlier)
    plan = _plan_splits(plan, index, oracle, earlier)
    labels: dict[str, Label] = {}
    for purpose, ids in (("validation", plan.val), ("test", plan.test)):
        labels |= oracle.reveal(ids, purpose=purpose) if ids else {}
    if not plan.classes:
        plan = _with_classes(plan, labels or oracle.reveal(_labeled(index), purpose="classes"))
    refuse(split_problems(plan, index, labels))
    return plan_stages(plan, index, oracle, shards=shards, asked=asked)


def plan_training(
    items: Iterable[Mapping[str, Any]], *, classes: Sequence[str], findings: bool = False, **settings: Any
) -> ChainPlan:
    """Plan a chain for a pipeline with its own validation: :py:func:`monai_weckd.plan_chain` without splitting.

    Args:
        items: the training items, in any MONAI data list. An item without ``id`` is identified by its ``image``; an
            item without ``group`` is a group of its own.
        classes: class names in the order of their indices.
        findings: see :py:func:`monai_weckd.plan_chain`, default False.
        settings: fields of :py:class:`PlanSettings`, such as ``label_fraction=0.2``.

    Raises:
        TypeError: When a setting is not a field of :py:class:`PlanSettings`.
        ValueError: When there are too few labels for the settings.
        PlanError: When a stage lacks a class.

    Example::

        >>> items = [{"image": f"{i:03}.png", "label": i % 2} for i in range(100)]
        >>> plan = plan_training(items, classes=["ill", "well"])
        >>> [len(stage.labeled) for stage in plan.stages], len(plan.train), len(plan.val)
        ([10, 10, 10], 100, 0)

    """
    plan = ChainPlan(tuple(classes), _without_use(PlanSettings(**settings)), findings=findings)
    return replan(plan, identify(items))


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
    # the split read the labels of the earlier items only, not of the new ones
    read = plan.split_by_label and index.keys() <= set(plan.train)
    plan = replace(plan, train=tuple(sorted(index)), split_by_label=read)
    oracle = LabelOracle(list(index.values()), findings=plan.findings) if oracle is None else oracle
    return plan_stages(plan, index, oracle)


def read_shards(path: str | os.PathLike[str]) -> list[tuple[str, ...]]:
    """Return the shards from a run's plan file, so that another run can use the same labels.

    Args:
        path: a ``plan.json``.

    Raises:
        ValueError: When it is not a plan, or some of its shards were never drawn.

    """
    plan = _read_plan(path)
    if plan.undrawn is not None:
        raise ValueError(f"path: expected a plan whose shards are drawn, got none for stage {plan.undrawn}. Finish it.")
    return [stage.new for stage in plan.stages]


def _read_plan(path: str | os.PathLike[str]) -> ChainPlan:
    # invalid UTF-8 is replaced, and then the digest does not match
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    try:
        return ChainPlan.from_json(text)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def _plan_splits(
    plan: ChainPlan, index: Mapping[str, Mapping[str, Any]], oracle: LabelOracle, earlier: ChainPlan | None
) -> ChainPlan:
    if any(item.get("split") for item in index.values()):
        split_of = {key: _explicit_split(item) for key, item in index.items()}
    else:
        fixed = {} if earlier is None else _earlier_splits(earlier, index)
        plan, assigned = _assign(plan, index, oracle, fixed)
        split_of = {key: assigned.get(group_of(item), "train") for key, item in index.items()}
    members: dict[str, list[str]] = {split: [] for split in SPLITS}
    for key in sorted(index):
        members[split_of[key]].append(key)
    held_out = members["val"] + members["test"]
    return replace(
        plan,
        train=tuple(members["train"]),
        val=tuple(key for key in members["val"] if is_labeled(index[key])),
        test=tuple(key for key in members["test"] if is_labeled(index[key])),
        unused=tuple(sorted(key for key in held_out if not is_labeled(index[key]))),
    )


def _assign(
    plan: ChainPlan, index: Mapping[str, Mapping[str, Any]], oracle: LabelOracle, fixed: Mapping[str, str]
) -> tuple[ChainPlan, dict[str, str]]:
    """Return the plan with its classes, and the split of every group that has one; the others are for training."""
    labeled = _labeled(index)
    val, test = plan.settings.held_out(len(labeled))
    shares = {"train": 1 - val - test, "val": val, "test": test}
    shares = {split: share for split, share in shares.items() if share or split in fixed.values()}
    if len(shares) == 1:
        return plan, {}
    labels = oracle.reveal(labeled, purpose="split")
    plan = replace(_with_classes(plan, labels), split_by_label=True)
    refuse(filter(None, [label_problem(plan, "items", labels)]))
    counts: dict[str, Counter[int]] = {}
    for key, label in labels.items():
        counts.setdefault(group_of(index[key]), Counter()).update(plan.kind.outcomes_of(label))
    options: Any = {"seed": plan.settings.seed, "fixed": fixed, "word": plan.kind.word}
    assigned = assign_groups(counts, plan.kind.outcomes, shares, **options)
    return plan, {**fixed, **assigned}


def _earlier_splits(earlier: ChainPlan, index: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the split of each group with an item of an earlier plan."""
    found: dict[str, str] = {}
    if not index.keys() & {*earlier.train, *earlier.val, *earlier.test}:
        raise ValueError(
            "earlier: expected a plan of some of these items, got one of others. Pass the plan of this set."
        )
    for split in SPLITS:
        for key in getattr(earlier, split):
            group = group_of(index[key]) if key in index else None
            if group is not None and found.setdefault(group, split) != split:
                raise ValueError(
                    f"group: expected items of one split of the earlier plan in {group!r}, got {found[group]} and "
                    f"{split}. Give them the groups that they had."
                )
    return found


def _labeled(index: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [key for key in sorted(index) if is_labeled(index[key])]


def _with_classes(plan: ChainPlan, labels: Mapping[str, Label]) -> ChainPlan:
    """Return a plan with the classes or findings of some labels, unless it has classes."""
    counts = (len(label) if isinstance(label, tuple) else label + 1 for label in labels.values())
    return replace(plan, classes=plan.classes or tuple(map(str, range(max(counts, default=0)))))


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
