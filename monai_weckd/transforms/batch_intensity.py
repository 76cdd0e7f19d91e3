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

"""Random intensity transforms for whole batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from monai_weckd.transforms.batch import BatchTransform, check_prob

__all__ = ["BatchRandCoarseDropout", "BatchRandGaussianNoise", "BatchRandScaleIntensity", "BatchRandShiftIntensity"]

_MAX_CHANNELS = 4


class _BatchRandIntensity(BatchTransform):
    """Base of scaling and shifting: draws one signed number for each item or each of its channels."""

    def __init__(self, size: float, *, prob: float, channel_wise: bool, name: str) -> None:
        if size < 0:
            raise ValueError(f"{name}: expected a number from 0 up, got {size}. 0 changes nothing.")
        self.size = size
        self.prob = check_prob(prob)
        self.channel_wise = channel_wise
        super().__init__(1 + (_MAX_CHANNELS if channel_wise else 1))

    def _values(self, images: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Return a number from -size to size for each item and channel, 0 for unchanged items."""
        channels = images.shape[1] if self.channel_wise else 1
        if channels > self.draws - 1:
            raise ValueError(
                f"channel_wise: expected at most {_MAX_CHANNELS} channels, got {channels}. Pass channel_wise=False."
            )
        values = (2 * numbers[:, 1 : 1 + channels] - 1) * self.size * (numbers[:, :1] < self.prob)
        return values.to(images).reshape(len(images), channels, *[1] * (images.ndim - 2))


class BatchRandScaleIntensity(_BatchRandIntensity):
    """Multiply items by ``1 + f`` at random, like :py:class:`monai.transforms.RandScaleIntensity`.

    Args:
        factors: largest ``|f|``.
        prob: probability of changing an item, default 0.5.
        channel_wise: whether each channel has its own ``f``. Defaults to False.

    Raises:
        ValueError: When ``factors`` is negative or ``prob`` is not a probability.

    """

    def __init__(self, factors: float, *, prob: float = 0.5, channel_wise: bool = False) -> None:
        super().__init__(factors, prob=prob, channel_wise=channel_wise, name="factors")

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, views: Sequence[int]) -> torch.Tensor:
        """Scale the items whose first draw is below ``prob``."""
        return images * (1 + self._values(images, numbers))


class BatchRandShiftIntensity(_BatchRandIntensity):
    """Add an offset to items at random, like :py:class:`monai.transforms.RandShiftIntensity`.

    Args:
        offsets: largest absolute offset.
        prob: probability of changing an item, default 0.5.
        channel_wise: whether each channel has its own offset. Defaults to False.

    Raises:
        ValueError: When ``offsets`` is negative or ``prob`` is not a probability.

    """

    def __init__(self, offsets: float, *, prob: float = 0.5, channel_wise: bool = False) -> None:
        super().__init__(offsets, prob=prob, channel_wise=channel_wise, name="offsets")

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, views: Sequence[int]) -> torch.Tensor:
        """Shift the items whose first draw is below ``prob``."""
        return images + self._values(images, numbers)


class BatchRandCoarseDropout(BatchTransform):
    """Blank out boxes of items at random, like :py:class:`monai.transforms.RandCoarseDropout`.

    A box lies wholly within the image and has its own number of voxels along each axis.

    Args:
        holes: smallest number of boxes.
        max_holes: largest number, default None: always ``holes``.
        spatial_size: smallest number of pixels or voxels along an axis.
        max_spatial_size: largest number, default None: always ``spatial_size``; more than the image has counts as all.
        fill_value: value inside a box, default 0.0.
        prob: probability of changing an item, default 0.5.

    Raises:
        ValueError: When a number is below 1, a largest below its smallest, or ``prob`` is not a probability.

    """

    def __init__(
        self,
        holes: int,
        spatial_size: int,
        *,
        max_holes: int | None = None,
        max_spatial_size: int | None = None,
        fill_value: float = 0.0,
        prob: float = 0.5,
    ) -> None:
        self.holes = _range("holes", holes, max_holes)
        self.sizes = _range("spatial_size", spatial_size, max_spatial_size)
        self.fill_value = fill_value
        self.prob = check_prob(prob)
        # for each box a size and a place along each of up to three axes
        super().__init__(2 + self.holes[1] * 6)

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, views: Sequence[int]) -> torch.Tensor:
        """Blank out boxes in the items whose first draw is below ``prob``."""
        numbers = numbers.to(images.device)
        low, high = self.holes
        count = low + (numbers[:, 1] * (high - low + 1)).floor()
        count = torch.where(numbers[:, 0] < self.prob, count, 0)
        blank = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
        for hole, draws in enumerate(numbers[:, 2:].split(6, dim=1)):
            blank |= self._box(draws, images.shape[2:]) & _column(count > hole, blank.ndim)
        return images.masked_fill(blank[:, None], self.fill_value)

    def _box(self, draws: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        """Return which voxels lie in the box of each item, (B, X, Y[, Z])."""
        low, high = self.sizes
        box = torch.ones(1, *[1] * len(sizes), dtype=torch.bool, device=draws.device)
        for axis, size in enumerate(sizes):
            length = (low + (draws[:, axis] * (high - low + 1)).floor()).clamp(max=size)
            start = (draws[:, 3 + axis] * (size - length + 1)).floor()
            place = torch.arange(size, device=draws.device)
            inside = (place >= start[:, None]) & (place < (start + length)[:, None])
            box = box & inside.reshape(-1, *[size if other == axis else 1 for other in range(len(sizes))])
        return box


class BatchRandGaussianNoise(BatchTransform):
    """Add normal noise to items at random, like :py:class:`monai.transforms.RandGaussianNoise`.

    Args:
        std: largest standard deviation; each item's own is drawn from 0 up to it, as MONAI does.
        prob: probability of changing an item, default 0.5.

    Raises:
        ValueError: When ``std`` is negative or ``prob`` is not a probability.

    """

    def __init__(self, std: float, *, prob: float = 0.5) -> None:
        if std < 0:
            raise ValueError(f"std: expected a number from 0 up, got {std}. 0 adds nothing.")
        self.std = std
        self.prob = check_prob(prob)
        super().__init__(2)

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, views: Sequence[int]) -> torch.Tensor:
        """Add noise to the items whose first draw is below ``prob``; the noise differs between devices."""
        images = images.clone()
        generator = torch.Generator(images.device)
        for image, (draw, size), view in zip(images, numbers.tolist(), views, strict=True):
            if draw < self.prob:
                noise = torch.empty_like(image).normal_(generator=generator.manual_seed(view))
                image.add_(noise, alpha=size * self.std)
        return images


def _range(name: str, low: int, high: int | None) -> tuple[int, int]:
    """Return the smallest and the largest number, or raise a ValueError."""
    high = low if high is None else high
    if not 1 <= low <= high:
        raise ValueError(f"{name}: expected at least 1 and at most max_{name}={high}, got {low}. Correct the range.")
    return low, high


def _column(flags: torch.Tensor, ndim: int) -> torch.Tensor:
    return flags.reshape(-1, *[1] * (ndim - 1))
