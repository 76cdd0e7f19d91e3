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

"""Tell whether an image is of the kind of the images that a model was trained on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from monai_weckd.data.npz import read_array
from monai_weckd.networks.nearest import neighbor_distances
from monai_weckd.utils.records import KIND

__all__ = ["KindReference", "read_kind"]


class KindReference:
    """Features of training images, and the distance beyond which an image is not of their kind.

    Args:
        features: (N, D).
        limit: mean cosine distance to the five nearest of them.

    """

    def __init__(self, features: torch.Tensor, limit: float) -> None:
        self.features, self.limit = features, limit

    def distances(self, features: torch.Tensor) -> np.ndarray:
        """Return how far images are from the training images, (B,).

        Args:
            features: features of the images, (B, D), by the same network.

        Raises:
            ValueError: When the features are those of another network.

        """
        if features.shape[1:] != self.features.shape[1:]:
            raise ValueError(
                f"{KIND}: expected {self.features.shape[1]} features of an image, got {list(features.shape[1:])}. "
                "Keep the files of a run together."
            )
        return neighbor_distances(features, self.features)

    def columns(self, distance: float | None) -> dict[str, float | str]:
        """Return the columns ``distance`` and ``not_of_this_kind`` of an image.

        Args:
            distance: how far it is, None for one that cannot be read.

        """
        if distance is None:
            return {"distance": "", "not_of_this_kind": ""}
        return {"distance": round(distance, 5), "not_of_this_kind": "yes" if distance > self.limit else ""}


def read_kind(checkpoint: Path) -> KindReference | None:
    """Return the features of training images, from ``kind.npz`` beside the model; None without that file.

    Args:
        checkpoint: the model.

    Raises:
        ValueError: When the file is damaged.

    """
    path = checkpoint.with_name(KIND)
    if not path.is_file():
        return None
    try:
        features = torch.from_numpy(read_array(str(path), "features"))
        limit = float(read_array(str(path), "limit"))
    except (ValueError, TypeError) as error:
        text = f"{path}: expected features and a limit, got a damaged file. Restore it from a copy."
        raise ValueError(text) from error
    if features.dim() != 2 or not features.isfinite().all() or not math.isfinite(limit):
        raise ValueError(f"{path}: expected finite features, got {list(features.shape)}. Restore it from a copy.")
    return KindReference(features, limit)
