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

"""Label the images of which a model left the answer open."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from monai_weckd.annotation.chain import AnnotatedChain
from monai_weckd.annotation.session import AnnotationSession
from monai_weckd.data.item_level import PLURALS
from monai_weckd.predict.table import BELOW_CONFIDENCE
from monai_weckd.utils.tables import read_table

__all__ = ["WorklistSession", "read_worklist"]


def read_worklist(predictions: Path) -> list[str]:
    """Return the ids of the images of which the table of ``predict`` leaves the answer open.

    These are the images below ``--min_confidence``, or with a finding that is undecided. If there are none, they are
    those whose set of ``--coverage`` has several classes, or both answers for a finding.

    Args:
        predictions: the CSV.

    Raises:
        ValueError: When it is no such table, or has no such image.

    """
    if not predictions.is_file():
        raise ValueError(f"worklist: expected a CSV of `predict`, got no {predictions}. Correct the path.")
    try:
        # a spreadsheet may have added a byte order mark
        rows = read_table(predictions.read_text(encoding="utf-8-sig"), ["file", "reason"])
        if rows and not {"predicted", "undecided"} & rows[0].keys():
            raise ValueError("expected the column 'predicted' or 'undecided', got neither. Write the file again.")
    except ValueError as error:
        raise ValueError(f"worklist: expected a CSV of `predict` in {predictions}: {error}") from error
    found = [row["file"] for row in rows if row["reason"] == BELOW_CONFIDENCE or row.get("undecided")]
    found = found or [row["file"] for row in rows if _has_several(row)]
    if not found:
        raise ValueError(
            f"worklist: expected images {BELOW_CONFIDENCE} in {predictions}, got none in {len(rows)} rows. "
            "Run predict with --min_confidence or --coverage, or leave --worklist out."
        )
    return found


def _has_several(row: Mapping[str, str]) -> bool:
    """Return whether a set of ``--coverage`` leaves an answer open."""
    # a set of classes has one column, whose name no finding can have
    sets = [row["set"]] if "set" in row else [value for name, value in row.items() if name.startswith("set_")]
    return any("|" in value for value in sets)


class WorklistSession(AnnotationSession):
    """A session that asks for the labels of some images of a folder only; those with a label stay in it.

    Args:
        chain: the chain.
        studies: the folder of the images.
        worklist: ids of the images.
        options: those of the session.

    Attributes:
        missing: number of images of the worklist that are not in the folder.

    Raises:
        ValueError: When none of the images is in the folder.

    """

    def __init__(
        self,
        chain: AnnotatedChain,
        studies: str | os.PathLike[str],
        worklist: Collection[str],
        **options: Any,
    ) -> None:
        self._worklist = frozenset(worklist)
        super().__init__(chain, studies, **options)
        self.missing = len(self._worklist - self.items.keys())
        if self.missing == len(self._worklist):
            raise ValueError(
                f"worklist: expected {PLURALS[self.level]} of {studies}, got none of {self.missing}. "
                "Pass the folder that was the --input of predict."
            )

    def refresh(self) -> None:
        """List the images of the folder again."""
        super().refresh()
        time, items = self._listed
        wanted = self._worklist | self.store.labels.keys()
        self._listed = time, {key: item for key, item in items.items() if key in wanted}
