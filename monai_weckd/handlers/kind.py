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

"""Keep features of training images, to tell whether a new image is of their kind."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch.nn.functional as F

from monai_weckd.data.embedding import EmbeddingDataset
from monai_weckd.networks.nearest import neighbor_distances

__all__ = ["kind_reference"]

logger = logging.getLogger(__name__)

_IMAGES = 512
_SHARE = 0.99
_LEAST_IMAGES, _LEAST_GROUPS = 20, 5


def kind_reference(dataset: EmbeddingDataset, items: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Return the content of ``kind.npz``: features of training images, and the distance beyond which one is odd.

    The features are unit vectors of at most 512 images, evenly spaced in the list, in half precision. The limit is the
    distance within which 99 % of them lie from the images of other groups, see
    :py:func:`monai_weckd.networks.nearest.neighbor_distances`.

    Args:
        dataset: embeddings of the training items, with or without a label.
        items: the items, with ``group``.

    Returns:
        The content; None with fewer than 20 images or 5 groups, which set no limit.

    """
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), _IMAGES)).round().astype(int))
    groups = [str(items[place]["group"]) for place in places]
    if len(places) < _LEAST_IMAGES or len(set(groups)) < _LEAST_GROUPS:
        return None
    features = F.normalize(dataset.gather(places.tolist()).float(), dim=1).half()
    limit = float(np.quantile(neighbor_distances(features, groups=groups), _SHARE))
    logger.info(
        "kind: %d training images of %d groups; %.0f %% of them are nearer than %.3f to those of other groups",
        len(places),
        len(set(groups)),
        100 * _SHARE,
        limit,
    )
    buffer = io.BytesIO()
    np.savez(buffer, features=features.numpy(), limit=np.float64(limit))
    return buffer.getvalue()
