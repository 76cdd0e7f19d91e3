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
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import PurePath
from typing import NamedTuple

from monai_weckd.data.columns import REQUIRED, Line, column_values, find_columns, further_column
from monai_weckd.data.names import clean_text, fold_text, is_missing, is_unlabeled, join_spellings
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.data.split_file import split_name
from monai_weckd.plan.splits import SPLITS
from monai_weckd.utils.messages import nearest

__all__ = ["FileFinder", "Row", "find_manifest", "manifest_columns", "read_lines", "read_manifest"]

_NAME = "manifest.csv"
# how programs save a table under the name that was meant
_OTHER_FORMATS = (".tsv", ".txt", ".xls", ".xlsx", ".ods", ".numbers", ".csv.csv", ".csv.txt", ".csv.gz")


# a long number as spreadsheets show it
_ROUNDED = re.compile(r"\d(?:[.,]\d+)?E\+\d\d", re.IGNORECASE)


class Row(NamedTuple):
    """One line of a manifest, or one file of a class folder; error messages name its ``place``."""

    place: str
    file: str
    label: str
    group: str = ""
    split: str = ""


def find_manifest(folder: str | os.PathLike[str]) -> str:
    """Return the path of a folder's ``manifest.csv``, whose name may be in another case; empty without one.

    Args:
        folder: the folder.

    Raises:
        ValueError: When there are several, or one in another format, which would count as none.

    """
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [name for name in names if name.casefold() == _NAME]
    if _NAME in found:
        return os.path.join(folder, _NAME)
    others = [name for name in names if name.casefold() in {f"manifest{suffix}" for suffix in _OTHER_FORMATS}]
    others = [name for name in others if os.path.isfile(os.path.join(folder, name))]
    if len(found) > 1 or (others and not found):
        got = " and ".join(map(ascii, found or others))
        raise ValueError(
            f"{os.fspath(folder)}: expected manifest.csv or no manifest, got {got}. "
            "Save it as manifest.csv, with commas between the columns, or rename it."
        )
    return os.path.join(folder, found[0]) if found else ""


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
    header, lines = read_lines(name)
    places = find_columns(header, lines, name, required=REQUIRED if labels else REQUIRED[:1])
    passed_over.columns += dict.fromkeys(
        title
        for place, title in enumerate(header)
        if place not in places.values() and (title or column_values(place, lines))
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
        names: names of columns, see :py:func:`monai_weckd.data.columns.further_column`; those that the manifest lacks
            are left out.
        passed_over: columns that are used here are removed from it, default None.

    Raises:
        ValueError: When the manifest is no such CSV, or has several columns for one name.

    """
    name, finder = find_manifest(folder), FileFinder(os.fspath(folder))
    if not name:
        return {}
    header, lines = read_lines(name)
    places = {column: place for column in names if (place := further_column(column, header, name)) is not None}
    if passed_over is not None:
        used = {header[place] for place in places.values()}
        passed_over.columns = [title for title in passed_over.columns if title not in used]
    found: dict[str, dict[str, str]] = {column: {} for column in places}
    file = find_columns(header, lines, name, required=("file",))["file"] if places else 0
    for line in lines if places else ():
        key = finder.find(PurePath(os.path.normpath(line.fields[file].strip())).as_posix())
        for column, place in places.items():
            value = clean_text(line.fields[place]) if place < len(line.fields) else ""
            found[column][key] = "" if is_missing(value) else value
    return found


def read_lines(manifest: str) -> tuple[list[str], list[Line]]:
    """Return the titles of a manifest, and its other lines that are not empty.

    Args:
        manifest: the CSV file.

    Raises:
        ValueError: When it is no CSV in UTF-8.

    """
    try:
        # utf-8-sig drops the byte order mark that spreadsheets write
        with open(manifest, newline="", encoding="utf-8-sig") as stream:
            # strict: a quote that is never closed would swallow the rest of the file
            reader = csv.reader(stream, strict=True)
            header = [title.strip() for title in next(reader, [])]
            if any("\0" in title for title in header):
                raise ValueError(
                    f"{manifest}: expected UTF-8 text, got zeros between the letters. Save it as CSV UTF-8."
                )
            return header, [Line(reader.line_num, fields) for fields in reader if any(map(clean_text, fields))]
    except UnicodeDecodeError as error:
        raise ValueError(f"{manifest}: expected UTF-8 text, got {error.reason}. Save it as CSV UTF-8.") from error
    except csv.Error as error:
        raise ValueError(
            f"{manifest}, row {reader.line_num}: expected comma-separated values, got {error}. Correct the row."
        ) from error


def _row(cells: dict[str, str], place: str, passed_over: PassedOver, classes: Collection[str]) -> Row:
    label, group, split = (_value(name, cells, place, passed_over, classes) for name in ("label", "group", "split"))
    known = split_name(split)
    if split and known is None:
        raise ValueError(f"{place}: expected a split of {SPLITS}, got {split!r}. {nearest(split, SPLITS)}")
    return Row(place, cells.get("file", "").strip(), label, group, known or "")


def _value(name: str, cells: dict[str, str], place: str, passed_over: PassedOver, classes: Collection[str]) -> str:
    """Return a clean value, empty if it is missing."""
    cell = cells.get(name, "")
    value = clean_text(cell)
    if name == "group" and _ROUNDED.fullmatch(value):
        raise ValueError(
            f"{place}: expected a group, got {value!r}, which a spreadsheet has rounded. Write the whole number."
        )
    if (is_missing(value) or (name == "label" and is_unlabeled(value))) and not (name == "label" and value in classes):
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
