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

"""Drawing tools that the phantoms share: coordinates, noise, shapes, and a camera model."""

from __future__ import annotations

from typing import cast

import numpy as np
from PIL import Image

__all__ = [
    "between",
    "blend",
    "blur",
    "fourier_ring",
    "photograph",
    "pixel_grid",
    "ramp",
    "rough",
    "segment_distance",
    "turn",
]


def pixel_grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the x and y coordinates of a square image, both from -1 to 1, y downwards.

    Args:
        size: edge of the image in pixels.
    """
    axis = (np.arange(size) + 0.5) * (2.0 / size) - 1.0
    x, y = np.meshgrid(axis, axis)
    return x, y


def turn(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Turn coordinates by an angle in radians."""
    c, s = np.cos(angle), np.sin(angle)
    return c * x + s * y, c * y - s * x


def between(angle: np.ndarray, direction: float) -> np.ndarray:
    """Return the angle between directions, all in radians, from 0 to pi."""
    return np.abs((angle - direction + np.pi) % (2.0 * np.pi) - np.pi)


def ramp(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """Return the cubic step from 0 at ``low`` to 1 at ``high``; with ``low`` above ``high`` it falls.

    Example::

        >>> ramp(0.0, 1.0, np.array([-1.0, 0.5, 2.0])).tolist()
        [0.0, 0.5, 1.0]

    """
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return cast(np.ndarray, t * t * (3.0 - 2.0 * t))


def rough(rng: np.random.Generator, size: int, cells: float) -> np.ndarray:
    """Return smooth random noise, interpolated from a grid of mean 0 and variance 1.

    Args:
        rng: source of the noise.
        size: edge of the image in pixels.
        cells: number of bumps along an edge.
    """
    coarse = rng.standard_normal((round(cells) + 3, round(cells) + 3)).astype(np.float32)
    # the box leaves out the outermost cells, whose interpolation is one-sided
    box = (1, 1, coarse.shape[1] - 1, coarse.shape[0] - 1)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC, box=box), dtype=float)


def fourier_ring(rng: np.random.Generator, angle: np.ndarray, amplitude: float, *, orders: int = 5) -> np.ndarray:
    """Return a random periodic function of an angle, for the outline of something that is not quite round.

    Args:
        rng: source of the coefficients.
        angle: angles in radians.
        amplitude: standard deviation of the first coefficients; order ``k`` has a ``k``-th of it.
        orders: number of harmonics, from the second on (the first one would only move the shape).
    """
    total = np.zeros_like(angle)
    for k in range(2, orders + 2):
        a, b = rng.normal(0.0, amplitude / k, 2)
        total += a * np.cos(k * angle) + b * np.sin(k * angle)
    return total


def segment_distance(
    x: np.ndarray, y: np.ndarray, start: tuple[float, float], end: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the distance to a straight segment and the position along it, 0 at its start and 1 at its end.

    Args:
        x: x coordinates.
        y: y coordinates.
        start: x and y of the first end.
        end: x and y of the second end.
    """
    dx, dy = end[0] - start[0], end[1] - start[1]
    along = np.clip(((x - start[0]) * dx + (y - start[1]) * dy) / (dx * dx + dy * dy), 0.0, 1.0)
    return np.hypot(x - start[0] - along * dx, y - start[1] - along * dy), along


def blend(image: np.ndarray, color: np.ndarray | tuple[float, float, float], alpha: np.ndarray) -> np.ndarray:
    """Lay a color over an RGB image.

    Args:
        image: array of shape (H, W, 3).
        color: one color, or one for each pixel.
        alpha: opacity of shape (H, W), 0 to 1.
    """
    return cast(np.ndarray, image + alpha[..., None] * (np.asarray(color) - image))


def blur(image: np.ndarray, sigma: float) -> np.ndarray:
    """Smooth the first two axes of an image with a Gaussian.

    Args:
        image: array of shape (H, W) or (H, W, C).
        sigma: standard deviation in pixels.
    """
    reach = int(np.ceil(3.0 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        pad = [(reach, reach) if a == axis else (0, 0) for a in range(image.ndim)]
        padded = np.pad(image, pad, mode="edge")
        length = image.shape[axis]
        image = sum(w * padded.take(range(k, k + length), axis=axis) for k, w in enumerate(weights))
    return image


def photograph(
    scene: np.ndarray,
    view: np.ndarray,
    *,
    group: np.random.Generator,
    item: np.random.Generator,
    exposure: tuple[float, float],
    tint: tuple[float, float, float],
    defocus: tuple[float, float],
    grain: tuple[float, float],
) -> np.ndarray:
    """Take a picture as a camera with automatic exposure and white balance does.

    The mean brightness within the view depends on the light and on chance, never on what the scene shows; the mean
    color depends on the scene only weakly.

    Args:
        scene: linear RGB of shape (H, W, 3).
        view: lit part of the image, shape (H, W), 0 to 1.
        group: the light and the camera of the group.
        item: exposure, focus and noise of this picture.
        exposure: range of the mean brightness, where white is 1.
        tint: mean color of the view under the usual light.
        defocus: range of the blur's standard deviation in pixels.
        grain: range of the noise's standard deviation, where white is 1.

    Returns:
        uint8 RGB of shape (H, W, 3).
    """
    light = np.exp(group.normal(0.0, 0.05, 3) + item.normal(0.0, 0.015, 3)) * np.array(tint)
    level = group.uniform(*exposure) * np.exp(item.normal(0.0, 0.06))
    mean = (scene * view[..., None]).sum((0, 1)) / view.sum()
    # the camera attributes half of a color cast to the light, and half to the scene
    balanced = scene * level * light / np.sqrt(mean * mean.mean())
    # a soft shoulder instead of clipping
    balanced = np.where(balanced < 0.8, balanced, 1.0 - 0.2 * np.exp((0.8 - balanced) / 0.2))
    surround = np.array([0.10, 0.09, 0.11]) * group.uniform(0.4, 1.8)
    lit = blur(surround + view[..., None] * (balanced - surround), item.uniform(*defocus))
    noise = item.normal(0.0, 1.0, lit.shape) * item.uniform(*grain) * np.sqrt(0.15 + lit.clip(0.0, 1.0))
    return np.clip(np.round((lit + noise) * 255.0), 0, 255).astype(np.uint8)
