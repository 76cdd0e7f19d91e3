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

"""What several readers say of an image: whose reading is wanted, and what counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from monai_weckd.annotation.label_words import agreed, majority
from monai_weckd.utils.messages import nearest

__all__ = [
    "POLICIES",
    "check_policy",
    "decision",
    "is_wanted",
    "readings_of",
    "shares_of",
    "with_reading",
    "without_reading",
]

POLICIES = ("settle", "majority", "soft")
_THREE = ("majority", "soft")  # where two differ, these have a third person read the image
_READERS = 2


def check_policy(policy: str, *, findings: Sequence[str] = ()) -> None:
    """Refuse what is no policy for disagreements, or none for findings.

    Args:
        policy: one of ``POLICIES``.
        findings: names of the findings, default none: labels are classes.

    Raises:
        ValueError: When it is another.

    """
    if policy not in POLICIES:
        raise ValueError(f"disagreements: expected one of {POLICIES}, got {policy!r}. {nearest(policy, POLICIES)}")
    if policy == "soft" and findings:
        raise ValueError(
            "disagreements: expected 'settle' or 'majority' for findings, got 'soft'. Only a class can be shared."
        )


def readings_of(entry: Mapping[str, Any]) -> dict[str | None, str]:
    """Return what each reader says of an image that is read twice, the first reader first; else nothing.

    Args:
        entry: the image's entry in ``labels.json``, {} without one.

    """
    return {reading["who"]: reading["label"] for reading in entry.get("readings", ())}


def with_reading(
    entry: Mapping[str, Any], reading: Mapping[str, Any], *, findings: Sequence[str] = ()
) -> dict[str, Any]:
    """Return an entry with one more reading, or another one by the same person.

    The label is that of all readings, None if they differ, unless somebody has settled it.

    Args:
        entry: the entry, {} without one.
        reading: ``who``, ``label``, ``ts`` and, for no class, ``answer``.
        findings: names of the findings, default none: labels are classes.

    """
    others = list(entry.get("readings", ()))
    places = [place for place, one in enumerate(others) if one["who"] == reading["who"]]
    if places:
        others[places[0]] = dict(reading)
    else:
        others.append(dict(reading))
    return _summed(entry, others, reading, findings)


def without_reading(entry: Mapping[str, Any], who: str | None, *, findings: Sequence[str] = ()) -> dict[str, Any]:
    """Return an entry without the reading of a person; {} if no other is left.

    Args:
        entry: the entry.
        who: the person.
        findings: names of the findings, default none: labels are classes.

    """
    others = [one for one in entry.get("readings", ()) if one["who"] != who]
    return _summed(entry, others, others[-1], findings) if others else {}


def _summed(
    entry: Mapping[str, Any], readings: list[dict[str, Any]], last: Mapping[str, Any], findings: Sequence[str]
) -> dict[str, Any]:
    if entry.get("settled"):
        return {**entry, "readings": readings}
    text = agreed([one["label"] for one in readings], findings)
    label = {"label": None, "who": None, "ts": last["ts"]} if text is None else {**last, "label": text}
    return {**label, "readings": readings}


def is_wanted(entry: Mapping[str, Any], who: str | None, policy: str, *, findings: Sequence[str] = ()) -> bool:
    """Return whether a person may give a blind reading of an image that is read twice, or change their own.

    By "majority" and "soft", a third person reads an image on which the first two differ.

    Args:
        entry: the entry, {} without one.
        who: the person.
        policy: what becomes of disagreements, one of ``POLICIES``.
        findings: names of the findings, default none: labels are classes.

    """
    readings = readings_of(entry)
    if entry.get("settled"):
        return False
    differ = bool(readings) and agreed([*readings.values()], findings) is None
    return who in readings or len(readings) < _READERS + (policy in _THREE and differ)


def decision(entry: Mapping[str, Any], policy: str, *, findings: Sequence[str] = ()) -> str | None:
    """Return the label that counts, None if readers differ and nothing has decided between them.

    Args:
        entry: the entry.
        policy: "settle"; "majority", which more than half of the readings make; or "soft": the class with the largest
            share, of equal ones that of the first reading.
        findings: names of the findings, default none: labels are classes.

    """
    label: str | None = entry["label"]
    if label is not None or policy not in _THREE:
        return label
    if policy == "soft" and (shares := shares_of(entry)):
        return max(shares, key=shares.__getitem__)
    return majority([*readings_of(entry).values()], findings)


def shares_of(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return the share of each class in what readers who differ say, in the order of the readings.

    Readings that name no class, such as "cannot tell", count for none; where they are half of all or more, there are no
    shares.

    Args:
        entry: the entry, whose label nothing has settled.

    Example::

        >>> said = [{"who": "Ada", "label": "ill"}, {"who": "Bob", "label": "well"}, {"who": "Cy", "label": "well"}]
        >>> shares_of({"label": None, "readings": said[:2]}), len(shares_of({"label": None, "readings": said}))
        ({'ill': 0.5, 'well': 0.5}, 2)

    """
    readings = entry.get("readings", ())
    told = Counter(one["label"] for one in readings if not one.get("answer"))
    if entry.get("label") is not None or 2 * told.total() <= len(readings):
        return {}
    return {label: count / told.total() for label, count in told.items()}
