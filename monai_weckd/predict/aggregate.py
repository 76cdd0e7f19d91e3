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

"""Average predictions over each series, study or patient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_weckd.data.keys import LEVELS, ImageKeys
from monai_weckd.predict.images import Prediction
from monai_weckd.predict.table import verdict
from monai_weckd.utils.files import write_atomically
from monai_weckd.utils.tables import table_text

__all__ = ["Aggregate"]


class Aggregate:
    """The mean of the probabilities of all images of a series, study or patient, and the number of its images.

    Args:
        level: "patient", "study" or "series".
        classes: names of the classes, or of the findings, in the order of their indices.
        min_confidence: smallest probability of the most probable class, or of the answer for a finding, default 0: any.
        thresholds: from which mean probability on each finding counts as present, default None: an image has one class.

    Attributes:
        unknown: number of images whose series (study, patient) is not known; they are in no row.

    """

    def __init__(
        self,
        level: str,
        classes: Sequence[str],
        *,
        min_confidence: float = 0.0,
        thresholds: Sequence[float | None] | None = None,
    ) -> None:
        self.level, self.columns, self.classes = level, LEVELS[: LEVELS.index(level) + 1], classes
        self.options: Any = {"min_confidence": min_confidence, "thresholds": thresholds}
        self.unknown = 0
        self._sums: dict[tuple[str, ...], np.ndarray] = {}
        self._counts: dict[tuple[str, ...], list[int]] = {}  # images that were read, and bad ones

    def add(self, keys: ImageKeys, prediction: Prediction) -> None:
        """Add an image.

        Args:
            keys: its keys.
            prediction: its prediction; one without probabilities counts as bad.

        """
        key = keys.of(self.level)
        if not key:
            self.unknown += 1
            return
        bad = prediction.probabilities is None
        self._counts.setdefault(key, [0, 0])[bad] += 1
        if prediction.probabilities is not None:
            added = prediction.probabilities.astype(np.float64)
            self._sums[key] = self._sums.get(key, np.zeros(len(self.classes))) + added

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row for each series (study, patient), in the order of their first images."""
        for key, (read, bad) in self._counts.items():
            names = dict(zip(self.columns, key, strict=True))
            mean = self._sums[key] / read if read else None
            fault = "" if read else "no image can be read"
            told = verdict(mean, self.classes, fault=fault, **self.options)
            yield {**names, "images": read + bad, "bad": bad, **told}

    def write(self, path: Path) -> None:
        """Write the rows as CSV.

        Args:
            path: the file.

        """
        columns = [*self.columns, "images", "bad", *verdict(None, self.classes, **self.options)]
        write_atomically(path, table_text(columns, self.rows()))
