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

"""A dataset that replaces images with their embeddings by a frozen backbone."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from monai.transforms import Compose, Randomizable
from monai.utils import CommonKeys
from torch.utils.data import Dataset

from monai_weckd.data.content import content_key
from monai_weckd.data.item_level import has_several, images_in
from monai_weckd.data.row_store import RowStore
from monai_weckd.networks.features import images_of
from monai_weckd.utils.enums import IMAGES
from monai_weckd.utils.messages import check_item
from monai_weckd.utils.progress import Progress

__all__ = ["Backbone", "EmbeddingDataset", "feature_moments", "pooled", "single_images", "wrapped_images"]

_CHUNK = 8  # images at a time: their activations stay in memory that the allocator keeps

logger = logging.getLogger(__name__)


class Backbone(Protocol):
    """Interface of the object that computes embeddings, such as ``monai_weckd.handlers.FrozenBackbone``."""

    def embeddings(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """Return the embeddings, (N, D), of batches of images."""

    def fingerprint(self) -> str:
        """Return a digest of everything that determines the embeddings."""


class EmbeddingDataset(Dataset):
    """Replace the images of a dataset with their embeddings, (D,), by a frozen backbone.

    On first use, each image passes through the backbone once, without random transforms. One array keeps the embeddings
    of all items in single precision, 4 D bytes for an item. With a ``cache_dir`` the array is a memory-mapped file,
    which later runs and other processes reuse. The key of a row is a digest of the image's bytes. The name of the
    folder is a digest of the backbone and of the transforms that make the images.

    An item of several images (``images``, see :py:func:`monai_weckd.data.group_images`) has the mean of their
    embeddings: it is one row, whatever the number of its images. That of an item of one image is that image's, bit for
    bit.

    Args:
        dataset: a :py:class:`~monai_weckd.data.ByteCacheDataset`, or another map-style dataset of dictionaries with
            ``image``, whose list is in ``data`` and whose transforms are not random.
        backbone: computes the embeddings.
        cache_dir: folder for the array, default None: in memory.

    Raises:
        TypeError: When its items are not dictionaries.
        ValueError: When the dataset has random transforms that cannot be left out, or cannot be kept in a file.

    Example::

        >>> from monai_weckd.handlers import FrozenBackbone
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
        >>> dataset = FrozenBackbone(network).embed([{"image": torch.zeros(1, 2, 2), "label": 1}])
        >>> dataset[0]["image"].shape, dataset[0]["label"], dataset.gather([0, 0]).shape
        (torch.Size([3]), 1, torch.Size([2, 3]))

    """

    def __init__(
        self,
        dataset: Any,
        backbone: Backbone,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if not hasattr(dataset, "gather") and _is_random(getattr(dataset, "transform", None)):
            raise ValueError(
                "dataset: expected transforms that are not random, got others, and an image has one embedding. "
                "Use ByteCacheDataset, which can leave them out."
            )
        if cache_dir is not None and not hasattr(dataset, "recipe"):
            raise ValueError(
                f"cache_dir: expected None for a {type(dataset).__name__}, got {str(cache_dir)!r}. "
                "Use ByteCacheDataset to keep embeddings in a file."
            )
        for item in islice(getattr(dataset, "data", dataset), 1):
            check_item("dataset", 0, item)
        single_images(dataset)
        self.images = dataset
        self.backbone: Any = backbone
        self.cache_dir = None if cache_dir is None else Path(cache_dir)
        self.store: RowStore | None = None
        self.made_by: str | None = None
        self._rows: Any = None
        self._row_of = np.arange(len(dataset))
        # of the last items asked for; selections of the same dataset share it
        self._moments: dict[bytes, tuple[torch.Tensor, torch.Tensor]] = {}
        self._rest: list[dict[str, Any]] = []

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        # a loader's worker needs the embeddings, not the network; it maps a file itself
        rows = self.rows
        return {**vars(self), "backbone": None, "_rows": rows if self.store is None else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.store is not None:
            self._rows = self.store.map()

    @property
    def data(self) -> Any:
        """The wrapped dataset's list of items."""
        return getattr(self.images, "data", self.images)

    @property
    def image_key(self) -> str:
        """The key of the image, and of the embedding, in an item."""
        return str(getattr(self.images, "image_key", CommonKeys.IMAGE))

    @property
    def whole_batches(self) -> bool:
        """Whether :py:meth:`gather` gives complete batches: always."""
        return True

    def __getitem__(self, index: int) -> Any:
        embedding = self.gather([index])[0]
        item = {**(self._rest[index] if self._rest else self.data[index]), self.image_key: embedding}
        if has_several(self.data):
            del item[IMAGES]  # batches cannot hold lists of different lengths
        return item

    def gather(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the embeddings of several items, (B, D).

        Args:
            indices: B positions in ``data``.

        """
        return torch.from_numpy(np.asarray(self.rows[self._row_of[np.asarray(indices)]]))

    def fill(self, fingerprint: str) -> bool:
        """Compute the embeddings unless they are up to date, and return whether they were computed.

        Args:
            fingerprint: fingerprint of the current backbone.

        """
        if self._rows is not None and self.made_by == fingerprint:
            return False
        images = single_images(self.images)
        if self.cache_dir is None:
            self._rest = []
            self._row_of = np.arange(len(images))
            self._rows = np.concatenate([rows for _, rows in self._embedded(images, range(len(images)))])
        else:
            self._fill_file(images, self.cache_dir, json.dumps([fingerprint, self.images.recipe]))
        if images is not self.images:
            self._rows = pooled(self._rows, self._row_of, [len(images_in(item)) for item in self.data])
            self._row_of, self.store = np.arange(len(self)), None
        self.made_by, self._moments = fingerprint, {}
        return True

    @property
    def rows(self) -> np.ndarray:
        """All embeddings, (number of different images, D)."""
        if self._rows is None:
            self.fill(self.backbone.fingerprint())
        return self._rows

    def select(self, places: Sequence[int], data: Sequence[dict[str, Any]]) -> EmbeddingDataset:
        """Return a dataset of some of the images, which shares their embeddings: none is computed again.

        Args:
            places: positions of these images in ``data``.
            data: their items; only the image must be that of the item here.

        """
        other = object.__new__(type(self))
        vars(other).update(vars(self), images=self.images.select(places, data))
        other._row_of = self._row_of[np.asarray(places)]
        return other

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of each feature over all items, (D,), float64; computed once."""
        rows, key = self.rows, self._row_of.tobytes()
        if key not in self._moments:
            self._moments.clear()
            self._moments[key] = feature_moments(torch.from_numpy(np.asarray(rows[self._row_of])))
        return self._moments[key]

    def _embedded(self, images: Any, indices: Sequence[int]) -> Iterator[tuple[Sequence[int], np.ndarray]]:
        """Yield positions of single images in chunks of B, with their embeddings, (B, D)."""
        with Progress("embedding", len(indices)) as shown:
            for first in range(0, len(indices), _CHUNK):
                chunk = indices[first : first + _CHUNK]
                yield chunk, self.backbone.embeddings([self._read(images, chunk)]).numpy()
                shown.move(first + len(chunk))

    def _read(self, images: Any, indices: Sequence[int]) -> torch.Tensor:
        if hasattr(images, "gather"):
            return images_of(images, indices)
        items = []
        for index in indices:
            item = images[index]
            check_item("dataset", index, item)
            items.append(dict(item))
        batch = torch.stack([torch.as_tensor(item.pop(self.image_key)).as_subclass(torch.Tensor) for item in items])
        self._rest += items
        return batch

    def _fill_file(self, images: Any, cache_dir: Path, recipe: str) -> None:
        size = self.backbone.embeddings([self._read(images, [0])]).shape[1]
        name = hashlib.blake2b(recipe.encode(), digest_size=10).hexdigest()
        self.store = store = RowStore(cache_dir / f"embeddings_{name}", (size,), np.dtype(np.float32))
        archives: dict[str, str] = {}
        keys = [content_key(item[self.image_key], archives) for item in getattr(images, "data", images)]
        with store.lock():
            known = store.find(keys)
            new = {key: index for index, key in enumerate(keys) if key not in known}
            for chunk, rows in self._embedded(images, list(new.values())):
                known |= store.append([keys[index] for index in chunk], rows)
        self._rows, self._row_of = store.map(), np.array([known[key] for key in keys])


def single_images(dataset: Any) -> Any:
    """Return a dataset with an item for each image, which is the same one where each item has one image.

    Args:
        dataset: a :py:class:`~monai_weckd.data.ByteCacheDataset`, or another dataset whose items have one image.

    Raises:
        ValueError: When items of another dataset have several images.

    """
    if not has_several(getattr(dataset, "data", None)):
        return dataset
    if not hasattr(dataset, "each_image"):
        raise ValueError(
            f"dataset: expected a ByteCacheDataset for items of several images, got a {type(dataset).__name__}. "
            "Use ByteCacheDataset."
        )
    return dataset.each_image()


def pooled(rows: np.ndarray, row_of: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Return the mean of the rows of each item, (number of items, D), float32.

    Args:
        rows: features of images, (number of different images, D).
        row_of: row of each image, those of an item one after another, (sum of ``counts``,).
        counts: number of images of each item.

    Example::

        >>> pooled(np.float32([[1], [3], [9]]), np.arange(3), [2, 1])
        array([[2.],
               [9.]], dtype=float32)

    """
    parts = np.split(row_of, np.cumsum(counts)[:-1])
    return np.stack([rows[part].mean(axis=0, dtype=np.float64) for part in parts]).astype(np.float32)


def wrapped_images(dataset: Any) -> Any:
    """Return the dataset that an :py:class:`EmbeddingDataset` wraps; return any other dataset unchanged.

    Args:
        dataset: a dataset.

    """
    return dataset.images if isinstance(dataset, EmbeddingDataset) else dataset


def feature_moments(rows: torch.Tensor, chunk: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation of each feature, (D,), float64.

    Args:
        rows: features, (N, D).
        chunk: rows that are in double precision at a time, default 4096.

    """
    mean = rows.mean(dim=0, dtype=torch.float64)
    squares = torch.zeros_like(mean)
    for part in rows.split(chunk):
        squares += (part - mean).square().sum(dim=0)
    return mean, (squares / len(rows)).sqrt()


def _is_random(transform: Any) -> bool:
    steps = transform.flatten().transforms if isinstance(transform, Compose) else [transform]
    return any(isinstance(step, Randomizable) for step in steps)
