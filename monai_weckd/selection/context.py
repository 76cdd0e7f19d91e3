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

"""The information that a selection strategy may use, and its checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monai_weckd.utils.messages import nearest

__all__ = ["STRATEGIES", "SelectionContext", "check_selection"]

STRATEGIES = ("herding", "random", "typical", "margin", "diverse", "badge")
NEED_PROBABILITIES = ("margin", "badge")


@dataclass(frozen=True, eq=False)  # arrays have no single answer to ==
class SelectionContext:
    """The information that a strategy may use to choose a shard; it contains no label.

    Args:
        features: features of all training items, (N, D), in an order that is the same at all stages.
        probabilities: the teacher's class probabilities, (N, C); None before there is a teacher.
        groups: group of each item, N names.
        labeled: items whose labels earlier stages requested, (N,), bool.
        askable: items whose labels can be requested, (N,), bool; labeled items are excluded in any case.
        seed: non-negative seed of the plan.
        stage: number of the stage, from 1.
        findings: whether the probabilities are those of findings, of which an item may have several, default False.
        projected: whether the features are projected to their main components already, which "herding" then
            takes as they are, default False.

    """

    features: np.ndarray
    probabilities: np.ndarray | None
    groups: Sequence[str]
    labeled: np.ndarray
    askable: np.ndarray
    seed: int
    stage: int
    findings: bool = False
    projected: bool = False

    @property
    def candidates(self) -> np.ndarray:
        """Return the indices of the items whose labels can be requested, ascending."""
        return np.flatnonzero(self.askable & ~self.labeled)


def check_selection(strategy: str, context: SelectionContext, *, count: int) -> None:
    """Refuse a selection that cannot be made.

    Args:
        strategy: one of :data:`STRATEGIES`.
        context: information for the strategy.
        count: number of items to choose.

    Raises:
        ValueError: When the strategy is unknown, an array of the context has another shape or holds a number that is
            not finite, there is no teacher for a strategy that asks it, or ``count`` is not from 1 to the number of
            items that can be asked for.

    """
    if strategy not in STRATEGIES:
        raise ValueError(f"selection: expected a known strategy, got {strategy!r}. {nearest(strategy, STRATEGIES)}")
    if context.features.ndim != 2:
        raise ValueError(
            f"features: expected an array (items, features), got shape {context.features.shape}. "
            "Flatten what the layer before the head receives."
        )
    _check_finite("features", context.features)
    size = len(context.features)
    for name in ("groups", "labeled", "askable"):
        if len(getattr(context, name)) != size:
            raise ValueError(
                f"{name}: expected one for each of {size} rows of features, got {len(getattr(context, name))}. "
                "Pass all in the same order."
            )
    for name in ("labeled", "askable"):
        # NumPy would silently accept an array of indices as a mask
        if getattr(context, name).dtype != bool:
            raise ValueError(f"{name}: expected an array of bool, got {getattr(context, name).dtype}. Pass a mask.")
    _check_probabilities(strategy, context.probabilities, size)
    if context.seed < 0:
        raise ValueError(f"seed: expected a number of at least 0, got {context.seed}. Pass another.")
    if context.stage < 1:
        raise ValueError(f"stage: expected a number from 1, got {context.stage}. The first stage is 1.")
    left = len(context.candidates)
    if not 1 <= count <= left:
        raise ValueError(
            f"count: expected from 1 to the {left} items that can be asked for, got {count}. "
            "Pass another label_fraction, or fewer stages."
        )


def _check_probabilities(strategy: str, probabilities: np.ndarray | None, size: int) -> None:
    if probabilities is None:
        if strategy in NEED_PROBABILITIES:
            raise ValueError(
                f"probabilities: expected a teacher's for selection={strategy!r}, got None. "
                "Pass 'herding' or 'typical' for a stage without a teacher."
            )
        return
    if probabilities.ndim != 2 or len(probabilities) != size or not probabilities.shape[1]:
        raise ValueError(
            f"probabilities: expected an array ({size}, classes), got shape {probabilities.shape}. "
            "Pass one row for each row of features."
        )
    _check_finite("probabilities", probabilities)


def _check_finite(name: str, values: np.ndarray) -> None:
    # the sum of a finite row is finite, and this needs no N x D array of flags
    bad = np.flatnonzero(~np.isfinite(values.sum(axis=1, dtype=np.float64)))
    if len(bad):
        raise ValueError(
            f"{name}: expected finite numbers, got others in {len(bad)} of {len(values)} rows, first in row {bad[0]}. "
            "Look for a training that diverged, or a broken image."
        )
