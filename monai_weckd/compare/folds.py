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

"""Split items for a comparison: by cross-validation, or by splits or folds of the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.oracle import LabelOracle, is_labeled
from monai_weckd.plan.splits import SPLITS, group_of
from monai_weckd.utils.draws import apportion, hash_fraction

__all__ = ["FoldSplit", "cross_validation_splits", "fold_names", "given_fold_splits", "given_test_splits"]

_ATTEMPTS = 100
_CLASSES = LabelKind(())


class _Labeled(NamedTuple):
    """Group and outcomes of a labeled item; an item counts once for each outcome."""

    group: str
    outcomes: tuple[int, ...]


@dataclass(frozen=True)
class FoldSplit:
    """One split of the items.

    Args:
        repeat: number of the repeat, from 0.
        fold: number of the fold, from 0.
        split_of: "train", "val" or "test" by item id, for every item that is used.

    """

    repeat: int
    fold: int
    split_of: Mapping[str, str]


def cross_validation_splits(
    items: Sequence[Mapping[str, Any]],
    *,
    folds: int = 5,
    repeats: int = 1,
    label_fraction: float = 0.1,
    val_labels: int | None = None,
    kind: LabelKind = _CLASSES,
) -> list[FoldSplit]:
    """Split items for a repeated, stratified cross-validation by groups; a pure function of its arguments.

    Within a repeat, every labeled item is tested once. The validation set consists of whole groups from the other
    folds, with the classes in proportion. It has at most ``val_labels`` items, as many as groups allow, and more only
    if a class would have none; with 0 there is no validation. Unlabeled items follow their group, or go to training if
    their group has no label. Of several findings an image, each is present and absent in every part, and in proportion.

    Args:
        items: dictionaries with ``id``, ``label`` and, where known, ``group``.
        folds: number of folds, default 5.
        repeats: number of repeats, default 1.
        label_fraction: size of a shard as a fraction of the labeled training items, default 0.1.
        val_labels: number of validation items, default None: as many as a shard has, since users with few labels also
            have few for validation. 0: none.
        kind: kind of the labels, whose names are for messages, default: classes by their indices.

    Raises:
        ValueError: When a number is out of range, or a class has too few groups.
        ImportError: When scikit-learn is not installed.

    """
    _check_val_labels(val_labels)
    if folds < 2 or repeats < 1:
        raise ValueError(
            f"folds, repeats: expected at least 2 folds and 1 repeat, got {folds} and {repeats}. Raise them."
        )
    labeled = _labeled(items, kind)
    _check_groups(labeled, folds, kind, validates=val_labels != 0)
    found = []
    for repeat in range(repeats):
        parts = next(
            filter(None, (_repeat(labeled, folds, repeat, n, label_fraction, val_labels) for n in _attempts()))
        )
        for fold, split_of_group in enumerate(parts):
            split_of = {item["id"]: split_of_group.get(group_of(item), "train") for item in items}
            found.append(FoldSplit(repeat, fold, split_of))
    return found


def fold_names(folds: Mapping[str, str]) -> list[str]:
    """Return the names of given folds in order, numbers by their value.

    Args:
        folds: the fold of each item; "-1" marks items that are never tested.

    Example::

        >>> fold_names({"a": "10", "b": "2", "c": "-1"})
        ['2', '10']

    """
    return sorted(set(folds.values()) - {"", "-1"}, key=lambda name: (not name.isdigit(), len(name), name))


def given_fold_splits(
    items: Sequence[Mapping[str, Any]],
    folds: Mapping[str, str],
    *,
    label_fraction: float = 0.1,
    val_labels: int | None = None,
    kind: LabelKind = _CLASSES,
) -> list[FoldSplit]:
    """Split items by given folds; each fold is the test set once, and validation is drawn from the others.

    Args:
        items: dictionaries with ``id``, ``label`` and, where known, ``group``.
        folds: the fold of each item by its id; "-1" marks items that are never tested. Unlabeled items need none.
        label_fraction: see :py:func:`cross_validation_splits`.
        val_labels: see :py:func:`cross_validation_splits`.
        kind: kind of the labels, whose names are for messages, default: classes by their indices.

    Raises:
        ValueError: When a labeled item has no fold, there are fewer than two, a group is in several, or a part of a
            split lacks a class.

    """
    _check_val_labels(val_labels)
    names, labeled = fold_names(folds), _labeled(items, kind)
    if len(names) < 2:
        raise ValueError(f"fold: expected two folds or more, got {names}. Name more, or none.")
    if absent := [key for key in labeled if not folds.get(key)]:
        raise ValueError(
            f"fold: expected one for each labeled item, got none for {len(absent)}, first {absent[0]!r}. "
            "Name it; -1 stands for items that are never tested."
        )
    known = {item["id"]: (group_of(item), folds[item["id"]]) for item in items if folds.get(item["id"])}
    fold_of = _home(known, "fold")
    found = []
    for number, name in enumerate(names):
        test = {group for group, fold in fold_of.items() if fold == name}
        parts = _with_validation(labeled, test, label_fraction, val_labels, purpose=f"fold {name}")
        split_of = {item["id"]: parts.get(group_of(item), "train") for item in items}
        _check_outcomes(labeled, split_of, kind, place=f"fold {name}")
        found.append(FoldSplit(0, number, split_of))
    return found


def given_test_splits(
    items: Sequence[Mapping[str, Any]],
    *,
    folds: int = 1,
    repeats: int = 1,
    label_fraction: float = 0.1,
    val_labels: int | None = None,
    kind: LabelKind = _CLASSES,
) -> list[FoldSplit]:
    """Return the split that the items themselves have, once for each fold and repeat: all have the same test set.

    The items' own validation split is used. If there is none, one is drawn from training for each fold and repeat.

    Args:
        items: dictionaries with ``id``, ``label``, ``split`` and, where known, ``group``.
        folds: number of folds, default 1.
        repeats: number of repeats, default 1.
        label_fraction: see :py:func:`cross_validation_splits`.
        val_labels: see :py:func:`cross_validation_splits`. This many are drawn from a given validation split, and the
            others are left out; default None: all are used.
        kind: kind of the labels, whose names are for messages, default: classes by their indices.

    Raises:
        ValueError: When an item has no split, none is for testing, a group is in several, or a part lacks a class.

    """
    _check_val_labels(val_labels)
    absent = [item["id"] for item in items if not item.get("split")]
    if absent:
        raise ValueError(
            f"split: expected one for every item or for none, got none for {len(absent)}, first {absent[0]!r}. Add it."
        )
    names, labeled = {item["split"] for item in items}, _labeled(items, kind)
    if "test" not in names:
        raise ValueError(
            f"split: expected a test split, got {sorted(names)} alone. Add one, or pass --new_splits for others."
        )
    home = _home({item["id"]: (group_of(item), item["split"]) for item in items}, "split")
    source, own = ("val", "left out") if "val" in names else ("train", "train")
    candidates = {key: of for key, of in labeled.items() if home[of.group] == source}
    found = []
    for repeat, fold in product(range(repeats), range(folds)):
        parts = home
        if source == "train" or val_labels is not None:
            purpose = f"given test split {repeat} {fold}"
            val = _with_validation(candidates, set(), label_fraction, val_labels, purpose=purpose)
            parts = {group: val.get(group, own) if split == source else split for group, split in home.items()}
        placed = {item["id"]: parts[group_of(item)] for item in items}
        _check_outcomes(labeled, placed, kind, place="split")
        found.append(FoldSplit(repeat, fold, {key: part for key, part in placed.items() if part in SPLITS}))
    return found


def _labeled(items: Sequence[Mapping[str, Any]], kind: LabelKind) -> dict[str, _Labeled]:
    """Return group and outcomes of each labeled item by its id."""
    groups = {item["id"]: group_of(item) for item in items if is_labeled(item)}
    labels = LabelOracle(items, findings=kind.findings).reveal(groups, purpose="split")
    return {key: _Labeled(group, kind.outcomes_of(labels[key])) for key, group in groups.items()}


def _pairs(labeled: Iterable[_Labeled]) -> tuple[np.ndarray, np.ndarray]:
    """Return group and outcome of each item once for each of its outcomes, (M,) each."""
    pairs = [(item.group, outcome) for item in labeled for outcome in item.outcomes]
    return np.array([group for group, _ in pairs]), np.array([outcome for _, outcome in pairs])


def _check_val_labels(val_labels: int | None) -> None:
    if val_labels is not None and val_labels < 0:
        raise ValueError(f"val_labels: expected 0 or more, got {val_labels}. Pass 0 for no validation.")


def _home(places: Mapping[str, tuple[str, str]], what: str) -> dict[str, str]:
    """Return the one place of each group, from group and place by item."""
    found: dict[str, str] = {}
    for key, (group, place) in places.items():
        if found.setdefault(group, place) != place:
            raise ValueError(
                f"{what}: expected all items of the group {group!r} in one {what}, got {found[group]!r} and {place!r} "
                f"(for {key!r}). Give them the same, or pass --new_splits."
            )
    return found


def _check_outcomes(
    labeled: Mapping[str, _Labeled], split_of: Mapping[str, str], kind: LabelKind, *, place: str
) -> None:
    """Refuse a part of a split without some outcome; a comparison could not plan or measure it."""
    wanted = {outcome for item in labeled.values() for outcome in item.outcomes}
    _check_several(len(wanted))
    parts = set(split_of.values())
    for part in (name for name in SPLITS if name in parts or name == "train"):
        missing = wanted.difference(*(item.outcomes for key, item in labeled.items() if split_of[key] == part))
        if missing:
            names = [_name(kind, outcome) for outcome in sorted(missing)]
            raise ValueError(
                f"{place}: expected labels of every {kind.word} in {part}, got none of {names}. "
                f"Move a group with each {kind.word} there, or pass --new_splits."
            )


def _check_several(outcomes: int) -> None:
    if outcomes < 2:
        raise ValueError(f"items: expected labels of two classes or more, got {outcomes}. Label more items.")


def _name(kind: LabelKind, outcome: int) -> Any:
    return kind.outcomes[outcome] if kind.names else outcome


def _with_validation(
    labeled: Mapping[str, _Labeled],
    test: Set[str],
    label_fraction: float,
    val_labels: int | None,
    *,
    purpose: str,
) -> dict[str, str]:
    """Return the test groups, and the validation groups drawn from the other ones."""
    rest = [item for item in labeled.values() if item.group not in test]
    count = round(label_fraction * len(rest) / (1 + label_fraction)) if val_labels is None else val_labels
    count = min(count, len(rest))
    val = set() if val_labels == 0 or not rest else _validation_groups(rest, count, purpose=purpose)
    return {**dict.fromkeys(test, "test"), **dict.fromkeys(val, "val")}


def _attempts() -> Iterator[int]:
    yield from range(_ATTEMPTS)
    raise ValueError(
        f"folds: expected every class in each part of every fold, got none such in {_ATTEMPTS} "
        "attempts. Pass fewer folds or a smaller val_labels, or label more groups of the rarest class."
    )


def _check_groups(labeled: Mapping[str, _Labeled], folds: int, kind: LabelKind, *, validates: bool) -> None:
    pairs = {(item.group, outcome) for item in labeled.values() for outcome in item.outcomes}
    counts = Counter(outcome for _, outcome in pairs)
    # with two folds, the fold that is not tested must supply a group for training and one for validation
    least = max(folds, 4 if folds == 2 else 3) if validates else folds
    parts = "training, validation and test" if validates else "training and test"
    for outcome, count in sorted(counts.items()):
        if count < least:
            raise ValueError(
                f"folds: expected at least {least} groups of every {kind.word}, got {count} of "
                f"{_name(kind, outcome)!r}. Pass fewer folds, or label more groups: {parts} need one each."
            )
    _check_several(len(counts))


def _repeat(
    labeled: Mapping[str, _Labeled],
    folds: int,
    repeat: int,
    attempt: int,
    label_fraction: float,
    val_labels: int | None,
) -> list[dict[str, str]] | None:
    """Return the split of each group, fold by fold; None if a split lacks an outcome."""
    purpose = f"folds {repeat} {attempt}"
    groups, outcomes = _pairs(labeled.values())
    found = []
    for test in _test_indices(groups, outcomes, folds, seed=int(hash_fraction(0, purpose, "") * 2**32)):
        split_of = _with_validation(labeled, set(groups[test]), label_fraction, val_labels, purpose=purpose)
        parts = np.array([split_of.get(group, "train") for group in groups])
        if any(len(set(outcomes[parts == part])) < len(set(outcomes)) for part in {*parts, "train"}):
            return None
        found.append(split_of)
    return found


def _test_indices(groups: np.ndarray, outcomes: np.ndarray, folds: int, *, seed: int) -> Iterator[np.ndarray]:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise ImportError(
            "scikit-learn: expected for compare, got no such package. Install monai-weckd[compare]."
        ) from error
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for _, test in splitter.split(outcomes, outcomes, groups):
        yield test


def _validation_groups(items: Sequence[_Labeled], count: int, *, purpose: str) -> set[str]:
    """Draw whole groups with at most ``count`` items in total; exceed it only if an outcome would have none."""
    groups, labels = _pairs(items)
    outcomes, sizes = np.unique(labels, return_counts=True)
    # as many outcomes as so many items have on average
    quotas = apportion(count * len(labels) // len(items), sizes.tolist())
    wanted = dict(zip(outcomes.tolist(), quotas, strict=True))
    members: dict[str, Counter[int]] = {}
    for group, label in zip(groups.tolist(), labels.tolist(), strict=True):
        members.setdefault(group, Counter())[label] += 1
    order = sorted(members, key=lambda group: hash_fraction(0, purpose, group))
    taken: dict[str, Counter[int]] = {}
    have: Counter[int] = Counter()
    for group in order:
        counts = members[group]
        if all(have[label] + number <= wanted[label] for label, number in counts.items()):
            taken[group] = counts
            have += counts
    for label in outcomes.tolist():
        if not have[label]:
            # the smallest group with this outcome; of equal ones, the first drawn
            group = min((g for g in order if members[g][label]), key=lambda g: members[g].total())
            taken[group] = members[group]
            have += members[group]
    return set(taken)
