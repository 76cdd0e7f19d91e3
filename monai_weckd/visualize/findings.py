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

"""What the report of a run with several findings an image shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from monai_weckd.metrics import finding_bins, finding_intervals, finding_metrics
from monai_weckd.utils.records import label_columns, probability_columns, read_probabilities, read_text
from monai_weckd.utils.tables import read_table

__all__ = ["ANSWERS", "answer_word", "finding_answers", "finding_errors", "read_findings", "tested_findings"]

# cells of a table of predictions in words; an empty one is unknown
ANSWERS = MappingProxyType({"1": "present", "0": "absent"})
_OF_EACH = 3  # errors about a finding that are shown


def read_findings(path: Path, names: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a ``predictions.csv`` with findings, every value as text.

    Args:
        path: the file.
        names: names of the findings.

    Raises:
        ValueError: When it is not there or lacks a column.

    """
    columns = ["id", "split", *label_columns(names), *probability_columns(names)]
    try:
        return read_table(read_text(path, errors="surrogateescape"), columns)
    except ValueError as error:
        raise ValueError(f"predictions.csv: {error}") from error


def tested_findings(rows: Sequence[Mapping[str, str]], chain: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the figures of the test images, for all findings and for each; None without test images.

    Args:
        rows: the test images' rows of ``predictions.csv``.
        chain: content of ``chain.json``.

    Raises:
        ValueError: When the rows are not those of the run.

    """
    measured = chain["final"]["test"]
    if not rows or not measured:
        if rows or measured:
            raise ValueError(
                "predictions.csv: expected the test items, got others. Keep the files of one run together."
            )
        return None
    names, limits = chain["classes"], chain["final"]["thresholds"]
    try:
        labels = np.array([[float(row[column] or -1) for column in label_columns(names)] for row in rows])
        probabilities = np.array([[float(row[column]) for column in probability_columns(names)] for row in rows])
        metrics = finding_metrics(probabilities, labels, limits)
    except ValueError as error:
        raise ValueError(f"predictions.csv: {error}") from error
    if abs((metrics["macro_auc"] or 0) - (measured["macro_auc"] or 0)) > 0.005:
        raise ValueError(
            f"predictions.csv: expected the final macro AUC of chain.json, {measured['macro_auc']}, got "
            f"{metrics['macro_auc']}. Keep the files of one run together."
        )
    groups = [row.get("group") or row["id"] for row in rows]
    intervals = finding_intervals(probabilities, labels, limits, groups=groups)
    parts = zip(names, metrics["findings"], intervals["findings"], finding_bins(probabilities, labels), strict=True)
    return {
        "count": len(rows),
        "groups": len(set(groups)),
        "metrics": metrics,
        "intervals": intervals,
        "findings": [{"name": name, **own, "intervals": limits, "bins": bins} for name, own, limits, bins in parts],
    }


def finding_answers(
    rows: Sequence[Mapping[str, str]], chain: Mapping[str, Any]
) -> set[tuple[str, str | None, str, str]]:
    """Return for each known finding of each row its id, the finding, and in words what it is and what it is called.

    Args:
        rows: rows of ``predictions.csv``.
        chain: content of ``chain.json``.

    """
    names = chain["classes"]
    limits = dict(zip(names, chain["final"]["thresholds"], strict=True))
    columns = list(zip(names, label_columns(names), probability_columns(names), strict=True))
    return {
        (row["id"], name, ANSWERS[row[label]], answer_word(float(row[probability]), limits[name]))
        for row in rows
        for name, label, probability in columns
        if row[label] in ANSWERS
    }


def finding_errors(
    rows: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    thresholds: Sequence[float | None],
    *,
    limit: int = _OF_EACH,
) -> list[tuple[int, int]]:
    """Find, for each finding, the wrong answers on the test split in which the network was most confident.

    Args:
        rows: rows of ``predictions.csv`` by column name; an empty label is unknown, and no answer about it is wrong.
        names: names of the findings.
        thresholds: from which probability on each counts as present, None for one that never does.
        limit: maximum number of errors about each finding. Defaults to 3.

    Returns:
        Positions in ``rows`` and in ``names``, finding by finding, from the most confident error down.

    Example:
        >>> row = {"split": "test", "label_mass": "1", "probability_mass": "0.3"}
        >>> finding_errors([row, {**row, "probability_mass": "0.1"}, {**row, "label_mass": ""}], ["mass"], [0.5])
        [(1, 0), (0, 0)]
    """
    found: list[tuple[int, int]] = []
    for place, (name, threshold) in enumerate(zip(names, thresholds, strict=True)):
        wrong = []
        for position, row in enumerate(rows):
            label, (probability,) = str(row[label_columns([name])[0]]), read_probabilities(row, [name])
            called = answer_word(probability, threshold)
            if row["split"] == "test" and label and called != ANSWERS[label]:
                wrong.append((-probability if called == "present" else probability - 1, position))
        found += [(position, place) for _, position in sorted(wrong)[:limit]]
    return found


def answer_word(probability: float, threshold: float | None) -> str:
    """Return "present" if a probability reaches its threshold, else "absent".

    Args:
        probability: of the finding.
        threshold: None for a finding that never counts as present.

    """
    return "present" if threshold is not None and probability >= threshold else "absent"
