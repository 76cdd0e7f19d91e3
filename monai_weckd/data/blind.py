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

"""Hide withheld labels from a dataset's transforms, and find copies of the label under other keys."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import CacheDataset, MetaTensor, PersistentDataset
from monai.transforms import Randomizable
from monai.utils import CommonKeys

from monai_weckd.plan.label_kind import Label, finding_values
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.errors import first_cause

__all__ = ["LabelTrace", "hidden", "listed_copies", "same_draws", "shown_copies", "trace_label", "withhold"]

logger = logging.getLogger(__name__)

# a label has at most this many numbers; larger arrays are images
_LONGEST = 64
# classes whose labels are tried; each try runs the transforms once
_TRIED = 8
# items of each of these classes whose transformed copies are looked at
_LOOKED_AT = 4


@dataclass(frozen=True)
class LabelTrace:
    """Where a dataset's transforms take the label of an item.

    Args:
        copies: keys of the transformed item, besides the label, whose values depend on the label.
        stand_in: class number that the transforms get in place of a withheld label; -1 where they accept it.
        elsewhere: whether the label of the transformed item does not depend on the label in ``data``.

    """

    copies: tuple[str, ...] = ()
    stand_in: int = UNLABELED
    elsewhere: bool = False


class _BlindCache:
    """The cache of a ``CacheDataset`` without the labels that are withheld.

    Args:
        cache: the dataset's own cache of transformed items.
        labels: the revealed labels by index.
        stale: indices whose items were cached before their label was known.
        label_key: key of the label.
        stand_in: shown in place of a withheld label.

    """

    def __init__(
        self, cache: Any, labels: Mapping[int, Label], stale: frozenset[int], *, label_key: str, stand_in: int
    ) -> None:
        self.cache = cache
        self.labels = labels
        self.stale = stale
        self.label_key = label_key
        self.stand_in = stand_in
        # what was computed without its label must not stay in a cache that outlives this stage
        self.own: dict[int, Any] = {}

    def __getitem__(self, index: int) -> Any:
        if index in self.own:
            return self.own[index]
        item = None if index in self.stale else self.cache[index]
        return item if index in self.labels else self._blind(item)

    def _blind(self, item: Any) -> Any:
        if isinstance(item, list):  # a transform may make several items of one, such as crops
            return [self._blind(part) for part in item]
        if not isinstance(item, Mapping) or self.label_key not in item:
            return item
        return {**item, self.label_key: hidden(item[self.label_key], self.stand_in)}

    def __setitem__(self, index: int, item: Any) -> None:
        if index in self.labels and index not in self.stale:
            self.cache[index] = item
        else:
            self.own[index] = item


def hidden(label: Any, stand_in: int = UNLABELED) -> Any:
    """Return what stands for a withheld label, in the type and shape of a label.

    Args:
        label: the label to hide.
        stand_in: the number that stands for it, default -1.

    """
    if isinstance(label, torch.Tensor):
        return torch.full_like(label.long() if _unsigned(label) else label, stand_in)
    if isinstance(label, np.ndarray) and label.dtype.kind in "iufb":
        return np.full(label.shape, stand_in, dtype=label.dtype if label.dtype.kind in "if" else np.int64)
    if isinstance(label, list | tuple):
        return type(label)(hidden(value, stand_in) for value in label)
    return float(stand_in) if isinstance(label, float) else stand_in


def withhold(
    dataset: Any, labels: Mapping[int, Label], *, label_key: str = CommonKeys.LABEL, stand_in: int = UNLABELED
) -> Any:
    """Return a copy of a dataset whose transforms see the revealed labels and no others; it shares all else.

    Items that the dataset has cached lose their labels too. A ``PersistentDataset`` keeps items without their label
    apart from those with it, because its keys are digests of the items; if they leave the label out, it keeps nothing.

    Args:
        dataset: a map-style dataset that reads its items from its list ``data``.
        labels: the revealed labels by index.
        label_key: key of the label in an item, default "label".
        stand_in: shown in place of a withheld label, default -1.

    Raises:
        TypeError: When the list ``data`` of the dataset cannot be replaced.

    """
    data, stale = [], set()
    for index, item in enumerate(dataset.data):
        raw = item.get(label_key)
        if index not in labels:
            data.append({**item, label_key: hidden(raw, stand_in)})
        elif _is_same(raw, labels[index]):
            data.append(item)
        else:
            data.append({**item, label_key: _as_raw(labels[index])})
            stale.add(index)
    other = _with_data(dataset, data)
    if isinstance(other, CacheDataset) and not other.hash_as_key:
        cache: Any = _BlindCache(other._cache, labels, frozenset(stale), label_key=label_key, stand_in=stand_in)
        other._cache = cache
    if isinstance(other, PersistentDataset) and other.cache_dir is not None:
        first, second = ({**data[0], label_key: value} for value in _made_up(data[0].get(label_key), 2)[:2])
        if other.hash_func(first) == other.hash_func(second):
            other.cache_dir = None
    return other


def trace_label(dataset: Any, num_classes: int, *, label_key: str = CommonKeys.LABEL) -> LabelTrace:
    """Find out where a dataset's transforms take a label, by running them on the first image with made-up labels.

    No label is read, and all random generators are left as they were.

    Args:
        dataset: a map-style dataset that reads its items from its list ``data``.
        num_classes: number of classes.
        label_key: key of the label in an item, default "label".

    """
    if getattr(dataset, "whole_batches", False):
        return LabelTrace()  # its items have no label

    def run(label: Any) -> dict[str, Any]:
        return dict(_leaves(_first_part(_transformed(dataset, {**dataset.data[0], label_key: label}))))

    label, *labels = _made_up(dataset.data[0].get(label_key), num_classes)
    first, again, *others = (run(one) for one in (label, label, *labels))
    noise = _differing(first, again)
    found = {path for other in others for path in _differing(first, other)} - noise
    own = {path for path in first if _top(path) == label_key}
    names = {path for path in found if _top(path) != label_key}
    return LabelTrace(
        copies=tuple(sorted(names)),
        stand_in=_stand_in(dataset, first, label_key),
        elsewhere=bool(own) and not found & own,
    )


def _made_up(label: Any, num_classes: int) -> list[Any]:
    """Return some labels of the kind of a label: class indices, or rows with no finding and with one."""
    if finding_values(label) is None:
        return list(range(min(num_classes, _TRIED)))
    rows = np.concatenate([np.zeros((1, num_classes)), np.eye(num_classes)]).astype(np.float32)
    return list(rows[:_TRIED])


def _is_same(raw: Any, label: Label) -> bool:
    """Return whether the label of an item is the one that was revealed."""
    values = finding_values(raw)
    if values is None or isinstance(label, int):
        return hasattr(raw, "__index__") and int(raw) == label
    return tuple(values.tolist()) == label


def _as_raw(label: Label) -> Any:
    """Return a revealed label as an item holds it."""
    return label if isinstance(label, int) else np.array(label, dtype=np.float32)


def listed_copies(items: Sequence[Mapping[str, Any]], labels: Mapping[int, Label], num_classes: int) -> tuple[str, ...]:
    """Return the keys of a data list, besides the label, that carry the same information as the revealed labels.

    A key that says the same as one of several findings counts, too. Only items with a revealed label are compared. A
    key is a copy if its values and the labels determine each other, or if they are vectors whose largest number is at
    the place of the label.

    Args:
        items: the items of the dataset.
        labels: the revealed labels by index.
        num_classes: number of classes.

    """
    return _copies([items[index] for index in labels], list(labels.values()), num_classes)


def shown_copies(
    dataset: Any, labels: Mapping[int, Label], num_classes: int, *, label_key: str = CommonKeys.LABEL
) -> tuple[str, ...]:
    """Return the keys of transformed items, besides the label, that say the same as the revealed labels.

    Such a copy need not come from the label of the item: a transform may have a table from file names to labels. A few
    items with a revealed label are compared; all random generators are left as they were.

    Args:
        dataset: a map-style dataset that reads its items from its list ``data``.
        labels: the revealed labels by index.
        num_classes: number of classes.
        label_key: key of the label in an item, default "label".

    """
    some: dict[Label, list[int]] = {}
    for index, label in labels.items():
        some.setdefault(label, []).append(index)
    places = [index for group in list(some.values())[:_TRIED] for index in group[:_LOOKED_AT]]
    shown = withhold(dataset, labels, label_key=label_key)
    with same_draws():
        items = [shown[index] for index in places]
    return _copies(items, [labels[index] for index in places], num_classes)


def _copies(items: Sequence[Any], labels: Sequence[Label], num_classes: int) -> tuple[str, ...]:
    """Return the keys that say the same as the labels, or as one of their findings where it is known."""
    found = set(_telling(items, labels, num_classes))
    for values in zip(*(label for label in labels if isinstance(label, tuple)), strict=True):
        known = [place for place, value in enumerate(values) if value != UNLABELED]
        found |= set(_telling([items[place] for place in known], [values[place] for place in known], 2))
    return tuple(sorted(found))


def _telling(items: Sequence[Any], labels: Sequence[Label], num_classes: int) -> tuple[str, ...]:
    if len(set(labels)) < 2 or len(labels) < len(set(labels)) + 2:
        return ()
    rows = [
        {path: value for path, value in _leaves(_first_part(item)) if _top(path) not in _NO_COPIES} for item in items
    ]
    shared = set(rows[0]).intersection(*rows)
    return tuple(sorted(key for key in shared if _says([row[key] for row in rows], labels, num_classes)))


def _first_part(item: Any) -> Any:
    """Return an item, or the first of several that a transform has made of it, such as crops."""
    return item[0] if isinstance(item, list) and item else item


_NO_COPIES = frozenset({"id", "group", str(CommonKeys.IMAGE.value), str(CommonKeys.LABEL.value)})


def _says(values: Sequence[Any], labels: Sequence[Label], num_classes: int) -> bool:
    plain = [_plain(value) for value in values]
    if any(value is None for value in plain):
        return False
    if all(isinstance(value, tuple) and len(value) == num_classes for value in plain) and all(
        int(np.argmax(value)) == label for value, label in zip(plain, labels, strict=True)
    ):
        return True
    pairs = set(zip(plain, labels, strict=True))
    return len(pairs) == len(set(plain)) == len(set(labels))


def _plain(value: Any) -> Any:
    """Return a value that can be compared and hashed; None if it cannot be a label."""
    if isinstance(value, torch.Tensor | np.ndarray):
        if np.prod(value.shape) > _LONGEST:
            return None
        return tuple(np.asarray(value).reshape(-1).tolist())
    return value if isinstance(value, str | int | float | bool | np.generic) else None


def _stand_in(dataset: Any, first: Mapping[str, Any], label_key: str) -> int:
    """Return -1 if the transforms accept it and turn it into a label of the same kind, else 0."""
    raw = dataset.data[0].get(label_key)
    unknown = UNLABELED if finding_values(raw) is None else hidden(raw)
    try:
        found = dict(_leaves(_first_part(_transformed(dataset, {**dataset.data[0], label_key: unknown}))))
    except Exception as error:  # the user's transforms may raise anything
        reason = " ".join(str(first_cause(error)).split())[:150]
        logger.info("the transforms refuse the label -1 (%s); withheld labels pass through them as class 0", reason)
        return 0
    same = all(
        path in found and np.shape(found[path]) == np.shape(value)
        for path, value in first.items()
        if _top(path) == label_key
    )
    return UNLABELED if same else 0


def _transformed(dataset: Any, item: Mapping[str, Any]) -> Any:
    """Put an item first in the dataset and return it after all transforms, without caches and with a fixed seed."""
    other = _with_data(dataset, [item, *dataset.data[1:]])
    if isinstance(other, CacheDataset):
        other.cache_num, other._hash_keys = 0, []
    if isinstance(other, PersistentDataset):
        other.cache_dir = None
    with same_draws():
        if isinstance(transform := getattr(other, "transform", None), Randomizable):
            transform.set_random_state(seed=0)
        return other[0]


def _with_data(dataset: Any, data: list[Any]) -> Any:
    other = object.__new__(type(dataset))
    vars(other).update(vars(dataset))
    try:
        other.data = data
    except AttributeError as error:
        raise TypeError(
            f"train_data_loader: expected a dataset whose list `data` can be replaced, got {type(dataset).__name__}. "
            "Make `data` an attribute, and read items from it, so that labels can be withheld."
        ) from error
    return other


@contextmanager
def same_draws() -> Iterator[None]:
    """Seed the generators of Python, NumPy and PyTorch, and restore them afterwards."""
    python, legacy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values in nested dictionaries, lists and metadata, with their places."""
    if isinstance(value, MetaTensor):
        yield path, value.as_tensor()
        yield from _leaves(dict(value.meta), f"{path}.meta")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple) and not _is_vector(value):
        for place, part in enumerate(value):
            yield from _leaves(part, f"{path}.{place}")
    else:
        yield path, np.asarray(value) if isinstance(value, list | tuple) else value


def _is_vector(value: Sequence[Any]) -> bool:
    return bool(value) and all(isinstance(part, int | float) for part in value)


def _differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> set[str]:
    return {
        path
        for path in {**first, **second}
        if path not in first or path not in second or not _equal(first[path], second[path])
    }


def _equal(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor):
        return first.shape == second.shape and torch.allclose(first.double(), second.double(), 0, 0, equal_nan=True)
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and first.tobytes() == second.tobytes()
    return type(first) is type(second) and (first is second or first == second or first != first)


def _top(path: str) -> str:
    return path.split(".", maxsplit=1)[0]


def _unsigned(label: torch.Tensor) -> bool:
    return not label.dtype.is_signed
