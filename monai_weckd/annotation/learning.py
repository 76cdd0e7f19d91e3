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

"""Learn from the labels so far between two stages: keep the solved head, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from monai_weckd.annotation.label_words import LabelWords
from monai_weckd.annotation.live import Estimates, LiveHead, LiveModel
from monai_weckd.annotation.order import Scores
from monai_weckd.annotation.training import AnnotatedBundle
from monai_weckd.plan.splits import group_of

__all__ = ["Learning"]


class Learning:
    """The head of all labels so far, for the images that a student has scored.

    Args:
        bundle: how to train.

    """

    def __init__(self, bundle: AnnotatedBundle) -> None:
        self._bundle = bundle
        self._words = LabelWords(bundle.kind)
        self._head: tuple[np.ndarray | None, LiveHead | None] = (None, None)  # with its features
        self._model: tuple[np.ndarray | None, LiveModel | None] = (None, None)
        self._groups: tuple[Any, dict[str, str]] = (None, {})
        self._estimates = Estimates()

    def solve(
        self,
        scores: Scores,
        items: Sequence[Mapping[str, Any]],
        labels: Mapping[str, str],
        shares: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """Solve the head. One thread may call it at a time.

        Nothing happens if the bundle's stages solve no head, before the images are scored, and while fewer than two
        classes, or no finding on both sides, have a label.

        Args:
            scores: scores of the images.
            items: all images.
            labels: label of each labeled image by its id.
            shares: share of each class by id of the images whose readers differ, default None: none.

        """
        if not scores.ids:
            return
        if self._head[0] is not scores.features:
            self._head = scores.features, self._bundle.live_head(scores.ids, scores.features)
        head = self._head[1]
        if head is not None:
            given = {key: self._words.plain(label) for key, label in labels.items()}
            parts = {key: self._words.shares(one) for key, one in (shares or {}).items()}
            self._model = scores.features, head.solve(given, self._groups_of(items), parts)

    def estimate(self, scores: Scores, items: Sequence[Mapping[str, Any]]) -> None:
        """Estimate how good the head is. One thread may call it at a time, beside one that calls :py:meth:`solve`.

        Args:
            scores: scores of the images.
            items: all images.

        """
        model, (features, head) = self.model(scores), self._head
        if model is not None and head is not None and features is scores.features:
            self._estimates.add(model.summary["labels"], head.estimate(model, self._groups_of(items)))

    def _groups_of(self, items: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        listed, groups = self._groups
        if listed is not items:
            groups = {item["id"]: group_of(item) for item in items}
            self._groups = items, groups
        return groups

    def model(self, scores: Scores) -> LiveModel | None:
        """Return the head, None if it was not for these images.

        Args:
            scores: scores of the images.

        """
        features, model = self._model
        return model if features is scores.features else None

    def guide(self, scores: Scores) -> np.ndarray | None:
        """Return the head's probabilities of the images, (N, C), None if there are none.

        Args:
            scores: scores of the images.

        """
        model = self.model(scores)
        return None if model is None else model.probabilities

    def figures(self, scores: Scores) -> dict[str, Any] | None:
        """Return what is known of the head: its ``summary``, ``estimate`` and ``before``; None without a head.

        Args:
            scores: scores of the images.

        """
        model = self.model(scores)
        return None if model is None else {**model.summary, **self._estimates.of(model.summary["labels"])}
