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

from pathlib import Path

from monai_weckd.utils.records import model_chain, probability_classes, read_probabilities, read_text
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


def validation_text(checkpoint: Path, min_confidence: float) -> str:
    """Describe the effect of a confidence threshold on validation, from ``predictions.csv`` beside the model.

    Args:
        checkpoint: the model.
        min_confidence: the threshold.

    Raises:
        ValueError: When the table lacks a column.

    """
    path = checkpoint.with_name("predictions.csv")
    if not path.is_file():
        return "unknown on validation: no predictions.csv beside the model"
    # a file name may contain bytes that are not UTF-8
    text = read_text(path, errors="surrogateescape")
    try:
        rows = read_table(text, ["split", "label", "predicted"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    rows = [row for row in rows if row["split"] == "val"]
    if not rows:
        return f"unknown on validation: no row of it in {path}"
    kept = [row for row in rows if _confidence(row) >= min_confidence]
    text = f"on validation {len(rows) - len(kept)} of {len(rows)} without a class ({1 - len(kept) / len(rows):.0%})"
    if kept:
        right = sum(row["label"] == row["predicted"] for row in kept)
        text += f", accuracy of the others {right / len(kept):.3f}"
    return f"{text}; the chain has seen these labels"


def _confidence(row: dict[str, str]) -> float:
    return max(read_probabilities(row, probability_classes(row)))
