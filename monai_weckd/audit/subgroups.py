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
from monai_weckd.audit.results import METRICS
from monai_weckd.data.dicom.origin import Origin, age_decade, read_origin, sex_name
from monai_weckd.data.names import fold_text, join_spellings
from monai_weckd.plan.oracle import is_labeled

__all__ = ["ATTRIBUTES", "Subgroup", "count_rows", "item_attributes", "subgroups", "table_rows"]

ATTRIBUTES = ("scanner", "site", "sex", "age")
COLUMNS = (
    *("attribute", "value", "class", "images", "groups", "tested_images", "tested_groups"),
    *(f"{name}{limit}" for name in METRICS for limit in ("", "_low", "_high")),
)
_ORDERED = ("sex", "age")  # by value; the others by size
# how cells of a manifest are read; unknown values are kept as they are
_READ: Mapping[str, Callable[[str], str]] = {"sex": sex_name, "age": age_decade}


@dataclass(frozen=True)
class Subgroup:
    """The images that have one value of an attribute.

    Args:
        attribute: "all", "class", or one of ``ATTRIBUTES``.
        value: the value, empty where it is not known.
        places: positions of the images in the data list.

    """

    attribute: str
    value: str
    places: tuple[int, ...]


def item_attributes(
    items: Sequence[Mapping[str, Any]], columns: Mapping[str, Mapping[str, str]]
) -> dict[str, list[str]]:
    """Return each attribute that some item has, with a value for each item, empty where it is not known.

    A column of the manifest takes precedence over the headers of DICOM files. An institution in a header becomes a
    numbered site: its name would tell where the patients were.

    Args:
        items: the data list.
        columns: the columns of the manifest by attribute, each with a value by item.

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
    return {
        name: [usual[name].get(value, "") for value in found[name]] for name in ATTRIBUTES if any(found.get(name, ()))
    }


def subgroups(
    items: Sequence[Mapping[str, Any]], classes: Sequence[str], attributes: Mapping[str, Sequence[str]]
) -> list[Subgroup]:
    """Return all images, the images of each class, and those of each value of the attributes.

    Args:
        items: the data list.
        classes: class names in the order of their indices.
        attributes: from :py:func:`item_attributes`.

    """
    found = [Subgroup("all", "", tuple(range(len(items))))]
    names = [label_name(item, classes) for item in items]
    found += _of_values("class", names, [name for name in classes if name in names])
    for attribute, values in attributes.items():
        counts = Counter(value for value in values if value)
        order = sorted(counts) if attribute in _ORDERED else [value for value, _ in counts.most_common()]
        found += _of_values(attribute, values, order)
    return found


def count_rows(
    found: Iterable[Subgroup], items: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    """Return a row for each subgroup: numbers of images and groups, in all and of each class.

    Args:
        found: the subgroups.
        items: the data list.
        classes: class names in the order of their indices.

    """
    return [
        {
            "attribute": part.attribute,
            "value": part.value,
            **_count([items[place] for place in part.places]),
            "classes": {
                name: _count([items[place] for place in part.places if _is_of(items[place], label)])
                for label, name in enumerate(classes)
            },
        }
        for part in found
    ]


def table_rows(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row of ``audit_counts.csv`` for each subgroup, and one for each class in it.

    Args:
        rows: the subgroups, as an audit has them.

    """
    for row in rows:
        result = row["result"]
        yield {name: row[name] for name in COLUMNS[:2]} | {"class": ""} | _cells(row) | _result_cells(result)
        for name, count in row["classes"].items() if row["attribute"] != "class" else ():
            yield {"attribute": row["attribute"], "value": row["value"], "class": name} | _cells(count)


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("images", "groups")}


def _result_cells(result: Mapping[str, Any] | None) -> dict[str, Any]:
    if result is None:
        return {}
    cells: dict[str, Any] = {"tested_images": result["images"], "tested_groups": result["groups"]}
    for name in METRICS:
        limits = result[name]["interval"]
        low, high = ("too few", "too few") if limits is None else (round(limit, 4) for limit in limits)
        cells |= {name: round(result[name]["value"], 4), f"{name}_low": low, f"{name}_high": high}
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


def _is_of(item: Mapping[str, Any], label: int) -> bool:
    return is_labeled(item) and item["label"] == label
