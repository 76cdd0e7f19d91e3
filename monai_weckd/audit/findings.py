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

"""What an audit finds: one finding is one line of the page and of the table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from monai_weckd.plan.label_kind import finding_values
from monai_weckd.plan.oracle import is_labeled

__all__ = ["KINDS", "Finding", "finding_rows", "label_name", "spread"]

# kinds in the order of the page, each with what the page calls it
KINDS = {
    "unreadable": "Files that cannot be used",
    "exact_duplicate": "Same file twice",
    "near_duplicate": "Near duplicates",
    "one_patient": "Groups that look like one patient",
    "label": "Labels that the other images contradict",
    "other_kind": "Images not of this kind",
    "quality": "Images of poor quality",
}
COLUMNS = ("kind", "number", "file", "label", "other_file", "other_label", "suggested_label", "score", "text")
_TO_SIGMA = 1.4826  # a normal distribution's standard deviation over its median absolute deviation


@dataclass(frozen=True)
class Finding:
    """One thing to look at.

    Args:
        kind: one of ``KINDS``.
        places: positions of its images in the data list, one or two.
        text: what was found, in plain words, without file names.
        score: how strong it is; its meaning depends on the kind. Default None: none.
        suggested: the label that the other images suggest, default "": none.

    """

    kind: str
    places: tuple[int, ...]
    text: str
    score: float | None = None
    suggested: str = ""


def finding_rows(
    findings: Sequence[Finding], items: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row of ``audit.csv`` for each finding.

    A row names files and classes. It has no group, because groups are often numbers of patients.

    Args:
        findings: the findings, in order.
        items: the data list.
        classes: class names in the order of their indices.

    """
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.kind] = counts.get(finding.kind, 0) + 1
        first, other = items[finding.places[0]], items[finding.places[1]] if len(finding.places) > 1 else None
        yield {
            "kind": finding.kind,
            "number": counts[finding.kind],
            "file": first["id"],
            "label": label_name(first, classes),
            "other_file": "" if other is None else other["id"],
            "other_label": "" if other is None else label_name(other, classes),
            "suggested_label": finding.suggested,
            "score": "" if finding.score is None else round(finding.score, 4),
            "text": finding.text,
        }


def label_name(item: Mapping[str, Any], classes: Sequence[str]) -> str:
    """Return the name of an item's label, empty if it has none.

    Args:
        item: an item of a data list.
        classes: names of the classes, or of the findings, in the order of their indices.

    Example::

        >>> names = ("effusion", "mass", "edema")
        >>> [label_name({"label": label}, names) for label in ([1.0, -1.0, 1.0], [0.0, -1.0, 0.0], [-1.0, -1.0, -1.0])]
        ['effusion|edema', 'none present', '']

    """
    if not is_labeled(item):
        return ""
    values = finding_values(item["label"])
    if values is None:
        return classes[item["label"]]
    return "|".join(name for name, value in zip(classes, values, strict=True) if value > 0) or "none present"


def spread(values: np.ndarray) -> tuple[float, float]:
    """Return the median, and a standard deviation that a few odd values do not change.

    The deviation is the median absolute deviation, in units of a normal distribution.

    Args:
        values: numbers, (N,), at least one.

    """
    median = float(np.median(values))
    return median, _TO_SIGMA * float(np.median(np.abs(values - median)))
