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

"""Store the results of runs as files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from monai_weckd.compare.statistics import RunPredictions
from monai_weckd.utils.files import replace_text
from monai_weckd.utils.records import json_digest
from monai_weckd.utils.tables import read_table, table_text

if TYPE_CHECKING:
    from monai_weckd.engines.label_task import LabelTask

__all__ = ["RunStore", "read_rows"]

_SEAL, _PREDICTIONS = "seal", "predictions"
# the result comes last: if it is there, the others are
_SUFFIXES = (".csv", ".plan.json", ".json")


class RunStore:
    """The results of runs, in files.

    The folder of an arm has three files for each run: ``<repeat>-<fold>-<seed>.json`` with the result, which is written
    last, ``.csv`` with the predictions on its test items, and ``.plan.json`` with its plan.

    Args:
        folder: folder of the results.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, arm: str, cell: tuple[int, int, int], suffix: str = ".json") -> Path:
        """Return the path of one of a run's files.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            suffix: suffix of the file, default ".json".

        """
        return self.folder / arm / ("-".join(map(str, cell)) + suffix)

    def read(self, arm: str, cell: tuple[int, int, int], *, digest: str) -> dict[str, Any] | None:
        """Return the result of a run, failed or not; None if there is none for these settings.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            digest: digest of the settings.

        Raises:
            ValueError: When the file was changed after it was written.

        """
        if not self.path(arm, cell).is_file():
            return None
        result = self._content(arm, cell)
        result.pop(_PREDICTIONS, None)
        return result if result.get("digest") == digest else None

    def write(
        self,
        arm: str,
        cell: tuple[int, int, int],
        result: dict[str, Any],
        *,
        rows: Sequence[dict[str, Any]] = (),
        plan: str | None = None,
    ) -> None:
        """Store a run atomically: concurrent readers see the old result or the new one.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            result: content of the ``.json`` file.
            rows: predictions, one dictionary for each test item.
            plan: the plan's JSON, default None.

        """
        self.path(arm, cell).parent.mkdir(parents=True, exist_ok=True)
        if rows:
            text = table_text(list(rows[0]), rows)
            replace_text(self.path(arm, cell, ".csv"), text)
            result = {**result, _PREDICTIONS: _text_digest(text)}
        if plan is not None:
            replace_text(self.path(arm, cell, ".plan.json"), plan)
        replace_text(self.path(arm, cell), json.dumps({**result, _SEAL: json_digest(result)}, indent=1) + "\n")

    def files(self, arm: str, cell: tuple[int, int, int]) -> dict[str, str]:
        """Return the content of each of a run's files by suffix, for another store.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.

        """
        paths = {suffix: self.path(arm, cell, suffix) for suffix in _SUFFIXES}
        return {suffix: _read_text(path) for suffix, path in paths.items() if path.is_file()}

    def install(self, arm: str, cell: tuple[int, int, int], files: Mapping[str, str]) -> None:
        """Store the files of a run as another store gives them.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            files: result of :py:meth:`files`.

        """
        self.path(arm, cell).parent.mkdir(parents=True, exist_ok=True)
        for suffix in _SUFFIXES:
            if suffix in files:
                replace_text(self.path(arm, cell, suffix), files[suffix])

    def predictions(self, arm: str, cell: tuple[int, int, int], task: LabelTask) -> RunPredictions:
        """Return the predictions of a run.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            task: what depends on the kind of the labels.

        """
        rows = self.rows(arm, cell)
        labels, probabilities = zip(*map(task.read, rows), strict=True)
        return RunPredictions(
            *cell,
            ids=[row["id"] for row in rows],
            labels=np.array(labels),
            probabilities=np.array(probabilities),
            thresholds=self._content(arm, cell).get("thresholds"),
        )

    def rows(self, arm: str, cell: tuple[int, int, int]) -> list[dict[str, str]]:
        """Return the table of predictions of a run.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.

        Raises:
            ValueError: When the file was changed after it was written.

        """
        path, expected = self.path(arm, cell, ".csv"), self._content(arm, cell).get(_PREDICTIONS)
        text = _read_text(path)
        if expected not in (None, _text_digest(text)):
            raise ValueError(f"{path}: expected the predictions of its run, got changed ones. Remove {path.stem}.json.")
        return read_table(text)

    def _content(self, arm: str, cell: tuple[int, int, int]) -> dict[str, Any]:
        path = self.path(arm, cell)
        try:
            result = json.loads(_read_text(path))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: expected JSON, got {error}. Remove the file.") from error
        # results of earlier versions have no seal
        if not isinstance(result, dict) or result.pop(_SEAL, None) not in (None, json_digest(result)):
            raise ValueError(f"{path}: expected the result as it was written, got a changed one. Remove the file.")
        return result


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table of predictions.

    Args:
        path: the file.

    """
    return read_table(_read_text(path))


def _read_text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", errors="surrogateescape")


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()
