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
from collections.abc import Mapping
from typing import Any

__all__ = ["POLICIES", "decision", "is_wanted", "readings_of", "with_reading", "without_reading"]

POLICIES = ("settle", "majority")
_READERS = 2


def readings_of(entry: Mapping[str, Any]) -> dict[str | None, str]:
    """Return what each reader says of an image that is read twice, the first reader first; else nothing.

    Args:
        entry: the image's entry in ``labels.json``, {} without one.

    """
    return {reading["who"]: reading["label"] for reading in entry.get("readings", ())}


def with_reading(entry: Mapping[str, Any], reading: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry with one more reading, or another one by the same person.

    The label is that of all readings, None if they differ, unless somebody has settled it.

    Args:
        entry: the entry, {} without one.
        reading: ``who``, ``label``, ``ts`` and, for no class, ``answer``.

    """
    others = list(entry.get("readings", ()))
    places = [place for place, one in enumerate(others) if one["who"] == reading["who"]]
    if places:
        others[places[0]] = dict(reading)
    else:
        others.append(dict(reading))
    return _summed(entry, others, reading)


def without_reading(entry: Mapping[str, Any], who: str | None) -> dict[str, Any]:
    """Return an entry without the reading of a person; {} if no other is left.

    Args:
        entry: the entry.
        who: the person.

    """
    others = [one for one in entry.get("readings", ()) if one["who"] != who]
    return _summed(entry, others, others[-1]) if others else {}


def _summed(entry: Mapping[str, Any], readings: list[dict[str, Any]], last: Mapping[str, Any]) -> dict[str, Any]:
    if entry.get("settled"):
        return {**entry, "readings": readings}
    same = len({one["label"] for one in readings}) == 1
    label = {**last} if same else {"label": None, "who": None, "ts": last["ts"]}
    return {**label, "readings": readings}


def is_wanted(entry: Mapping[str, Any], who: str | None, policy: str) -> bool:
    """Return whether a person may give a blind reading of an image that is read twice, or change their own.

    By "majority", a third person reads an image on which the first two differ.

    Args:
        entry: the entry, {} without one.
        who: the person.
        policy: what becomes of disagreements, "settle" or "majority".

    """
    readings = readings_of(entry)
    if entry.get("settled"):
        return False
    differ = len(set(readings.values())) > 1
    return who in readings or len(readings) < _READERS + (policy == "majority" and differ)


def decision(entry: Mapping[str, Any], policy: str) -> str | None:
    """Return the label that counts, None if readers differ and nothing has decided between them.

    Args:
        entry: the entry.
        policy: "settle" or "majority", which more than half of the readings make.

    """
    if entry["label"] is None and policy == "majority":
        [(most, count)] = Counter(readings_of(entry).values()).most_common(1)
        return most if 2 * count > len(readings_of(entry)) else None
    label: str | None = entry["label"]
    return label
