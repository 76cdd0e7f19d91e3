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

"""The label oracle: the only access to labels, with a ledger of every label revealed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from monai_weckd.plan.label_kind import Label, finding_values, is_known
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.messages import check_item

__all__ = ["LabelOracle", "LedgerEntry", "index_items", "is_labeled"]

# purposes outside the label budget: counting the classes, splitting and stratifying a plan, and the final figures
UNCOUNTED = ("classes", "split", "stratification", "test")


@dataclass(frozen=True)
class LedgerEntry:
    """One line of the ledger: labels that were revealed for one purpose.

    Args:
        purpose: purpose of the labels, such as "shard", "validation", "test", "split" or "stratification".
        stage: stage number, from 1, or None.
        labels: number of labels; an image is one, however many findings are known in it.
        digest: SHA-256 of the sorted ids, one per line, in hexadecimal.
        known: number of images in which each finding is known; None where an image has one class.
        asked: number of single findings that were asked for, known or not; None where labels are asked for whole.

    """

    purpose: str
    stage: int | None
    labels: int
    digest: str
    known: tuple[int, ...] | None = None
    asked: int | None = None


class LabelOracle:
    """Reveal labels, and keep the ledger that determines the label budget.

    It is the only access to labels: losses, samplers, selections and metrics see the labels revealed here and no
    others. In a retrospective run the labels come from the data list. In MONAI Label a person sets ``label`` in the
    item, and the oracle reads it only when it reveals it.

    Args:
        items: dictionaries with ``id`` and ``label``; ``UNLABELED``, None or no label means unlabeled.
        findings: whether a label has a value for each finding, (F,), in place of a class index, default False.

    Raises:
        ValueError: When an item has no ``id``, or two items have the same.

    Example::

        >>> oracle = LabelOracle([{"id": "a", "label": 1}, {"id": "b", "label": 0}])
        >>> oracle.reveal(["b"], purpose="shard", stage=1)
        {'b': 0}
        >>> oracle.budget, oracle.ledger[0].labels
        (1, 1)

    """

    def __init__(self, items: Sequence[Mapping[str, Any]], *, findings: bool = False) -> None:
        self._items = index_items(items)
        self._findings = findings
        self._asked: dict[str, tuple[int, ...]] = {}
        self._revealed: set[str] = set()
        self._counted: set[str] = set()
        # a dictionary keeps the order, and one line for a repeated request
        self._ledger: dict[LedgerEntry, None] = {}

    @property
    def ledger(self) -> tuple[LedgerEntry, ...]:
        """The revealed labels, in order; a repeated request adds no line."""
        return tuple(self._ledger)

    @property
    def budget(self) -> int:
        """The label budget, as distinct items revealed so far; planning and the test figures do not count."""
        return len(self._counted)

    @property
    def revealed(self) -> frozenset[str]:
        """Ids of all items whose label was revealed, for any purpose."""
        return frozenset(self._revealed)

    def ask(self, asked: Mapping[str, tuple[int, ...]]) -> None:
        """From now on, reveal some findings of some items alone; their others are unknown.

        Args:
            asked: places of the findings by id.

        """
        self._asked = dict(asked)

    def reveal(self, ids: Iterable[str], *, purpose: str, stage: int | None = None) -> dict[str, Any]:
        """Return the labels of some items, by id: class indices, or for each finding 0, 1 or -1 (unknown).

        Args:
            ids: ids of the items.
            purpose: purpose of the labels; "classes", "split", "stratification" and "test" are not part of the budget.
            stage: stage number, from 1, default None.

        Raises:
            ValueError: When an id is unknown, or the label of its item is of another kind.

        """
        labels = {key: self._label(key) for key in ids}
        digest = hashlib.sha256("\n".join(sorted(labels)).encode(errors="surrogateescape")).hexdigest()
        known = _known_findings(labels.values()) if self._findings else None
        asked = sum(len(self._asked[key]) for key in labels if key in self._asked) or None
        self._ledger[LedgerEntry(purpose, stage, len(labels), digest, known, asked)] = None
        self._revealed.update(labels)
        if purpose not in UNCOUNTED:
            self._counted.update(labels)
        return labels

    def to_dicts(self) -> list[dict[str, Any]]:
        """Return the ledger as dictionaries, ready for JSON; ``known`` and ``asked`` only where labels are findings."""
        always = ("purpose", "stage", "labels", "digest")
        lines = map(asdict, self._ledger)
        return [{key: value for key, value in line.items() if key in always or value is not None} for line in lines]

    def state_dict(self) -> dict[str, Any]:
        """Return ledger and revealed labels."""
        return {
            "ledger": self.to_dicts(),
            "labels": {key: self._label(key) for key in sorted(self._revealed)},
            "counted": sorted(self._counted),
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a ledger.

        Args:
            state_dict: result of :py:meth:`state_dict`.

        Raises:
            ValueError: When the label of a revealed item has changed.

        """
        for key, label in state_dict["labels"].items():
            if self._label(key) != label:
                raise ValueError(
                    f"labels: expected class {label} for {key!r}, as it was revealed, got {self._label(key)}. "
                    "Put the label back, or begin anew."
                )
        self._ledger = dict.fromkeys(map(_entry, state_dict["ledger"]))
        self._revealed, self._counted = set(state_dict["labels"]), set(state_dict["counted"])

    def _label(self, key: str) -> Label:
        item = self._items.get(key)
        if item is None:
            raise ValueError(
                f"ids: expected ids of the items, got {key!r}. Use the plan that was made from these items."
            )
        if not is_labeled(item):
            raise ValueError(f"ids: expected labeled items, got {key!r} without a label. Label it, or plan without it.")
        label = item["label"]
        values = finding_values(label)
        if self._findings:
            if values is None or not all(value != value or value in (UNLABELED, 0, 1) for value in values):
                raise ValueError(
                    f"label: expected 0, 1 or {UNLABELED} (unknown) for each finding, got {label!r} for {key!r}. "
                    "Pass such an array."
                )
            asked = self._asked.get(key, range(len(values)))
            return tuple(
                int(value) if value >= 0 and place in asked else UNLABELED for place, value in enumerate(values)
            )
        if values is not None or not hasattr(label, "__index__"):
            raise ValueError(f"label: expected a class index, got {label!r} for {key!r}. Index the class names.")
        return int(label)


def index_items(items: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Return items by their id.

    Args:
        items: dictionaries with ``id``.

    Raises:
        TypeError: When an item is not a dictionary.
        ValueError: When an item has no ``id``, or two items have the same.

    """
    index: dict[str, Mapping[str, Any]] = {}
    for number, item in enumerate(items):
        check_item("items", number, item)
        if "id" not in item:
            raise ValueError(
                f"items: expected an 'id' in every item, got the keys {sorted(item)}. Use the items of load_datalist."
            )
        if item["id"] in index:
            raise ValueError(f"items: expected distinct ids, got {item['id']!r} twice. Remove one of the items.")
        index[item["id"]] = item
    return index


def is_labeled(item: Mapping[str, Any]) -> bool:
    """Return whether an item has a label, without using its value.

    Args:
        item: dictionary with ``label``.

    Example::

        >>> is_labeled({"id": "a", "label": 0}), is_labeled({"id": "b", "label": UNLABELED})
        (True, False)

    """
    return is_known(item.get("label"))


def _known_findings(labels: Iterable[Label]) -> tuple[int, ...]:
    rows = [label for label in labels if isinstance(label, tuple)]
    return tuple(sum(value != UNLABELED for value in column) for column in zip(*rows, strict=True))


def _entry(line: Mapping[str, Any]) -> LedgerEntry:
    known = line.get("known")
    return LedgerEntry(**{**line, "known": None if known is None else tuple(known)})
