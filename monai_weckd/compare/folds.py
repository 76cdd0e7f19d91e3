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

"""Split items for a repeated, stratified cross-validation by groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_weckd.plan.oracle import is_labeled
from monai_weckd.plan.splits import group_of
from monai_weckd.utils.draws import apportion, hash_fraction

__all__ = ["FoldSplit", "cross_validation_splits"]

_ATTEMPTS = 100


@dataclass(frozen=True)
class FoldSplit:
    """One split of the items.

    Args:
        repeat: number of the repeat, from 0.
        fold: number of the fold, from 0.
        split_of: "train", "val" or "test" by item id, for every item.

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
    classes: Sequence[str] | None = None,
) -> list[FoldSplit]:
    """Split items for a repeated, stratified cross-validation by groups; a pure function of its arguments.

    Within a repeat, every labeled item is tested once. The validation set consists of whole groups from the other
    folds, with the classes in proportion. It has at most ``val_labels`` items, as many as groups allow, and more only
    if a class would have none; with 0 there is no validation. Unlabeled items follow their group, or go to training if
    their group has no label.

    Args:
        items: dictionaries with ``id``, ``label`` and, where known, ``group``.
        folds: number of folds, default 5.
        repeats: number of repeats, default 1.
        label_fraction: size of a shard as a fraction of the labeled training items, default 0.1.
        val_labels: number of validation items, default None: as many as a shard has, since users with few labels also
            have few for validation. 0: none.
        classes: class names for messages, default None: the indices.

    Raises:
        ValueError: When a number is out of range, or a class has too few groups.
        ImportError: When scikit-learn is not installed.

    """
    if folds < 2 or repeats < 1:
        raise ValueError(
            f"folds, repeats: expected at least 2 folds and 1 repeat, got {folds} and {repeats}. Raise them."
        )
    if val_labels is not None and val_labels < 0:
        raise ValueError(f"val_labels: expected 0 or more, got {val_labels}. Pass 0 for no validation.")
    labeled = {item["id"]: (group_of(item), int(item["label"])) for item in items if is_labeled(item)}
    _check_groups(labeled, folds, classes, validates=val_labels != 0)
    found = []
    for repeat in range(repeats):
        parts = next(
            filter(None, (_repeat(labeled, folds, repeat, n, label_fraction, val_labels) for n in _attempts()))
        )
        for fold, split_of_group in enumerate(parts):
            split_of = {item["id"]: split_of_group.get(group_of(item), "train") for item in items}
            found.append(FoldSplit(repeat, fold, split_of))
    return found


def _attempts() -> Iterator[int]:
    yield from range(_ATTEMPTS)
    raise ValueError(
        f"folds: expected every class in each part of every fold, got none such in {_ATTEMPTS} "
        "attempts. Pass fewer folds or a smaller val_labels, or label more groups of the rarest class."
    )


def _check_groups(
    labeled: Mapping[str, tuple[str, int]], folds: int, classes: Sequence[str] | None, *, validates: bool
) -> None:
    counts = Counter(label for _, label in set(labeled.values()))
    # with two folds, the fold that is not tested must supply a group for training and one for validation
    least = max(folds, 4 if folds == 2 else 3) if validates else folds
    parts = "training, validation and test" if validates else "training and test"
    for label, count in sorted(counts.items()):
        if count < least:
            name = label if classes is None else classes[label]
            raise ValueError(
                f"folds: expected at least {least} groups of every class, got {count} of {name!r}. "
                f"Pass fewer folds, or label more groups: {parts} need one each."
            )
    if len(counts) < 2:
        raise ValueError(f"items: expected labels of two classes or more, got {len(counts)}. Label more items.")


def _repeat(
    labeled: Mapping[str, tuple[str, int]],
    folds: int,
    repeat: int,
    attempt: int,
    label_fraction: float,
    val_labels: int | None,
) -> list[dict[str, str]] | None:
    """Return the split of each group, fold by fold; None if a split lacks a class."""
    purpose = f"folds {repeat} {attempt}"
    groups = np.array([group for group, _ in labeled.values()])
    labels = np.array([label for _, label in labeled.values()])
    found = []
    for test in _test_indices(groups, labels, folds, seed=int(hash_fraction(0, purpose, "") * 2**32)):
        rest = np.setdiff1d(np.arange(len(labels)), test)
        count = round(label_fraction * len(rest) / (1 + label_fraction)) if val_labels is None else val_labels
        val = set() if val_labels == 0 else _validation_groups(groups[rest], labels[rest], count, purpose=purpose)
        in_val = np.isin(groups[rest], sorted(val))
        parts = [labels[test], labels[rest][~in_val], *([labels[rest][in_val]] if val else [])]
        if any(len(set(part)) < len(set(labels)) for part in parts):
            return None
        found.append({**dict.fromkeys(groups[test], "test"), **dict.fromkeys(val, "val")})
    return found


def _test_indices(groups: np.ndarray, labels: np.ndarray, folds: int, *, seed: int) -> Iterator[np.ndarray]:
    try:
        from sklearn.model_selection import StratifiedGroupKFold
    except ImportError as error:
        raise ImportError(
            "scikit-learn: expected for compare, got no such package. Install monai-weckd[compare]."
        ) from error
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for _, test in splitter.split(labels, labels, groups):
        yield test


def _validation_groups(groups: np.ndarray, labels: np.ndarray, count: int, *, purpose: str) -> set[str]:
    """Draw whole groups with at most ``count`` items in all; exceed it only if a class would have none."""
    classes, sizes = np.unique(labels, return_counts=True)
    wanted = dict(zip(classes.tolist(), apportion(count, sizes.tolist()), strict=True))
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
    for label in classes.tolist():
        if not have[label]:
            # the smallest group with this class; of equal ones, the first drawn
            group = min((g for g in order if members[g][label]), key=lambda g: members[g].total())
            taken[group] = members[group]
            have += members[group]
    return set(taken)
