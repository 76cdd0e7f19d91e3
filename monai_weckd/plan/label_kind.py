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

"""What a label says: the one class of an image, or which of several findings it shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from monai_weckd.utils.enums import UNLABELED

__all__ = ["Label", "LabelKind", "finding_values", "has_unknown", "is_known", "label_text", "plain_label"]

# a class index; or, for each finding, 1 where it is present, 0 where it is absent and -1 where nobody knows
Label: TypeAlias = int | tuple[int, ...]


@dataclass(frozen=True)
class LabelKind:
    """The kind of a plan's labels, which all code asks that must tell classes and findings apart.

    An outcome is what splits and shards must have on both sides: each class, or each finding present and absent. A
    finding that is unknown in an image is no outcome of it.

    Args:
        names: names of the classes, or of the findings.
        findings: whether an image may show several of them, default False: it has exactly one class.

    Example::

        >>> kind = LabelKind(("effusion", "mass"), findings=True)
        >>> kind.outcomes, kind.outcomes_of((1, -1))
        (('effusion=0', 'effusion=1', 'mass=0', 'mass=1'), (1,))
        >>> kind.counts([(1, -1), (1, 0)])
        {'effusion': 2, 'mass': 0}

    """

    names: tuple[str, ...]
    findings: bool = False

    @property
    def word(self) -> str:
        """The word for one of the names in messages."""
        return "finding" if self.findings else "class"

    @property
    def fewest(self) -> int:
        """Fewest images that can have all names; one may show all findings."""
        return 1 if self.findings else len(self.names)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """Names of the outcomes, in the order of their indices."""
        if not self.findings:
            return self.names
        return tuple(f"{name}={value}" for name in self.names for value in (0, 1))

    def outcomes_of(self, label: Label) -> tuple[int, ...]:
        """Return the indices of a label's outcomes.

        Args:
            label: a label.

        """
        if isinstance(label, int):
            return (label,)
        return tuple(2 * place + value for place, value in enumerate(label) if value != UNLABELED)

    def fault(self, label: Label | None) -> str | None:
        """Return why a label is not of this kind; None if it is.

        Args:
            label: a label, or None where there is none.

        """
        count = len(self.names)
        if not self.findings:
            good = isinstance(label, int) and 0 <= label < count
            return None if good else f"expected class indices below {count}, got {label}"
        good = isinstance(label, tuple) and len(label) == count and set(label) <= {UNLABELED, 0, 1}
        return None if good else f"expected 0, 1 or {UNLABELED} for each of {count} findings, got {label}"

    def counts(self, labels: Iterable[Label]) -> dict[str, int]:
        """Return the number of images of each class, or with each finding.

        Args:
            labels: labels of this kind.

        """
        found = Counter(outcome for label in labels for outcome in self.outcomes_of(label))
        return {name: found[2 * place + 1 if self.findings else place] for place, name in enumerate(self.names)}


def finding_values(label: Any) -> np.ndarray | None:
    """Return what a label says about each finding, (F,): 0, 1, or -1 or NaN where nobody knows.

    Args:
        label: the label of an item.

    Returns:
        The values; None if the label is a class index, or none at all.

    """
    if label is None or isinstance(label, int | float | str):
        return None
    values = np.asarray(label)
    return values if values.ndim == 1 and (values.dtype.kind == "f" or values.size > 1) else None


def is_known(label: Any) -> bool:
    """Return whether a label says anything.

    Args:
        label: the label of an item: a class index, a value for each finding, or None.

    Example::

        >>> is_known(0), is_known(-1), is_known([-1.0, 0.0]), is_known([-1.0, float("nan")])
        (True, False, True, False)

    """
    values = finding_values(label)
    if values is None:
        return label is not None and bool(label != UNLABELED)
    return bool((values >= 0).any())


def label_text(label: Any, names: Sequence[str]) -> str:
    """Return a label in words: the name of its class, or what is known about each finding.

    Args:
        label: the label of an item.
        names: names of the classes, or of the findings.

    Example::

        >>> label_text(1, ["ill", "well"]), label_text([1.0, -1.0, 0.0], ["effusion", "mass", "edema"])
        ('well', 'effusion=1, edema=0')

    """
    values = finding_values(label)
    if values is None:
        return names[label]
    return ", ".join(f"{name}={int(value)}" for name, value in zip(names, values, strict=True) if value >= 0)


def has_unknown(label: Any) -> bool:
    """Return whether some finding of a label is unknown.

    Args:
        label: the label of an item.

    """
    values = finding_values(label)
    return values is not None and not bool((values >= 0).all())


def plain_label(label: Any) -> Any:
    """Return a label as JSON can hold it: an array becomes a list.

    Args:
        label: the label of an item.

    """
    values = finding_values(label)
    return label if values is None else values.tolist()
