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

"""Compute sets of classes, or of answers, that contain the true one with a given probability."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np

from monai_weckd.metrics import conformal_limit, groups_needed, prediction_sets
from monai_weckd.utils.records import OUT_OF_FOLD, label_columns, model_chain, probability_columns, read_text
from monai_weckd.utils.tables import read_table

__all__ = ["ConformalFindings", "ConformalSets"]

_ANSWERS = ("absent", "present")


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
        columns: the column of the table.
        limit: largest score of a class in a set.

    Raises:
        ValueError: When there is no such table, or it belongs to another model.

    """

    columns = ("set",)

    def __init__(self, checkpoint: Path, classes: Sequence[str], coverage: float) -> None:
        self.classes, self.coverage = classes, coverage
        rows = _held_out(checkpoint, ["label", *probability_columns(classes)])
        with _naming(checkpoint):
            scores = np.array([_score(row, classes) for row in rows])
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

    def cells(self, probabilities: np.ndarray | None) -> dict[str, str]:
        """Return the names of the classes in the set of an image, the most probable first, joined by ``|``.

        Args:
            probabilities: of the classes, (C,); None gives an empty text.

        """
        if probabilities is None:
            return {"set": ""}
        (inside,) = prediction_sets(probabilities[None].astype(np.float64), self.limit)
        order = np.argsort(-probabilities, kind="stable")
        return {"set": "|".join(self.classes[place] for place in order if inside[place])}


class ConformalFindings:
    """Conformal sets of answers for each finding: present, absent, or both, which leaves it open.

    They are calibrated as in :py:class:`ConformalSets`, for each finding and each answer by the labels with that answer
    (label-conditional): of the images with a finding, at least the share ``coverage`` have "present" in its set, and of
    those without it "absent".

    Args:
        checkpoint: the model; ``out_of_fold.csv`` lies beside it.
        names: names of the findings in the order of their indices.
        coverage: probability.

    Attributes:
        columns: the columns of the table, one for each finding.
        limits: largest score of an answer in a set, (F, 2): absent and present.

    Raises:
        ValueError: When there is no such table, or it belongs to another model.

    """

    def __init__(self, checkpoint: Path, names: Sequence[str], coverage: float) -> None:
        self.names, self.coverage = names, coverage
        self.columns = tuple(f"set_{name}" for name in names)
        rows = _held_out(checkpoint, [*label_columns(names), *probability_columns(names)])
        self.limits = np.full((len(names), 2), math.inf)
        with _naming(checkpoint):
            for place, answer in product(range(len(names)), range(2)):
                self.limits[place, answer] = _finding_limit(rows, names[place], answer, coverage)
        _check_count(checkpoint, len(rows))

    def text(self) -> str:
        """Return a line that says for which findings the labels suffice."""
        open_ones = [name for name, row in zip(self.names, self.limits, strict=True) if np.isinf(row).any()]
        text = f"coverage {self.coverage:g} for images with each finding, and for those without it"
        if open_ones:
            least = groups_needed(self.coverage)
            text += f"; fewer than {least} patients with and without it, so partly open: {', '.join(open_ones)}"
        return text

    def cells(self, probabilities: np.ndarray | None) -> dict[str, str]:
        """Return the answers in the set of each finding, the more probable first, joined by ``|``.

        Args:
            probabilities: of the findings, (F,); None gives empty texts.

        """
        if probabilities is None:
            return dict.fromkeys(self.columns, "")
        both = np.stack([1 - probabilities, probabilities], axis=1).astype(np.float64)
        inside, order = prediction_sets(both, self.limits), np.argsort(-both, axis=1, kind="stable")
        parts = zip(self.columns, inside, order, strict=True)
        return {column: "|".join(_ANSWERS[k] for k in places if mine[k]) for column, mine, places in parts}


def _held_out(checkpoint: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the labels of a model, each predicted when its group was held out."""
    path = checkpoint.with_name(OUT_OF_FOLD)
    if not path.is_file():
        raise ValueError(
            f"coverage: expected {OUT_OF_FOLD} beside {checkpoint}, got none. "
            "Train with solved heads, as train.json does, and keep the files of a run together."
        )
    with _naming(checkpoint):
        return read_table(read_text(path, errors="surrogateescape"), ["group", *columns])


@contextmanager
def _naming(checkpoint: Path) -> Iterator[None]:
    """Put the name of the table before a fault that is found in it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{checkpoint.with_name(OUT_OF_FOLD)}: {error}") from error


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


def _finding_limit(rows: Sequence[dict[str, str]], name: str, answer: int, coverage: float) -> float:
    """Return the largest score of an answer in the set of a finding; infinity without labels."""
    (label,), (column,) = label_columns([name]), probability_columns([name])
    mine = [row for row in rows if row[label] == str(answer)]
    if not mine:
        return math.inf
    # one that could not be held out has the highest score
    told = np.array([float(row[column] or 1 - answer) for row in mine])
    if not ((told >= 0) & (told <= 1)).all():
        raise ValueError(f"expected probabilities of {name}, got others. Keep the files of a run together.")
    return conformal_limit(np.abs(answer - told), [row["group"] for row in mine], coverage)


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
