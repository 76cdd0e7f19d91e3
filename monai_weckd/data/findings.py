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

"""Read the findings of images from a manifest: a column for each, or one column with their names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_weckd.data.columns import FINDING, Line, finding_titles
from monai_weckd.data.manifest import read_lines
from monai_weckd.data.names import clean_text, fold_text, is_missing, spelled_as
from monai_weckd.data.passed_over import PassedOver
from monai_weckd.utils.enums import UNLABELED

__all__ = ["read_findings"]

_NOTHING = frozenset(("no finding", "no findings", "nofinding"))
_VALUES = {"1": 1, "1.0": 1, "0": 0, "0.0": 0}
# a reader who was not sure, also as CheXpert writes it
_UNCERTAIN = frozenset(("u", "U", "-1", "-1.0"))


def read_findings(manifest: str, passed_over: PassedOver) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return the names of the findings of a manifest, and for each of its rows what it says about them.

    A column ``finding:<name>`` holds 1 where the finding is present, 0 where it is absent, and ``u`` (or -1) where the
    reader was uncertain; an empty cell says nothing. A column ``findings`` holds the names of all findings that are
    present, with ``|`` between them: the others are absent, and **an empty cell means that the image shows none**, as
    does ``No Finding``. There, an image that nobody has read has a question mark, ``NA`` or the like.

    Args:
        manifest: the CSV file.
        passed_over: gets the number of uncertain cells, and loses the columns that are used here.

    Returns:
        The names, in the order of the columns or sorted; for each row an array, (F,), of 1, 0 and -1, which stands for
        uncertain and for unknown alike.

    Raises:
        ValueError: When the manifest has no findings, or a cell holds something else.

    """
    header, lines = read_lines(manifest)
    titles = finding_titles(header)
    if not titles:
        raise ValueError(
            f"{manifest}, row 1: expected columns 'finding:<name>' or a column 'findings', got {header}. "
            "Add them, or leave findings=True out if each image has one class."
        )
    passed_over.columns = [title for title in passed_over.columns if title not in titles]
    if not titles[0].casefold().startswith(FINDING):
        return _from_names(header.index(titles[0]), lines, manifest)
    names = tuple(clean_text(title[len(FINDING) :]) for title in titles)
    _check_names(names, manifest)
    places = [place for place, title in enumerate(header) if title in titles]
    rows = []
    for line in lines:
        values = [_value(line, place, f"{manifest}, row {line.number}", header[place], passed_over) for place in places]
        rows.append(np.array(values, dtype=np.float32))
    return names, rows


def _value(line: Line, column: int, place: str, title: str, passed_over: PassedOver) -> int:
    cell = clean_text(line.fields[column]) if column < len(line.fields) else ""
    if is_missing(cell):
        return UNLABELED
    if cell in _UNCERTAIN:
        passed_over.missing[f"{title} {cell!r}"] += 1
        return UNLABELED
    if cell not in _VALUES:
        raise ValueError(f"{place}: expected 1, 0, u or nothing in {title!a}, got {cell!r}. Correct the cell.")
    return _VALUES[cell]


def _from_names(column: int, lines: Sequence[Line], manifest: str) -> tuple[tuple[str, ...], list[np.ndarray]]:
    cells = [clean_text(line.fields[column]) if column < len(line.fields) else "" for line in lines]
    shown = [[clean_text(name) for name in cell.split("|")] for cell in cells]
    found = {name for cell, names in zip(cells, shown, strict=True) if not is_missing(cell) for name in names}
    names = tuple(sorted(name for name in found if fold_text(name) not in _NOTHING))
    _check_names(names, manifest)
    rows = []
    for cell, present in zip(cells, shown, strict=True):
        unread = bool(cell) and is_missing(cell)
        rows.append(np.array([UNLABELED if unread else name in present for name in names], dtype=np.float32))
    return names, rows


def _check_names(names: Sequence[str], manifest: str) -> None:
    if not names or "" in names:
        raise ValueError(f"{manifest}: expected a name for each finding, got {list(names)}. Name them.")
    for place, name in enumerate(names):
        other = spelled_as(name, names[:place])
        if other in names[:place]:
            raise ValueError(
                f"{manifest}: expected distinct findings, got {other!r} and {name!r}. Give them one spelling."
            )
