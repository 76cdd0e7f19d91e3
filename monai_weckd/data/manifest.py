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

"""Read a manifest: its columns, its rows, and the files that it names."""

from __future__ import annotations

import csv
import difflib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from monai_weckd.data.names import clean_text, fold_text, is_missing, join_spellings, plain_key
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.split_file import split_name
from monai_weckd.plan.splits import SPLITS
from monai_weckd.utils.messages import nearest

__all__ = ["FileFinder", "Row", "manifest_columns", "read_manifest"]

_REQUIRED = ("file", "label")
_COLUMNS = (*_REQUIRED, "group", "split")

# spellings that are taken, as `plain_key` gives them
_PERSONS = ("group", "patient", "subject", "participant")
_NUMBERS = ("", "s", "id", "ids", "no", "nr", "num", "number", "code", "key", "uid")
_TAKEN = {
    "file": frozenset(("file", "files")),
    "label": frozenset(("label", "labels")),
    "group": frozenset(person + number for person in _PERSONS for number in _NUMBERS),
    "split": frozenset(("split", "splits", "splitname", "datasplit")),
}
# what a comparison or an audit reads; a training does not
_FURTHER = {
    "fold": frozenset(("fold", "folds", "kfold", "cvfold", "foldid")),
    "scanner": frozenset(("scanner", "scanners")),
    "site": frozenset(("site", "sites")),
    "sex": frozenset(("sex", "gender")),
    "age": frozenset(("age", "ages")),
}
# taken only if every value is a split
_SPLIT_IF_SO = frozenset(("subset", "partition", "set", "phase", "usage"))
# names that probably mean these columns
_NEAR = {
    "group": ("group", "groups", "patient", "patients", "patientid", "subject", "subjectid"),
    "split": ("split", "splits"),
}
# a column whose last word is one of these may tell patients apart, unless its first word says what else it numbers
_ID_WORDS = frozenset(("id", "ids", "uid", "pid", "mrn", "case"))
_OTHER_THINGS = frozenset(
    (
        *("image", "img", "file", "label", "class", "category", "site", "center", "centre", "hospital", "device"),
        *("scanner", "camera", "reader", "rater", "annotator", "dataset", "source", "batch", "fold", "diagnosis"),
    )
)


class Row(NamedTuple):
    """One line of a manifest, or one file of a class folder; error messages name its ``place``."""

    place: str
    file: str
    label: str
    group: str = ""
    split: str = ""


class _Line(NamedTuple):
    number: int
    fields: list[str]


def read_manifest(
    manifest: str | os.PathLike[str],
    passed_over: PassedOver,
    *,
    classes: Sequence[str] | None = None,
    labels: bool = True,
) -> list[Row]:
    """Return the rows of a manifest; labels and groups are clean texts, and empty where they are missing.

    Args:
        manifest: the CSV file.
        passed_over: gets the columns that are not used, the cells that are read as missing, and joined spellings.
        classes: class names, default None: unknown. One of them is never missing, whatever its name is.
        labels: whether there must be a column ``label``, default True.

    Raises:
        ValueError: When it is no such CSV, a column is absent or ambiguous, or a split is unknown.

    """
    name = os.fspath(manifest)
    header, lines = _read_lines(name)
    places = _columns(header, lines, name, required=_REQUIRED if labels else _REQUIRED[:1])
    passed_over.columns += dict.fromkeys(
        title for place, title in enumerate(header) if place not in places.values() and _has_values(place, title, lines)
    )
    rows = []
    for line in lines:
        place = f"{name}, row {line.number}"
        if any(line.fields[len(header) :]):
            raise ValueError(
                f"{place}: expected {len(header)} fields, got {len(line.fields)}. "
                "Put values that contain a comma in quotes."
            )
        cells = {title: line.fields[at] for title, at in places.items() if at < len(line.fields)}
        rows.append(_row(cells, place, passed_over, classes or ()))
    usual = join_spellings(row.group for row in rows if row.group)
    return [row._replace(group=passed_over.joined("group", row.group, usual.get(row.group, ""))) for row in rows]


def manifest_columns(
    folder: str | os.PathLike[str], names: Iterable[str], passed_over: PassedOver | None = None
) -> dict[str, dict[str, str]]:
    """Return further columns of a folder's ``manifest.csv``, each with the value of each item by its id.

    Args:
        folder: the folder.
        names: some of "fold", "scanner", "site", "sex" and "age"; those that the manifest lacks are left out.
        passed_over: columns that are used here are removed from it, default None.

    Raises:
        ValueError: When the manifest is no such CSV, or has several columns for one name.

    """
    name, finder = os.path.join(folder, "manifest.csv"), FileFinder(os.fspath(folder))
    if not os.path.isfile(name):
        return {}
    header, lines = _read_lines(name)
    places = {column: place for column in names if (place := _further_place(column, header, name)) is not None}
    if passed_over is not None:
        used = {header[place] for place in places.values()}
        passed_over.columns = [title for title in passed_over.columns if title not in used]
    found: dict[str, dict[str, str]] = {column: {} for column in places}
    file = _columns(header, lines, name)["file"] if places else 0
    for line in lines if places else ():
        key = finder.find(PurePath(os.path.normpath(line.fields[file].strip())).as_posix())
        for column, place in places.items():
            value = clean_text(line.fields[place]) if place < len(line.fields) else ""
            found[column][key] = "" if is_missing(value) else value
    return found


def _further_place(name: str, header: Sequence[str], manifest: str) -> int | None:
    titles = [title for title in header if title == name] or [
        title for title in header if plain_key(title) in _FURTHER[name]
    ]
    if len(titles) > 1:
        raise ValueError(
            f"{manifest}, row 1: expected one column {name!r}, got {' and '.join(map(ascii, titles))}. Rename one."
        )
    return header.index(titles[0]) if titles else None


def _read_lines(manifest: str) -> tuple[list[str], list[_Line]]:
    try:
        # utf-8-sig drops the byte order mark that spreadsheets write
        with open(manifest, newline="", encoding="utf-8-sig") as stream:
            # strict: a quote that is never closed would swallow the rest of the file
            reader = csv.reader(stream, strict=True)
            header = [title.strip() for title in next(reader, [])]
            return header, [_Line(reader.line_num, fields) for fields in reader if any(map(clean_text, fields))]
    except UnicodeDecodeError as error:
        raise ValueError(f"{manifest}: expected UTF-8 text, got {error.reason}. Save it as CSV UTF-8.") from error
    except csv.Error as error:
        raise ValueError(
            f"{manifest}, row {reader.line_num}: expected comma-separated values, got {error}. Correct the row."
        ) from error


def _columns(
    header: list[str], lines: Sequence[_Line], manifest: str, *, required: Collection[str] = _REQUIRED
) -> dict[str, int]:
    """Return the place of each column that is used."""
    places = {}
    for name in _COLUMNS:
        found = _places(name, header, lines)
        if len(found) > 1:
            titles = [header[place] for place in found]
            got = len(found) if len(set(titles)) == 1 else " and ".join(map(ascii, titles))
            raise ValueError(
                f"{manifest}, row 1: expected one column {name!r}, got {got}. Rename one."
                + (f" The column {name!r} itself takes precedence." if name not in titles else "")
            )
        if found:
            places[name] = found[0]
        elif name in required:
            near = difflib.get_close_matches(name, header, n=1, cutoff=0.0)
            raise ValueError(
                f"{manifest}, row 1: expected a column {name!r}, got {len(header)} others, the nearest {near}. "
                "Rename or add it, and separate columns by commas."
            )
    _refuse_near(header, lines, places, manifest)
    return places


def _places(name: str, header: list[str], lines: Sequence[_Line]) -> list[int]:
    exact = [place for place, title in enumerate(header) if title == name]
    if exact:
        return exact
    found = [place for place, title in enumerate(header) if plain_key(title) in _TAKEN[name]]
    if name == "split" and not found:
        likely = (place for place, title in enumerate(header) if plain_key(title) in _SPLIT_IF_SO)
        found = [place for place in likely if all(map(split_name, _values(place, lines)))]
    return found


def _refuse_near(header: list[str], lines: Sequence[_Line], places: dict[str, int], manifest: str) -> None:
    """Refuse a column that looks like an absent one: without it, patients would leak or splits would be drawn anew."""
    for place, title in enumerate(header):
        for name in ("group", "split"):
            if name in places or place in places.values() or not _values(place, lines):
                continue
            if _is_near(plain_key(title), _NEAR[name]) or (
                name == "group" and _may_tell_patients_apart(title, place, places.get("label"), lines)
            ):
                raise ValueError(
                    f"{manifest}, row 1: expected a column {name!r} or nothing like it, got {title!a}. "
                    f"Rename it to {name!r} if that is what it is; otherwise add a column {name!r}, which may be empty."
                )


def _is_near(key: str, names: Iterable[str]) -> bool:
    """Return whether a key is a name with a letter too many, too few, or two in the wrong order."""
    return any(
        key[:1] == name[0]
        and abs(len(key) - len(name)) <= 1
        and difflib.SequenceMatcher(None, key, name).ratio() >= 0.8
        for name in names
    )


def _may_tell_patients_apart(title: str, place: int, label: int | None, lines: Sequence[_Line]) -> bool:
    """Return whether a column names patients, or numbers something that several images share."""
    if plain_key(title).removesuffix("name") in _PERSONS:
        return True
    words = [word.casefold() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", title)]
    if not words or words[-1] not in _ID_WORDS or words[0] in _OTHER_THINGS:
        return False
    values = _values(place, lines)
    return (1 if label is None else len(set(_values(label, lines)))) < len(set(values)) < len(values)


def _values(place: int, lines: Iterable[_Line]) -> list[str]:
    """Return the values of a column, without the missing ones."""
    found = (clean_text(line.fields[place]) for line in lines if place < len(line.fields))
    return [value for value in found if not is_missing(value)]


def _has_values(place: int, title: str, lines: Iterable[_Line]) -> bool:
    return bool(title) or bool(_values(place, lines))


def _row(cells: dict[str, str], place: str, passed_over: PassedOver, classes: Collection[str]) -> Row:
    label, group, split = (_value(name, cells, passed_over, classes) for name in ("label", "group", "split"))
    known = split_name(split)
    if split and known is None:
        raise ValueError(f"{place}: expected a split of {SPLITS}, got {split!r}. {nearest(split, SPLITS)}")
    return Row(place, cells.get("file", "").strip(), label, group, known or "")


def _value(name: str, cells: dict[str, str], passed_over: PassedOver, classes: Collection[str]) -> str:
    """Return a clean value, empty if it is missing."""
    cell = cells.get(name, "")
    value = clean_text(cell)
    if is_missing(value) and not (name == "label" and value in classes):
        if value:
            passed_over.missing[f"{name} {value!r}"] += 1
        return ""
    # a different Unicode form alone is not reported
    return passed_over.joined(name, unicodedata.normalize("NFC", cell.strip()), value)


class FileFinder:
    """Find files whose names may differ from those on the disk in Unicode form, or in invisible characters around them.

    Args:
        root: folder of the names.

    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._listed: dict[str, dict[str, list[str]]] = {}

    def find(self, key: str) -> str:
        """Return a path as it is on the disk, relative to the folder; the same path if there is nothing like it.

        Args:
            key: a path relative to the folder.

        """
        if os.path.lexists(os.path.join(self.root, key)):
            return key
        names: list[str] = []
        for part in PurePath(key).parts:
            here = os.path.join(self.root, *names)
            if not os.path.lexists(os.path.join(here, part)):
                alike = [name for name in self._alike(here, part) if clean_text(name) == clean_text(part)]
                if len(alike) != 1:
                    return key
                part = alike[0]
            names.append(part)
        return "/".join(names)

    def near(self, key: str) -> str:
        """Return a hint to a file whose name differs only in case or the like; empty if there is none.

        Args:
            key: a path relative to the folder.

        """
        path = PurePath(key)
        alike = self._alike(os.path.join(self.root, path.parent), path.name)
        return f" The folder has {alike[0]!a}." if alike else ""

    def _alike(self, folder: str, name: str) -> list[str]:
        if folder not in self._listed:
            found = defaultdict(list)
            for entry in os.listdir(folder) if os.path.isdir(folder) else ():
                found[fold_text(entry)].append(entry)
            self._listed[folder] = found
        return self._listed[folder].get(fold_text(name), [])
