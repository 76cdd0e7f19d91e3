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

"""Count images and groups for each class, scanner, site, sex and age."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monai_weckd.audit.findings import label_name
from monai_weckd.audit.results import FINDING_METRICS, METRICS
from monai_weckd.data.dicom.origin import Origin, age_decade, read_origin, sex_name
from monai_weckd.data.names import fold_text, join_spellings
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.oracle import is_labeled
from monai_weckd.plan.splits import SPLITS

__all__ = ["ATTRIBUTES", "Subgroup", "count_rows", "item_attributes", "subgroups", "table_columns", "table_rows"]

ATTRIBUTES = ("scanner", "site", "sex", "age")
# what a label says about a finding; where nobody knows, it is -1 or NaN
_ANSWERS: Mapping[str, Callable[[float], bool]] = {
    "present": lambda value: value > 0,
    "absent": lambda value: value == 0,
    "unknown": lambda value: not value >= 0,
}
_OF = {"": "images", "_groups": "groups"}
_ORDERED = ("sex", "age")  # by value; the others by size
# how cells of a manifest are read; unknown values are kept as they are
_READ: Mapping[str, Callable[[str], str]] = {"sex": sex_name, "age": age_decade}


@dataclass(frozen=True)
class Subgroup:
    """The images that have one value of an attribute.

    Args:
        attribute: "all", "class", "split", or one of ``ATTRIBUTES``.
        value: the value, empty where it is not known.
        places: positions of the images in the data list.

    """

    attribute: str
    value: str
    places: tuple[int, ...]


def item_attributes(
    items: Sequence[Mapping[str, Any]],
    columns: Mapping[str, Mapping[str, str]],
    splits: Mapping[str, str] | None = None,
) -> dict[str, list[str]]:
    """Return each attribute that some item has, with a value for each item, empty where it is not known.

    A column of the manifest takes precedence over the headers of DICOM files. An institution in a header becomes a
    numbered site: its name would tell where the patients were.

    Args:
        items: the data list.
        columns: the columns of the manifest by attribute, each with a value by item.
        splits: the split of each item in a training, default None: those of the data list, if it has them.

    """
    found: dict[str, list[str]] = {}
    columns = {name: values for name, values in columns.items() if any(values.values())}
    if len(columns) < len(ATTRIBUTES):
        origins = [read_origin(item["image"]) for item in items]
        found = {name: [getattr(origin, name) for origin in origins] for name in ("scanner", "sex", "age")}
        found["site"] = _numbered(origins)
    for name, values in columns.items():
        read = _READ.get(name, str)
        cells = [values.get(item["id"], "") for item in items]
        found[name] = [read(cell) or cell for cell in cells]
    usual = {name: join_spellings(value for value in values if value) for name, values in found.items()}
    named = {name: [usual[name].get(value, "") for value in values] for name, values in found.items()}
    named["split"] = [splits.get(item["id"], "") if splits else item.get("split") or "" for item in items]
    return {name: named[name] for name in ("split", *ATTRIBUTES) if any(named.get(name, ()))}


def subgroups(
    items: Sequence[Mapping[str, Any]], kind: LabelKind, attributes: Mapping[str, Sequence[str]]
) -> list[Subgroup]:
    """Return all images, the images of each class, and those of each value of the attributes.

    Args:
        items: the data list.
        kind: the kind of the labels; the images with a finding are no subgroup.
        attributes: from :py:func:`item_attributes`.

    """
    found = [Subgroup("all", "", tuple(range(len(items))))]
    if not kind.findings:
        names = [label_name(item, kind.names) for item in items]
        found += _of_values("class", names, [name for name in kind.names if name in names])
    for attribute, values in attributes.items():
        counts = Counter(value for value in values if value)
        order = sorted(counts) if attribute in _ORDERED else [value for value, _ in counts.most_common()]
        if attribute == "split":
            order.sort(key=SPLITS.index)
        found += _of_values(attribute, values, order)
    return found


def count_rows(found: Iterable[Subgroup], items: Sequence[Mapping[str, Any]], kind: LabelKind) -> list[dict[str, Any]]:
    """Return a row for each subgroup: numbers of images and groups, in all and of each class or answer.

    Args:
        found: the subgroups.
        items: the data list.
        kind: the kind of the labels.

    """
    rows = []
    for part in found:
        mine = [items[place] for place in part.places]
        counts = {name: _count_label(mine, label, kind) for label, name in enumerate(kind.names)}
        rows.append({"attribute": part.attribute, "value": part.value, **_count(mine), "classes": counts})
    return rows


def table_columns(kind: LabelKind) -> tuple[str, ...]:
    """Return the columns of ``audit_counts.csv``.

    Args:
        kind: the kind of the labels.

    """
    answers = _ANSWERS if kind.findings else ()
    counts = [f"{answer}{of}" for answer in answers for of in _OF]
    results = [f"{name}{limit}" for name in _metrics(kind) for limit in ("", "_low", "_high")]
    return ("attribute", "value", kind.word, "images", "groups", *counts, "tested_images", "tested_groups", *results)


def table_rows(rows: Iterable[Mapping[str, Any]], kind: LabelKind) -> Iterator[dict[str, Any]]:
    """Yield a row of ``audit_counts.csv`` for each subgroup, and one for each class or finding in it.

    Args:
        rows: the subgroups, as an audit has them.
        kind: the kind of the labels.

    """
    for row in rows:
        result, part = row["result"], {"attribute": row["attribute"], "value": row["value"]}
        yield {**part, kind.word: "", **_cells(row), **_result_cells(result, kind)}
        for name, count in row["classes"].items() if row["attribute"] != "class" else ():
            own = _result_cells(result["classes"][name], kind) if result and kind.findings else {}
            yield {**part, kind.word: name, **_label_cells(count, row, kind), **own}


def _metrics(kind: LabelKind) -> tuple[str, ...]:
    return FINDING_METRICS if kind.findings else METRICS


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("images", "groups")}


def _label_cells(count: Mapping[str, Any], row: Mapping[str, Any], kind: LabelKind) -> dict[str, Any]:
    if not kind.findings:
        return _cells(count)
    numbers = ((f"{answer}{of}", own[key]) for answer, own in count.items() for of, key in _OF.items())
    return {**_cells(row), **dict(numbers)}


def _result_cells(result: Mapping[str, Any] | None, kind: LabelKind) -> dict[str, Any]:
    if result is None:
        return {}
    cells: dict[str, Any] = {"tested_images": result["images"], "tested_groups": result["groups"]}
    for name in _metrics(kind):
        value, limits = result[name]["value"], result[name]["interval"]
        low, high = ("too few", "too few") if limits is None else (round(limit, 4) for limit in limits)
        cells |= {name: "" if value is None else round(value, 4), f"{name}_low": low, f"{name}_high": high}
    return cells


def _of_values(attribute: str, values: Sequence[str], order: Sequence[str]) -> list[Subgroup]:
    places = defaultdict(list)
    for place, value in enumerate(values):
        places[value].append(place)
    unknown = [""] if "" in places else []
    return [Subgroup(attribute, value, tuple(places[value])) for value in (*order, *unknown)]


def _numbered(origins: Sequence[Origin]) -> list[str]:
    """Replace institutions by "site 1" and so on, the most frequent one first."""
    names = [fold_text(origin.institution) for origin in origins]
    order = [name for name, _ in Counter(names).most_common() if name]
    return [f"site {order.index(name) + 1}" if name else "" for name in names]


def _count(items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {"images": len(items), "groups": len({item["group"] for item in items})}


def _count_label(items: Sequence[Mapping[str, Any]], label: int, kind: LabelKind) -> dict[str, Any]:
    if not kind.findings:
        return _count([item for item in items if is_labeled(item) and item["label"] == label])
    return {name: _count([item for item in items if says(item["label"][label])]) for name, says in _ANSWERS.items()}
