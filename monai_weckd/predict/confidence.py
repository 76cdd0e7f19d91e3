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

"""Describe a model's calibration, and the effect of a confidence threshold on validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from monai_weckd.metrics.findings import finding_answers
from monai_weckd.utils.records import label_columns, model_chain, probability_classes, read_probabilities, read_text
from monai_weckd.utils.tables import read_table

__all__ = ["calibration_text", "validation_text"]


def calibration_text(checkpoint: Path) -> str:
    """Describe whether a model's probabilities are calibrated, according to ``chain.json`` beside it.

    Args:
        checkpoint: the model.

    """
    chain = model_chain(checkpoint)
    if chain is None:
        return "calibration unknown: no chain.json beside it"
    final = next(stage for stage in chain["stages"] if stage["stage"] == chain["final"]["stage"])
    if final.get("calibration") is not None:
        return f"calibrated on validation, temperature {final['calibration']:.2f}"
    held_out = (final.get("out_of_fold") or {}).get("labels", 0)
    if held_out:
        return f"calibrated by cross-validation on {held_out} labels"
    return "not calibrated: a confidence is not the probability of being right"


def validation_text(
    checkpoint: Path, min_confidence: float, thresholds: Mapping[str, float | None] | None = None
) -> str:
    """Describe the effect of a confidence threshold on validation, from ``predictions.csv`` beside the model.

    Args:
        checkpoint: the model.
        min_confidence: the threshold.
        thresholds: by finding, from which probability on it counts as present, default None: an image has one class.

    Raises:
        ValueError: When the table lacks a column.

    """
    path = checkpoint.with_name("predictions.csv")
    if not path.is_file():
        return "unknown on validation: no predictions.csv beside the model"
    # a file name may contain bytes that are not UTF-8
    text = read_text(path, errors="surrogateescape")
    try:
        columns = ["label", "predicted"] if thresholds is None else label_columns(thresholds)
        rows = read_table(text, ["split", *columns])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rows = [row for row in rows if row["split"] == "val"]
    if not rows:
        return f"unknown on validation: no row of it in {path}"
    if thresholds is None:
        what, total = "without a class", len(rows)
        right = [row["label"] == row["predicted"] for row in rows if _confidence(row) >= min_confidence]
    else:
        what = "findings undecided"
        right, total = _right_answers(rows, min_confidence, thresholds)
    text = f"on validation {total - len(right)} of {total} {what} ({1 - len(right) / max(1, total):.0%})"
    if right:
        text += f", accuracy of the others {sum(right) / len(right):.3f}"
    return f"{text}; the chain has seen these labels"


def _right_answers(
    rows: Sequence[Mapping[str, str]], min_confidence: float, thresholds: Mapping[str, float | None]
) -> tuple[list[bool], int]:
    """Return whether each answer that is given is right, and the number of findings that are known."""
    right, total = [], 0
    for row in rows:
        answers = finding_answers(read_probabilities(row, thresholds), list(thresholds.values()), min_confidence)
        truth = [row[column] for column in label_columns(thresholds)]
        total += sum(map(bool, truth))
        given = [(answer, told) for answer, told in zip(answers, truth, strict=True) if told and answer is not None]
        right += [answer == (told == "1") for answer, told in given]
    return right, total


def _confidence(row: dict[str, str]) -> float:
    return max(read_probabilities(row, probability_classes(row)))
