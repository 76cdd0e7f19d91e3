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

"""Choose the findings that are asked for in chosen images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_weckd.utils.draws import draw_digest

__all__ = ["choose_findings"]


def choose_findings(
    probabilities: np.ndarray | None, ids: Sequence[str], *, num_findings: int, count: int, seed: int
) -> dict[str, tuple[int, ...]]:
    """Choose some findings of each image: those in which it is among the least certain images.

    Each finding orders the images by its margin, ``|2 p - 1|``, and an image is asked for the findings in whose orders
    it comes first. Ranks need no calibration, and they ask about all findings about equally often: by the margins
    themselves a rare finding, which is hardly ever probable, would never be asked for. Draws break ties, and decide
    alone where there are no probabilities.

    Args:
        probabilities: of the findings of these images, (N, F); None without a model.
        ids: their ids, N.
        num_findings: F.
        count: how many findings of each image, from 1 to F.
        seed: seed of the draws.

    Returns:
        The places of the chosen findings by id, ascending.

    Example::

        >>> probabilities = np.array([[0.5, 0.01], [0.9, 0.02]])
        >>> choose_findings(probabilities, ["a", "b"], num_findings=2, count=1, seed=0)
        {'a': (0,), 'b': (1,)}

    """
    places = range(num_findings)
    digests = [[draw_digest(seed, "finding", place, key) for place in places] for key in ids]
    draws = np.array([[int.from_bytes(digest[:7], "big") for digest in row] for row in digests])
    margins = np.zeros(draws.shape) if probabilities is None else np.abs(2 * probabilities - 1)
    ranks = np.empty(draws.shape, dtype=int)
    for place in places:
        ranks[np.lexsort((draws[:, place], margins[:, place])), place] = np.arange(len(ids))
    return {
        key: tuple(sorted(np.lexsort((drawn, rank))[:count].tolist()))
        for key, rank, drawn in zip(ids, ranks, draws, strict=True)
    }
