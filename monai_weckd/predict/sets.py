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

"""Compute sets of classes that contain the true class of an image with a given probability."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_weckd.metrics import conformal_limit, groups_needed, prediction_sets
from monai_weckd.utils.records import OUT_OF_FOLD, model_chain, probability_columns, read_text
from monai_weckd.utils.tables import read_table

__all__ = ["ConformalSets"]


class ConformalSets:
    """Conformal prediction sets, calibrated on the labels of a solved head, each predicted when its group was held out.

    An image of a new patient has its true class in the set with at least the probability ``coverage``, if the labeled
    patients were drawn as the new ones are; see :py:func:`monai_weckd.metrics.conformal_limit`. The deployed head has
    seen all labels and the heads of cross-validation four fifths of them, so this holds approximately.

    Args:
        checkpoint: the model; ``out_of_fold.csv`` lies beside it.
        classes: class names in the order of their indices.
        coverage: probability.

    Attributes:
        limit: largest score of a class in a set.

    Raises:
        ValueError: When there is no such table, or it belongs to another model.

    """

    def __init__(self, checkpoint: Path, classes: Sequence[str], coverage: float) -> None:
        self.classes, self.coverage = classes, coverage
        path = checkpoint.with_name(OUT_OF_FOLD)
        if not path.is_file():
            raise ValueError(
                f"coverage: expected {OUT_OF_FOLD} beside {checkpoint}, got none. "
                "Train with solved heads, as train.json does, and keep the files of a run together."
            )
        columns = probability_columns(classes)
        try:
            rows = read_table(read_text(path, errors="surrogateescape"), ["group", "label", *columns])
            scores = np.array([_score(row, classes) for row in rows])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        _check_count(checkpoint, len(rows))
        groups = [row["group"] for row in rows]
        self.labels, self.groups = len(rows), len(set(groups))
        self.limit = conformal_limit(scores, groups, coverage)

    def text(self) -> str:
        """Return a line that says how the sets are calibrated, or that they have all classes."""
        known = f"{self.labels} held out labels of {self.groups} patients"
        if math.isinf(self.limit):
            least = groups_needed(self.coverage)
            return (
                f"all classes for each image: coverage {self.coverage:g} takes labels of {least} patients, got {known}"
            )
        return f"coverage {self.coverage:g}: each class of probability {1 - self.limit:.3g} or more, by {known}"

    def names(self, probabilities: np.ndarray | None) -> str:
        """Return the names of the classes in the set of an image, the most probable first, joined by ``|``.

        Args:
            probabilities: of the classes, (C,); None gives an empty text.

        """
        if probabilities is None:
            return ""
        (inside,) = prediction_sets(probabilities[None].astype(np.float64), self.limit)
        order = np.argsort(-probabilities, kind="stable")
        return "|".join(self.classes[place] for place in order if inside[place])


def _check_count(checkpoint: Path, found: int) -> None:
    """Refuse a table of another model, by the chain.json beside it."""
    chain = model_chain(checkpoint)
    stages = [] if chain is None else [stage for stage in chain["stages"] if stage["stage"] == chain["final"]["stage"]]
    for stage in stages:
        if stage.get("labeled") not in (None, found):
            raise ValueError(
                f"{OUT_OF_FOLD}: expected the {stage['labeled']} labels of the chain.json beside it, got {found}. "
                "Keep the files of a run together."
            )


def _score(row: dict[str, str], classes: Sequence[str]) -> float:
    """Return one minus the probability of the true class; 1, the highest, where it had no label outside its group."""
    if row["label"] not in classes:
        raise ValueError(f"expected labels of {list(classes)}, got {row['label']!r}. Keep the files of a run together.")
    (column,) = probability_columns([row["label"]])
    text = row[column]
    score = 1 - float(text) if text else 1.0
    if not 0 <= score <= 1:
        raise ValueError(f"expected probabilities, got {text}. Keep the files of a run together.")
    return score
