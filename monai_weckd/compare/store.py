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

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_weckd.compare.statistics import RunPredictions

__all__ = ["RunStore", "read_rows", "replace_text"]


class RunStore:
    """The results of runs, as files that several processes share.

    A run has ``<repeat>-<fold>-<seed>.json`` in the folder of its arm, which is written last, the predictions on its
    test items beside it as ``.csv``, and its plan as ``.plan.json``.

    Args:
        folder: where the results are.

    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, arm: str, cell: tuple[int, int, int], suffix: str = ".json") -> Path:
        """Return the path of one of a run's files.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            suffix: of the file, default ".json".

        """
        return self.folder / arm / ("-".join(map(str, cell)) + suffix)

    def read(self, arm: str, cell: tuple[int, int, int], *, digest: str) -> dict[str, Any] | None:
        """Return the result of a run, failed or not; None where there is none under these settings.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            digest: digest of the settings.

        """
        path = self.path(arm, cell)
        if not path.is_file():
            return None
        try:
            result = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: expected JSON, got {error}. Remove the file.") from error
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
        """Write down a run; who reads while it does finds the old or the new result.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            result: what ``.json`` is to hold.
            rows: predictions, one dictionary for each test item.
            plan: the plan's JSON, default None.

        """
        self.path(arm, cell).parent.mkdir(parents=True, exist_ok=True)
        if rows:
            part = self.path(arm, cell, f".csv.{os.getpid()}")
            with part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            os.replace(part, self.path(arm, cell, ".csv"))
        if plan is not None:
            replace_text(self.path(arm, cell, ".plan.json"), plan)
        replace_text(self.path(arm, cell), json.dumps(result, indent=1) + "\n")

    def predictions(self, arm: str, cell: tuple[int, int, int], classes: Sequence[str]) -> RunPredictions:
        """Return the predictions of a run.

        Args:
            arm: name of the arm.
            cell: repeat, fold and seed.
            classes: class names in the order of their indices.

        """
        rows = read_rows(self.path(arm, cell, ".csv"))
        return RunPredictions(
            *cell,
            ids=[row["id"] for row in rows],
            labels=np.array([classes.index(row["label"]) for row in rows]),
            probabilities=np.array([[float(row[f"probability_{name}"]) for name in classes] for row in rows]),
        )


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader finds the old or the new one, whoever else writes it at the same time.

    Args:
        path: the file.
        text: its content.

    """
    part = path.with_name(f"{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8", errors="surrogateescape")
    os.replace(part, path)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table of predictions.

    Args:
        path: the file.

    """
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))
