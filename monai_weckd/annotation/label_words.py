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

"""Labels as text: a class, or what is known about each of several findings, such as ``effusion=1|nodule=0``."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_weckd.data.names import clean_text, fold_text, is_missing, is_unlabeled, spelled_as
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.messages import nearest

__all__ = ["LabelWords", "agreed", "known_findings", "majority"]

_BETWEEN = "|"
_LONGEST = 64  # characters of a name
_NEAR = 0.8  # similarity of two names from which on one may be the other, mistyped


@dataclass(frozen=True)
class LabelWords:
    """How labels of a kind are written, and what they mean.

    A label of findings has those that are known, present as 1 and absent as 0, in the order of their names; what is
    missing is unknown.

    Args:
        kind: names of the classes or findings.
        answers: what may be said in place of a label.

    Example::

        >>> words = LabelWords(LabelKind(("effusion", "nodule", "mass"), findings=True))
        >>> words.spelled({"mass": 0, "Effusion": 1, "nodule": None}), words.value("mass=0|effusion=1").tolist()
        ('effusion=1|mass=0', [1.0, -1.0, 0.0])

    """

    kind: LabelKind
    answers: tuple[str, ...] = ()

    def spelled(self, label: Any) -> str:
        """Return a label as it is kept.

        Args:
            label: a class, an answer, or text or a mapping of findings to 1, 0 and, for unknown, None.

        Raises:
            ValueError: When there is no such class or finding, or nothing is known about any finding.

        """
        known = (*self.kind.names, *self.answers)
        if self.kind.findings and label not in self.answers:
            answer = spelled_as(label, self.answers) if isinstance(label, str) else label
            return answer if answer in self.answers else self._composed(label)
        label = spelled_as(label, known) if isinstance(label, str) else label
        if label not in known:
            raise ValueError(
                f"label: expected one of the {len(self.kind.names)} classes, got {label!r}. "
                f"{nearest(str(label), known)}"
            )
        return str(label)

    def _composed(self, label: Any) -> str:
        values = dict(label) if isinstance(label, Mapping) else _parts(label)
        found: dict[str, int] = {}
        for name, value in values.items():
            own = spelled_as(str(name), self.kind.names)
            if own not in self.kind.names:
                hint = nearest(str(name), self.kind.names)
                raise ValueError(f"label: expected one of the {len(self.kind.names)} findings, got {name!r}. {hint}")
            if value is None:
                continue
            if value not in (0, 1) or own in found:
                raise ValueError(f"label: expected 1, 0 or null once for {own!r}, got {value!r}. Correct it.")
            found[own] = int(value)
        if not found:
            raise ValueError(
                f"label: expected findings such as '{self.kind.names[0]}=1', got {label!r}. "
                "Say of one finding or more whether it is present."
            )
        return _composed(found, self.kind.names)

    def new_name(self, text: str, *, sure: bool = False) -> str:
        """Return how a class or finding that somebody wants to add is spelled; one that exists keeps its spelling.

        Args:
            text: its name.
            sure: whether a name that is nearly one that exists is meant, default False.

        Raises:
            ValueError: When it is no name, an answer, or nearly another name.

        Example::

            >>> words = LabelWords(LabelKind(("Normal", "wax")))
            >>> words.new_name(" normal"), words.new_name("polyp")
            ('Normal', 'polyp')

        """
        name, what = clean_text(text), self.kind.word
        for known in self.kind.names:
            if fold_text(known) == fold_text(name):
                return known
        taken = is_missing(name) or is_unlabeled(name) or spelled_as(name, self.answers) in self.answers
        if taken or len(name) > _LONGEST or not name.isprintable() or _BETWEEN in name:
            raise ValueError(
                f"{what}: expected a name of at most {_LONGEST} characters that says what an image shows, without "
                f"{_BETWEEN!r}, got {name[: 2 * _LONGEST]!r}. Choose another."
            )
        folded = {fold_text(known): known for known in self.kind.names}
        near = difflib.get_close_matches(fold_text(name), folded, n=1, cutoff=_NEAR)
        if near and not sure:
            raise ValueError(
                f"{what}: expected a name unlike those that exist, got {name!r}, which is nearly {folded[near[0]]!r}. "
                f"Add it once more if it is another {what}."
            )
        return name

    def value(self, label: str | None) -> Any:
        """Return a label as in a data list: a class index, or an array of 1, 0 and -1, (F,).

        Args:
            label: the label as it is kept, None: unlabeled.

        """
        if not self.kind.findings:
            return UNLABELED if label is None else self.kind.names.index(label)
        known = {} if label is None else known_findings(label)
        return np.array([known.get(name, UNLABELED) for name in self.kind.names], dtype=np.float32)

    def plain(self, label: str) -> int | tuple[int, ...]:
        """Return a label in the plain form of :py:class:`~monai_weckd.plan.label_kind.LabelKind`.

        Args:
            label: the label as it is kept.

        """
        value = self.value(label)
        return tuple(map(int, value)) if self.kind.findings else value

    def shares(self, shares: Mapping[str, float]) -> list[float]:
        """Return the share of each class, in the order of the classes.

        Args:
            shares: share by name.

        """
        return [shares.get(name, 0.0) for name in self.kind.names]

    def outcomes(self, label: str) -> tuple[str, ...]:
        """Return the outcomes of a label: its class, or each finding with 1 or 0.

        Args:
            label: the label as it is kept.

        """
        return tuple(self.kind.outcomes[place] for place in self.kind.outcomes_of(self.plain(label)))


def known_findings(label: str) -> dict[str, int]:
    """Return what a label says about findings, 1 or 0 by name; nothing if it is an answer in place of that.

    Args:
        label: the label as it is kept.

    Example::

        >>> known_findings("effusion=1|nodule=0"), known_findings("cannot tell")
        ({'effusion': 1, 'nodule': 0}, {})

    """
    return _parts(label) if "=" in label else {}


def _parts(label: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in str(label).split(_BETWEEN):
        name, _, value = part.rpartition("=")
        found[name or part] = {"1": 1, "0": 0}.get(value, value)
    return found


def _composed(values: Mapping[str, int], names: Sequence[str]) -> str:
    return _BETWEEN.join(f"{name}={values[name]}" for name in names if name in values)


def agreed(labels: Sequence[str], names: Sequence[str] = ()) -> str | None:
    """Return the label on which all readers agree, None if they differ.

    Of findings, readers agree who do not contradict each other: what one of them left unknown, another may know.

    Args:
        labels: what each reader says.
        names: names of the findings, default none: labels are classes.

    Example::

        >>> agreed(["a=1", "a=1|b=0"], "ab"), agreed(["a=1", "a=0"], "ab"), agreed(["ill", "well"])
        ('a=1|b=0', None, None)

    """
    if len(set(labels)) == 1:
        return labels[0]
    said = [known_findings(label) for label in labels]
    found = {name: {one[name] for one in said if name in one} for name in names}
    if not names or not all(said) or any(len(values) > 1 for values in found.values()):
        return None
    return _composed({name: values.pop() for name, values in found.items() if values}, names)


def majority(labels: Sequence[str], names: Sequence[str] = ()) -> str | None:
    """Return the label that more than half of the readers give, None without one; of findings, each for itself.

    Args:
        labels: what each reader says.
        names: names of the findings, default none: labels are classes.

    Example::

        >>> majority(["a=1", "a=1|b=0", "a=0"], "ab"), majority(["ill", "well"])
        ('a=1|b=0', None)

    """
    [(most, count)] = Counter(labels).most_common(1)
    if 2 * count > len(labels):
        return most
    said = [told for label in labels if (told := known_findings(label))]
    found: dict[str, int] = {}
    for name in names:
        votes = [one[name] for one in said if name in one]
        if votes and 2 * sum(votes) == len(votes):
            return None
        if votes:
            found[name] = int(2 * sum(votes) > len(votes))
    return _composed(found, names) or None
