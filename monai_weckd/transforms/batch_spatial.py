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

"""Random spatial transforms for whole batches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from monai.utils import GridSamplePadMode, look_up_option

from monai_weckd.transforms.batch import BatchTransform, check_prob

__all__ = ["BatchRandAffine", "BatchRandFlip"]


class BatchRandFlip(BatchTransform):
    """Flip items at random, exactly, like :py:class:`monai.transforms.RandFlip`.

    Args:
        prob: probability of flipping an item, default 0.5.
        spatial_axis: the axis, from 0, or several, which flip independently. Defaults to 0.

    Raises:
        ValueError: When ``prob`` is not a probability.

    """

    def __init__(self, prob: float = 0.5, spatial_axis: int | Sequence[int] = 0) -> None:
        self.prob = check_prob(prob)
        self.axes = (spatial_axis,) if isinstance(spatial_axis, int) else tuple(spatial_axis)
        super().__init__(len(self.axes))

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, views: Sequence[int]) -> torch.Tensor:
        """Flip the items whose draw is below ``prob``."""
        flipped: dict[int, torch.Tensor] = {}
        for item, draws in enumerate((numbers < self.prob).tolist()):
            for axis, chosen in zip(self.axes, draws, strict=True):
                if chosen:
                    flipped[item] = flipped.get(item, images[item]).flip(1 + axis)
        return replace_items(images, flipped) if flipped else images


class BatchRandAffine(BatchTransform):
    """Rotate, shift and scale items at random in one resampling, linearly.

    With the same parameters :py:class:`monai.transforms.Affine` gives the same pictures to within rounding: an output
    voxel at ``p``, counted from the center, shows the input at ``R S p + R t``.

    Args:
        prob: probability of transforming an item, default 1.0; the others stay as they are, unresampled.
        rotate_range: largest angle in radians, in the plane or about each of three axes, default 0.0.
        translate_range: largest shift along each axis in pixels or voxels, default 0.0.
        scale_range: largest deviation of the common scale of all axes from 1, default 0.0; a scale above 1 shows
            more of the image.
        padding_mode: values outside the image: "border" (default), "zeros" or "reflection".

    Raises:
        ValueError: When ``prob`` is not a probability, a range negative, or the padding mode unknown.

    """

    def __init__(
        self,
        prob: float = 1.0,
        *,
        rotate_range: float = 0.0,
        translate_range: float = 0.0,
        scale_range: float = 0.0,
        padding_mode: str = "border",
    ) -> None:
        # how many angles and shifts are needed is known only with the first batch, so three of each are drawn
        super().__init__(8)
        for name, value in (("rotate", rotate_range), ("translate", translate_range), ("scale", scale_range)):
            if not 0 <= value < (1 if name == "scale" else math.inf):
                limit = " and below 1" if name == "scale" else ""
                raise ValueError(f"{name}_range: expected a number from 0 up{limit}, got {value}. 0 leaves it out.")
        self.prob = check_prob(prob)
        self.rotate_range = rotate_range
        self.translate_range = translate_range
        self.scale_range = scale_range
        self.padding_mode = str(look_up_option(padding_mode, GridSamplePadMode).value)

    def __call__(self, images: torch.Tensor, numbers: torch.Tensor, views: Sequence[int]) -> torch.Tensor:
        """Resample the items whose first draw is below ``prob``."""
        chosen = numbers[:, 0] < self.prob
        items, signed = torch.nonzero(chosen).flatten(), 2 * numbers[chosen, 1:] - 1
        if not len(items):
            return images
        dims = images.ndim - 2
        matrix = affine_matrix(
            angles=signed[:, : 1 if dims == 2 else 3] * self.rotate_range,
            shifts=signed[:, 3 : 3 + dims] * self.translate_range,
            scales=1 + signed[:, 6] * self.scale_range,
        )
        # on a CPU, one item at a time: it stays in the cache, so that sampling takes two thirds of the time
        size = 1 if images.device.type == "cpu" else len(items)
        moved: list[torch.Tensor] = []
        for some, matrices in zip(items.split(size), matrix.to(images).split(size), strict=True):
            given = images.index_select(0, some.to(images.device))
            moved += resample_affine(given, matrices, padding_mode=self.padding_mode).unbind(0)
        return replace_items(images, dict(zip(items.tolist(), moved, strict=True)))


def replace_items(images: torch.Tensor, others: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Return a batch with some items replaced; the given batch is not modified.

    Args:
        images: (B, C, X, Y[, Z]).
        others: replacements, (C, X, Y[, Z]), by their place in the batch.

    """
    # this writes each item once; overwriting items in a copy of the batch takes up to twice the time
    return torch.stack([others.get(place, image) for place, image in enumerate(images.unbind(0))])


def affine_matrix(*, angles: torch.Tensor, shifts: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return rotation, shift and scale as matrices that act on coordinates from the center.

    Args:
        angles: in radians, (B, 1) in 2-D; in 3-D (B, 3), about the axes 0, 1 and 2.
        shifts: in pixels or voxels, (B, D).
        scales: factors, (B,).

    Returns:
        ``[R S | R t]``, (B, D, D + 1): MONAI's order, rotation times translation times scale.

    """
    dims = shifts.shape[1]
    rotation = torch.eye(dims).repeat(len(shifts), 1, 1)
    # a rotation about axis k moves the other two axes; in 2-D there is one rotation
    planes = [(0, 1)] if dims == 2 else list(combinations(range(3), 2))[::-1]
    for angle, (i, j) in zip(angles.unbind(1), planes, strict=True):
        turn = torch.eye(dims).repeat(len(shifts), 1, 1)
        sine = angle.sin() if (i, j) != (0, 2) else -angle.sin()
        turn[:, i, i] = turn[:, j, j] = angle.cos()
        turn[:, i, j], turn[:, j, i] = -sine, sine
        rotation = rotation @ turn
    return torch.cat([rotation * scales[:, None, None], rotation @ shifts[:, :, None]], dim=2)


def resample_affine(images: torch.Tensor, matrix: torch.Tensor, *, padding_mode: str) -> torch.Tensor:
    """Return linearly resampled images.

    Args:
        images: (B, C, X, Y[, Z]).
        matrix: where each output voxel lies in the input, both counted in voxels from the center, (B, D, D + 1).
        padding_mode: as for :py:func:`torch.nn.functional.grid_sample`.

    """
    sizes = images.shape[2:]
    dims = len(sizes)
    # grid_sample counts from -1 to 1 between the outer edges, and takes the last axis first
    matrix = (matrix * matrix.new_tensor([2.0 / size for size in sizes])[:, None]).flip(1)
    grid = matrix[:, :, dims].reshape(len(images), dims, *[1] * dims)
    # small axes outside, coordinates in planes: this takes a tenth of the time of a matrix product per voxel
    for axis, size in enumerate(sizes):
        place = torch.arange(size, dtype=images.dtype, device=images.device) - (size - 1) / 2
        shape = [size if other == axis else 1 for other in range(dims)]
        grid = grid + matrix[:, :, axis].reshape(len(images), dims, *[1] * dims) * place.reshape(shape)
    grid = grid.movedim(1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding_mode, align_corners=False)
