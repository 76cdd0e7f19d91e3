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

"""Choose how a comparison splits its items: by splits or folds of the data, else by cross-validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from monai_weckd.compare.folds import (
    FoldSplit,
    cross_validation_splits,
    fold_names,
    given_fold_splits,
    given_test_splits,
)
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.plan.stages import divide_labels

if TYPE_CHECKING:
    from monai_weckd.compare.training import ComparedBundle

__all__ = ["Protocol", "choose_splits", "refuse_overwritten"]

_FOLDS, _REPEATS = 5, 1
# keys that a comparison sets itself, by the last part of their names, and the options to use instead
_DECIDED = {
    "seed": "--seeds",
    "val_fraction": "--val_labels",
    "test_fraction": "--folds, or data with a test split",
    "earlier": "data with a test split",
    "dataset_dir": "--dataset_dir",
    "output_dir": "--output_dir",
}


class Protocol(NamedTuple):
    """The splits of a comparison.

    Args:
        splits: the splits.
        sentence: how they were made, in one sentence.

    """

    splits: list[FoldSplit]
    sentence: str


def refuse_overwritten(changes: Mapping[str, Any]) -> None:
    """Refuse values that a comparison would overwrite.

    Args:
        changes: values to set in the configuration, by key.

    Raises:
        ValueError: When there is one.

    """
    for key in changes:
        decided = _DECIDED.get(key.replace("::", "#").rpartition("#")[2])
        if decided is not None:
            raise ValueError(f"set: expected a key that the comparison does not set, got {key!r}. Pass {decided}.")


def choose_splits(
    bundle: ComparedBundle,
    *,
    folds: int | None = None,
    repeats: int | None = None,
    val_labels: int | None = None,
    new_splits: bool = False,
) -> Protocol:
    """Return the splits of a comparison.

    A test split or folds of the data take precedence. Otherwise a cross-validation splits the items anew.

    Args:
        bundle: the bundle with its data.
        folds: folds of the cross-validation, default None: those of the data, else five. With a given test split, the
            number of draws of labels and validation items from the training split, default one.
        repeats: how often to repeat that with other draws, default None: once.
        val_labels: validation items of each split, default None: as many as a shard has. 0: none.
        new_splits: whether to ignore the splits and folds of the data, default False.

    Raises:
        ValueError: When the data have both folds and splits, or an option contradicts what they have.

    """
    items, kind = bundle.datalist.items, bundle.datalist.kind
    labeled = sum(map(is_labeled, items))
    shards = divide_labels(bundle.size.plan, len(kind.names), items=len(items), labeled=labeled, least=kind.fewest)
    given = {} if new_splits else bundle.folds
    options: Any = {"label_fraction": shards[0] / labeled, "val_labels": val_labels, "kind": kind}
    if not new_splits and {item.get("split") for item in items} - {None, "train"}:
        if given:
            raise ValueError(
                "fold: expected folds or a test split, got both. Remove one from the data, or pass --new_splits."
            )
        found = given_test_splits(items, folds=folds or 1, repeats=repeats or 1, **options)
        return Protocol(found, _data_sentence(found, items))
    if given:
        names = fold_names(given)
        _refuse_options(len(names), {"folds": (folds, len(names)), "repeats": (repeats, 1)})
        found = given_fold_splits(items, given, **options)
        return Protocol(found, f"Each of the {len(names)} folds of the data ({', '.join(names)}) is the test set once.")
    folds, repeats = _FOLDS if folds is None else folds, _REPEATS if repeats is None else repeats
    found = cross_validation_splits(items, folds=folds, repeats=repeats, **options)
    return Protocol(found, f"The items were split anew: {folds} folds, {repeats} times; each is the test set once.")


def _refuse_options(count: int, options: Mapping[str, tuple[int | None, int]]) -> None:
    for name, (value, own) in options.items():
        if value not in (None, own):
            raise ValueError(
                f"{name}: expected {own}, since the data have {count} folds, got {value}. Leave it out, or pass "
                "--new_splits to split the items anew."
            )


def _data_sentence(splits: Sequence[FoldSplit], items: Sequence[Mapping[str, Any]]) -> str:
    labeled = {item["id"] for item in items if is_labeled(item)}
    counts = Counter(part for key, part in splits[0].split_of.items() if key in labeled)
    own = any(item["split"] == "val" for item in items)
    source = "of the data's validation split" if own else "drawn from them"
    val = f"{counts['val']} {source} for validation"
    draws = "" if len(splits) == 1 else f", with {len(splits)} draws of the training items"
    return (
        f"Every arm is measured on the data's own test split alone ({counts['test']} labeled items){draws}. "
        f"{counts['train']} labeled items are for training, {val if counts['val'] else 'none for validation'}."
    )
