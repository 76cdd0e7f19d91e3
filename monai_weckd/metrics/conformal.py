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

"""Sets of classes that contain the true class with a given probability, calibrated by groups."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["conformal_limit", "groups_needed", "prediction_sets"]

_ROUNDING = 1e-9


def conformal_limit(scores: np.ndarray, groups: Sequence[str], coverage: float) -> float:
    """Return the largest score of a class in a prediction set, by hierarchical conformal prediction.

    Each of K groups has the weight 1 / (K + 1), shared equally by its items, and so has a score of infinity, which
    stands for the next group. The limit is the ``coverage`` quantile of this distribution. If the score of the true
    class is computed alike for all items, and items of a new group are exchangeable with the items here, the true class
    of a new item has at most this score with at least the probability ``coverage``.

    Reference: Y. Lee, R. F. Barber, R. Willett, Distribution-free inference with hierarchical data, arXiv 2306.06342.
    With one item in each group it is split conformal prediction.

    Args:
        scores: score of the true class of each item, (N,).
        groups: group of each item, N names.
        coverage: probability, in (0, 1).

    Returns:
        The limit; infinity with fewer groups than :py:func:`groups_needed`.

    """
    _, place, counts = np.unique(np.asarray(groups, dtype=str), return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1 / counts[place][order])  # in units of 1 / (K + 1)
    enough = np.flatnonzero(reached >= coverage * (len(counts) + 1) - _ROUNDING)
    return float(scores[order][enough[0]]) if len(enough) else math.inf


def groups_needed(coverage: float) -> int:
    """Return the smallest number of groups for which a limit can be finite.

    Args:
        coverage: probability, in (0, 1).

    Example::

        >>> groups_needed(0.9), groups_needed(0.95)
        (9, 19)

    """
    return math.ceil(coverage / (1 - coverage) - _ROUNDING)


def prediction_sets(probabilities: np.ndarray, limit: float | np.ndarray) -> np.ndarray:
    """Return which classes are in the set of each item, (N, C), bool; the most probable one always is.

    The score of a class is one minus its probability, which gives the smallest sets on average: M. Sadinle, J. Lei,
    L. Wasserman, Least ambiguous set-valued classifiers with bounded error levels, arXiv 1609.00451.

    Args:
        probabilities: of the classes, (N, C).
        limit: result of :py:func:`conformal_limit` for these scores of the true classes; or one for each, (N, C).

    """
    highest = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
    inside: np.ndarray = (1 - probabilities <= limit) | highest
    return inside
