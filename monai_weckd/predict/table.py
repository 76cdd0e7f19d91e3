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

"""Write predictions to a CSV batch by batch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from monai_weckd.data.keys import ImageKeys
from monai_weckd.metrics.findings import finding_answers
from monai_weckd.predict.images import Prediction
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.records import parse_json, probability_columns
from monai_weckd.utils.system import can_lock, try_lock
from monai_weckd.utils.tables import read_table, table_text

__all__ = ["BELOW_CONFIDENCE", "PredictionTable", "kept_prediction", "prediction_row", "verdict"]

BELOW_CONFIDENCE = "below min_confidence"


def prediction_row(
    prediction: Prediction,
    keys: ImageKeys,
    classes: Sequence[str],
    *,
    min_confidence: float = 0.0,
    thresholds: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Return a row of the table; ``predicted`` is empty for an unreadable image or a confidence below the threshold.

    For findings there are, in place of ``predicted`` and ``confidence``, the names of those that are present under
    ``findings``, with ``|`` between them, and a ``threshold`` for each. Whether a finding is present is left open, and
    its name stands under ``undecided``, if the answer would be less probable than ``min_confidence``.

    Args:
        prediction: prediction for an image.
        keys: its keys.
        classes: class names in the order of their indices.
        min_confidence: smallest probability of the most probable class, or of the answer for a finding, default 0: any.
        thresholds: from which probability on each finding counts as present, None for one that never does; default
            None: an image has one class.

    """
    options: Any = {"min_confidence": min_confidence, "thresholds": thresholds}
    return {**keys._asdict(), **verdict(prediction.probabilities, classes, fault=prediction.fault, **options)}


def verdict(
    probabilities: np.ndarray | None,
    classes: Sequence[str],
    *,
    fault: str = "",
    min_confidence: float = 0.0,
    thresholds: Sequence[float | None] | None = None,
) -> dict[str, Any]:
    """Return the columns of a table for the class, its confidence, all probabilities, or the reason for their absence.

    Args:
        probabilities: of the classes or findings, (C,), or None.
        classes: their names in the order of their indices.
        fault: why there are no probabilities, default "".
        min_confidence: smallest probability of the most probable class, or of the answer for a finding, default 0: any.
        thresholds: see :py:func:`prediction_row`, default None.

    """
    if thresholds is not None:
        return _findings(probabilities, classes, thresholds, fault, min_confidence)
    row = dict.fromkeys(["predicted", "confidence", *probability_columns(classes), "reason"], "")
    if probabilities is None:
        return {**row, "reason": fault}
    values = [float(value) for value in probabilities]
    certain = max(values) >= min_confidence
    return {
        "predicted": classes[values.index(max(values))] if certain else "",
        "confidence": max(values),
        **dict(zip(probability_columns(classes), values, strict=True)),
        "reason": "" if certain else BELOW_CONFIDENCE,
    }


def _findings(
    probabilities: np.ndarray | None,
    names: Sequence[str],
    thresholds: Sequence[float | None],
    fault: str,
    min_confidence: float,
) -> dict[str, Any]:
    """Return the columns of a table for findings, or the reason for their absence."""
    limits = {
        f"threshold_{name}": "" if limit is None else limit for name, limit in zip(names, thresholds, strict=True)
    }
    if probabilities is None:
        empty = dict.fromkeys(["findings", "undecided", *probability_columns(names)], "")
        return {**empty, **dict.fromkeys(limits, ""), "reason": fault}
    values = [float(value) for value in probabilities]
    answers = dict(zip(names, finding_answers(values, thresholds, min_confidence), strict=True))
    return {
        "findings": "|".join(name for name, answer in answers.items() if answer),
        "undecided": "|".join(name for name, answer in answers.items() if answer is None),
        **dict(zip(probability_columns(names), values, strict=True)),
        **limits,
        "reason": "",
    }


class PredictionTable:
    """Write a CSV of predictions batch by batch; the file gets its final name when it is complete.

    Until then, the rows are in ``<name>.part``, which remains after an interruption; the next table replaces it, or
    with ``resume`` continues it. ``<name>.part.json`` says what made the rows.

    Args:
        path: the CSV; its folder is created.
        classes: class names in the order of their indices.
        further: names of further columns, default none.
        thresholds: see :py:func:`prediction_row`, default None.
        made_by: digest of the model and of all that decides what a row says, default "".
        resume: keep the rows that are there, default False.

    Attributes:
        kept: the rows that were there, within the table; the caller tells with :py:meth:`go_on` how many it keeps.

    Raises:
        ValueError: When the path is a folder.

    """

    def __init__(
        self,
        path: Path,
        classes: Sequence[str],
        further: Iterable[str] = (),
        *,
        thresholds: Sequence[float | None] | None = None,
        made_by: str = "",
        resume: bool = False,
    ) -> None:
        if path.is_dir():
            raise ValueError(f"output: expected a CSV to write, got the folder {path}. Name a file in it.")
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.columns = [*prediction_row(Prediction("", None), ImageKeys(""), classes, thresholds=thresholds), *further]
        self.header = table_text(self.columns, [])
        self.made_by, self.resume = made_by, resume
        self.kept: list[dict[str, str]] = []
        self._note = path.with_name(self.part.name + ".json")

    def __enter__(self) -> PredictionTable:
        """Create the table, or open the one that was interrupted.

        Raises:
            FileExistsError: When another prediction writes it.
            ValueError: When the rows to go on from are those of another prediction.

        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a file name may contain bytes that are not UTF-8
        self.file: IO[str] = self.part.open("a", newline="", encoding="utf-8", errors="backslashreplace")
        if can_lock() and not try_lock(self.file.fileno()):
            self.file.close()
            raise FileExistsError(
                f"output: expected one prediction at a time into {self.path}, got another that is running. "
                "Wait for it, or name another file."
            )
        try:
            self.kept = self._rows() if self.resume else []
        except BaseException:
            self.file.close()
            raise
        self.go_on(len(self.kept))
        return self

    def _rows(self) -> list[dict[str, str]]:
        """Return the whole rows of an interrupted table; what was being written when it died is left out."""
        text = self.part.read_bytes().decode("utf-8", "replace")
        if not text.startswith(self.header) and self.header.startswith(text):
            return []  # it died before its first row
        if not text.startswith(self.header) or _made_by(self._note) != self.made_by:
            raise ValueError(
                f"resume: expected rows of this model with these options in {self.part}, got those of others. "
                "Pass the same, or leave --resume out."
            )
        lines = text.split("\r\n")
        while len(lines) > 1:
            lines.pop()  # what follows the last line break, then a row that a line break in it has cut
            try:
                return read_table("\r\n".join([*lines, ""]), self.columns)
            except ValueError:
                continue
        return []

    def go_on(self, count: int) -> None:
        """Keep so many of the rows that were there, and write after them.

        Args:
            count: how many.

        """
        self.kept = self.kept[:count]
        data = table_text(self.columns, self.kept).encode("utf-8", "backslashreplace")
        begun = self.part.read_bytes()[: len(data)] == data
        self.file.truncate(len(data) if begun and self.resume else 0)
        write_atomically(self._note, json.dumps({"made_by": self.made_by}))
        if not (begun and self.resume):
            self.file.write(data.decode("utf-8"))
            self.file.flush()

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows and flush them to the file.

        Args:
            rows: results of :py:func:`prediction_row`, with the further columns.

        """
        self.file.write(table_text(self.columns, rows).removeprefix(self.header))
        self.file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the table its final name, unless there was an error."""
        self.file.close()
        if error is None:
            os.replace(self.part, self.path)
            self._note.unlink()


def _made_by(note: Path) -> str | None:
    """Return what made the rows of an interrupted table, None if that is not known."""
    try:
        found = parse_json(note.read_bytes(), where="content")
    except (OSError, ValueError):
        return None
    return found.get("made_by") if isinstance(found, dict) else None


def kept_prediction(row: Mapping[str, str], path: str, classes: Sequence[str]) -> Prediction:
    """Return the prediction of which a table has a row.

    Args:
        row: the row, as text.
        path: the image.
        classes: class names in the order of their indices.

    """
    texts = [row[column] for column in probability_columns(classes)]
    if not all(texts):
        return Prediction(path, None, row["reason"])
    distance = row.get("distance")
    return Prediction(path, np.array(texts, dtype=np.float64), distance=float(distance) if distance else None)
