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
from typing import Any

import numpy as np

from monai_weckd.metrics import finding_bins, finding_intervals, finding_metrics
from monai_weckd.utils.records import label_columns, probability_columns, read_text
from monai_weckd.utils.tables import read_table

__all__ = ["read_findings", "tested_findings"]


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
