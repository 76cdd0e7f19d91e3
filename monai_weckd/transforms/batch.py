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

"""Augment whole batches, with draws that depend only on each item's view seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from monai_weckd.utils.draws import uniforms

__all__ = ["BatchAugment", "BatchTransform", "check_prob"]


class BatchTransform(ABC):
    """A random transform of a whole batch, whose draws for each item come from outside.

    Args:
        draws: how many uniform numbers the transform takes for each item.

    """

    def __init__(self, draws: int) -> None:
        self.draws = draws

    @abstractmethod
    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, views: Sequence[int]) -> torch.Tensor:
        """Transform a batch; the given tensor is not modified.

        Args:
            images: (B, C, X, Y) or (B, C, X, Y, Z), float.
            numbers: draws from [0, 1), (B, ``draws``), on the CPU.
            views: view seed of each item, for transforms that need more random numbers than can be drawn ahead.

        """


class BatchAugment:
    """Augment whole batches on their device; the result for an item depends on its image and view seed alone.

    The same image and view seed always give the same picture, whatever else is in the batch. Two lists that begin with
    the same transforms draw the same numbers for them, so a strong view that extends the transforms of a weak view
    shares its geometry. (Kornia's augmentations draw from torch's global generator for a whole batch, so they cannot be
    used here.)

    Args:
        transforms: transforms to apply in order.

    Raises:
        TypeError: When one of them is not a ``BatchTransform``.

    Example::

        >>> from monai_weckd.transforms import BatchAugment, BatchRandFlip
        >>> augment = BatchAugment([BatchRandFlip(prob=0.5, spatial_axis=0)])
        >>> images = torch.arange(8.0).reshape(2, 1, 4, 1)
        >>> alone = augment(images[1:], [5])
        >>> torch.equal(augment(images, [4, 5])[1:], alone)
        True

    """

    def __init__(self, transforms: Sequence[BatchTransform]) -> None:
        for transform in transforms:
            if not isinstance(transform, BatchTransform):
                raise TypeError(
                    f"transforms: expected transforms of batches, got {type(transform).__name__}. "
                    "Put MONAI's transforms into the dataset's own pipeline."
                )
        self.transforms = tuple(transforms)

    def __call__(self, images: torch.Tensor, views: Any) -> torch.Tensor:
        """Return the augmented images.

        Args:
            images: (B, C, X, Y) or (B, C, X, Y, Z), float, on any device.
            views: view seed of each item, (B,), non-negative integers.

        Raises:
            ValueError: When the images are of another shape or type, or there is not one seed for each.

        """
        seeds = torch.as_tensor(views).tolist()
        if images.ndim not in (4, 5) or not images.is_floating_point():
            raise ValueError(
                f"images: expected floats of shape (B, C, X, Y[, Z]), got {images.dtype} {tuple(images.shape)}. "
                "Load and scale the images first."
            )
        if len(seeds) != len(images):
            raise ValueError(f"views: expected {len(images)} seeds, one for each image, got {len(seeds)}. Pass them.")
        count = sum(transform.draws for transform in self.transforms)
        numbers = torch.from_numpy(uniforms(seeds, count)).float()
        first = 0
        for transform in self.transforms:
            images = transform(images, numbers[:, first : first + transform.draws], seeds)
            first += transform.draws
        return images


def check_prob(prob: float) -> float:
    """Return a probability, or raise a ValueError."""
    if not 0 <= prob <= 1:
        raise ValueError(f"prob: expected a number from 0 to 1, got {prob}. 1 transforms every item.")
    return prob
