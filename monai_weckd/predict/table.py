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

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from monai_weckd.predict.images import Prediction
from monai_weckd.predict.keys import ImageKeys
from monai_weckd.utils.system import can_lock, try_lock
from monai_weckd.utils.tables import table_text

__all__ = ["BELOW_CONFIDENCE", "PredictionTable", "prediction_row", "verdict"]

BELOW_CONFIDENCE = "below min_confidence"


def prediction_row(
    prediction: Prediction, keys: ImageKeys, classes: Sequence[str], *, min_confidence: float = 0.0
) -> dict[str, Any]:
    """Return a row of the table; ``predicted`` is empty for an unreadable image or a confidence below the threshold.

    Args:
        prediction: prediction for an image.
        keys: its keys.
        classes: class names in the order of their indices.
        min_confidence: smallest probability of the most probable class, default 0: any.

    """
    told = verdict(prediction.probabilities, classes, fault=prediction.fault, min_confidence=min_confidence)
    return {**keys._asdict(), **told}


def verdict(
    probabilities: np.ndarray | None, classes: Sequence[str], *, fault: str = "", min_confidence: float = 0.0
) -> dict[str, Any]:
    """Return the columns of a table for the class, its confidence, all probabilities, or the reason for their absence.

    Args:
        probabilities: of the classes, (C,), or None.
        classes: class names in the order of their indices.
        fault: why there are no probabilities, default "".
        min_confidence: smallest probability of the most probable class, default 0: any.

    """
    row = dict.fromkeys(["predicted", "confidence", *map("probability_{}".format, classes), "reason"], "")
    if probabilities is None:
        return {**row, "reason": fault}
    values = [float(value) for value in probabilities]
    certain = max(values) >= min_confidence
    return {
        "predicted": classes[values.index(max(values))] if certain else "",
        "confidence": max(values),
        **{f"probability_{name}": value for name, value in zip(classes, values, strict=True)},
        "reason": "" if certain else BELOW_CONFIDENCE,
    }


class PredictionTable:
    """Write a CSV of predictions batch by batch; the file gets its final name when it is complete.

    Until then, the rows are in ``<name>.part``, which remains after an interruption until the next table replaces it.

    Args:
        path: the CSV; its folder is created.
        classes: class names in the order of their indices.
        further: names of further columns, default none.

    Raises:
        ValueError: When the path is a folder.

    """

    def __init__(self, path: Path, classes: Sequence[str], further: Iterable[str] = ()) -> None:
        if path.is_dir():
            raise ValueError(f"output: expected a CSV to write, got the folder {path}. Name a file in it.")
        self.path, self.part = path, path.with_name(path.name + ".part")
        self.columns = [*prediction_row(Prediction("", None), ImageKeys(""), classes), *further]
        self.header = table_text(self.columns, [])

    def __enter__(self) -> PredictionTable:
        """Create the table."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a file name may contain bytes that are not UTF-8
        self.file: IO[str] = self.part.open("a", newline="", encoding="utf-8", errors="backslashreplace")
        if can_lock() and not try_lock(self.file.fileno()):
            self.file.close()
            raise FileExistsError(
                f"output: expected one prediction at a time into {self.path}, got another that is running. "
                "Wait for it, or name another file."
            )
        self.file.truncate(0)  # rows from an interrupted run
        self.file.write(self.header)
        return self

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
