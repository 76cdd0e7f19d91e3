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

"""Prepare an image as training does, with errors that name the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from monai.utils import CommonKeys, MetaKeys

from monai_weckd.data.content import UndescribedError, describe
from monai_weckd.data.dicom.references import folder_of
from monai_weckd.data.image_reader import check_bits, read_image
from monai_weckd.utils.errors import explaining_error, plain_reason

__all__ = ["Preparation", "image_error", "load_image"]


class Preparation:
    """Check that images pass through the deterministic transforms of a training.

    The transforms run on images of a kind until one passes. Images are of one kind if they have the same number
    of dimensions and channels, the same orientation, and sizes and voxels that agree to a factor of two. So most
    images are prepared only once, in training, and each odd one is checked. The bits of the values are checked of each
    image.

    Args:
        transform: maps ``{"image": path}`` to a dictionary with the network's input as ``image``.
        spatial_dims: number of spatial dimensions of the network's input, default None: any.

    Attributes:
        recipe: describes the transforms, so that checks with other transforms do not count.

    """

    def __init__(self, transform: Callable, spatial_dims: int | None = None) -> None:
        self.transform, self.spatial_dims = transform, spatial_dims
        self._passed: set[tuple[Any, ...]] = set()
        loaders = (getattr(part, "loader", None) for part in getattr(transform, "transforms", [transform]))
        self._bits = next((bits for loader in loaders if (bits := getattr(loader, "bits", None)) is not None), None)
        try:
            self.recipe = json.dumps([describe(transform), spatial_dims])
        except UndescribedError:  # its code may change, so checks count for this object only
            self.recipe = uuid4().hex

    def check(self, path: str, array: np.ndarray, meta: dict[str, Any]) -> None:
        """Refuse an image that the transforms of training do not accept.

        Args:
            path: the image.
            array: the image as it is stored, channel-first.
            meta: its metadata.

        Raises:
            ValueError: When they raise an error, or give another number of dimensions, or its values need more bits
                than :py:class:`~monai_weckd.transforms.LoadMedicalImaged` takes.

        """
        if self._bits is not None:
            check_bits(array, self._bits, path)
        kind = _kind(array, np.asarray(meta[MetaKeys.AFFINE], dtype=np.float64))
        if kind in self._passed:
            return
        load_image(self.transform, path, self.spatial_dims)
        self._passed.add(kind)


def load_image(preprocessing: Callable, path: str, spatial_dims: int | None) -> torch.Tensor:
    """Return an image as input of a network, (C, spatial dimensions).

    Args:
        preprocessing: maps ``{"image": path}`` to a dictionary with the network's input as ``image``.
        path: a file, or a folder with a DICOM series.
        spatial_dims: number of spatial dimensions that the network expects; None: any.

    Raises:
        ValueError: When the image cannot be read, or has another number of dimensions; the message is one line.

    """
    try:
        image = torch.as_tensor(preprocessing({CommonKeys.IMAGE: path})[CommonKeys.IMAGE])
    except Exception as error:  # a decoder may raise anything for damaged bytes
        raise _dimensions_error(path, spatial_dims) or image_error(path, error) from error
    if spatial_dims is not None and image.ndim != spatial_dims + 1:
        raise ValueError(f"{path}: expected an image of {spatial_dims} dimensions, got {image.ndim - 1}. Leave it out.")
    return image.as_subclass(torch.Tensor)


def _dimensions_error(path: str, spatial_dims: int | None) -> ValueError | None:
    """Return an error about the dimensions of an image if these are the reason; None otherwise."""
    try:
        shape = read_image(path)[0].shape[1:]
    except (ValueError, OSError):  # the first error says why it cannot be read
        return None
    if spatial_dims in (None, len(shape)):
        return None
    return ValueError(
        f"{path}: expected an image of {spatial_dims} dimensions, got {len(shape)} "
        f"({' x '.join(map(str, shape))}). Convert it or leave it out."
    )


def image_error(path: Any, error: Exception) -> ValueError:
    """Return an error of one line that names the image, from whatever a transform has raised.

    Args:
        path: the image.
        error: the error.

    """
    cause = explaining_error(error)
    reason = " ".join(str(cause).split())
    if str(path) in reason:
        return ValueError(reason)
    if str(folder_of(path)) in reason:  # a file of a series
        return ValueError(f"{path}: expected the slices of one volume, got others. {reason}")
    reason = plain_reason(cause, otherwise=f"a transform fails: {reason.rstrip('.')}")
    return ValueError(
        f"{path}: expected an image that can be prepared, got one that cannot ({reason}). "
        "Repair the file or leave it out."
    )


def _kind(array: np.ndarray, affine: np.ndarray) -> tuple[Any, ...]:
    """Return the properties of an image that decide whether the transforms succeed."""
    if not np.isfinite(affine).all():
        return (*array.shape, affine.tobytes())
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    steps = np.rint(np.log2(np.maximum(sizes, np.finfo(float).tiny)))
    directions = np.rint(affine[:3, :3] / np.where(sizes > 0, sizes, 1))
    shape = tuple(size.bit_length() for size in array.shape[1:])
    return (array.shape[0], array.dtype.kind, *shape, *steps, directions.tobytes())
