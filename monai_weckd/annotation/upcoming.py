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

"""Keep the images to label next in order, and renew the order behind the answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import numpy as np

from monai_weckd.annotation.order import Scores, Suggestion, components, suggest
from monai_weckd.plan.label_kind import LabelKind

__all__ = ["Upcoming"]


class Upcoming:
    """Images to label next, some at a time; see :py:func:`monai_weckd.annotation.order.suggest` for the order.

    Args:
        kind: names of the classes or findings.
        seed: seed of the draws.
        ahead: how many to choose at a time.
        plural: what the items are called, default "images".

    """

    def __init__(self, kind: LabelKind, *, seed: int, ahead: int, plural: str = "images") -> None:
        self._kind, self._seed, self._ahead, self._plural = kind, seed, ahead, plural
        self._kept: tuple[Any, list[Suggestion]] = ((), [])
        self._most = 1
        self._present: tuple[Any, frozenset[str]] = (None, frozenset())
        self._points: tuple[Any, np.ndarray] = (None, np.zeros((0, 0), np.float32))
        self._lock = threading.Lock()

    def next(
        self,
        scores: Scores,
        items: Sequence[Mapping[str, Any]],
        labeled: Container[str],
        *,
        count: int,
        stage: int,
        guide: Callable[[], np.ndarray | None],
    ) -> list[Suggestion]:
        """Return the first images of the order; it is made anew for other images or scores, or where too few are left.

        Args:
            scores: scores of the images.
            items: all images.
            labeled: images with a label, by id.
            count: how many.
            stage: number of the stage that the labels are for.
            guide: returns class probabilities to choose by, (N, C), or None for those of the scores.

        """
        key = self._key(scores, items)
        kept_for, kept = self._kept  # read together: another thread may replace them
        left = [one for one in kept if one.id not in labeled]
        self._most = max(self._most, count)
        if kept_for != key or len(left) < count:
            left = self._choose(scores, items, labeled, stage=stage, guide=guide)
        self._kept = key, left
        return left[:count]

    def renew(
        self,
        scores: Scores,
        items: Sequence[Mapping[str, Any]],
        labeled: Container[str],
        *,
        stage: int,
        guide: Callable[[], np.ndarray | None],
    ) -> None:
        """Make the order anew; callers of :py:meth:`next` need not wait for it.

        Args:
            scores: scores of the images.
            items: all images.
            labeled: images with a label, by id.
            stage: number of the stage that the labels are for.
            guide: returns class probabilities to choose by, (N, C), or None for those of the scores.

        """
        key = self._key(scores, items)
        self._kept = key, self._choose(scores, items, labeled, stage=stage, guide=guide)

    def points(self, scores: Scores) -> np.ndarray:
        """Return :py:func:`monai_weckd.annotation.order.components` of the scores, computed once.

        Args:
            scores: scores of N images.

        """
        with self._lock:
            if self._points[0] is not scores.features:
                self._points = scores.features, components(scores)
            return self._points[1]

    def _choose(
        self,
        scores: Scores,
        items: Sequence[Mapping[str, Any]],
        labeled: Container[str],
        *,
        stage: int,
        guide: Callable[[], np.ndarray | None],
    ) -> list[Suggestion]:
        # more than was ever asked for, so that the next requests find enough while the order is made anew
        return suggest(
            scores,
            items,
            labeled,
            kind=self._kind,
            count=self._ahead + self._most - 1,
            stage=stage,
            seed=self._seed,
            guide=guide(),
            plural=self._plural,
            points=self.points(scores) if scores.ids else None,
        )

    def _key(self, scores: Scores, items: Sequence[Mapping[str, Any]]) -> Any:
        """Return what an order depends on, but for labels and the guide."""
        listed, present = self._present
        if listed is not items:
            present = frozenset(item["id"] for item in items)
            self._present = items, present
        return scores.made_by, scores.ids, len(scores.unreadable), present
