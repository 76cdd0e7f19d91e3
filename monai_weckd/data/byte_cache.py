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

"""A dataset that decodes each image once and caches it as 8-bit or half-precision values."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import Dataset
from monai.transforms import Compose, Randomizable
from monai.utils import CommonKeys

from monai_weckd import __version__
from monai_weckd.data.content import UndescribedError, content_key, describe
from monai_weckd.data.item_level import each_image, images_in
from monai_weckd.data.prepared import image_error
from monai_weckd.data.row_store import RowStore
from monai_weckd.utils.messages import check_item
from monai_weckd.utils.progress import progress

__all__ = ["ByteCacheDataset"]

logger = logging.getLogger(__name__)

_CHUNK = 256


class ByteCacheDataset(Dataset):
    """Decode every image once, and keep all of them in one compact array, in memory or in a memory-mapped file.

    Use it like :py:class:`monai.data.CacheDataset`: the transforms before the first random one run once for each item,
    and the others run on each access. Only the storage differs. One array holds all images, as 8-bit numbers over
    ``value_range`` (the largest error is half a step, ``(high - low) / 510``) or else in half precision. Images come
    out as plain float32 tensors without metadata. :py:meth:`gather` returns a whole batch at once. Items of several
    images (``images``, see :py:func:`monai_weckd.data.group_images`) give theirs one by one, in :py:meth:`each_image`.

    With a ``cache_dir`` the array is a memory-mapped file, which later runs, resumed runs and the other processes of
    this run reuse. The key of a row is a digest of the image's bytes; a damaged row is computed again. The name of
    the folder is a digest of the transforms, the ``value_range`` and the versions of MONAI and this package.

    Args:
        data: items, dictionaries with the path of an image, or those of several under ``images``.
        transform: one transform or several; the deterministic ones must change the image alone.
        value_range: values to store as 0 and 255; values outside are clipped. Default None: half precision.
        cache_dir: folder for the array, default None: in memory.
        memory_mb: largest array to hold in memory, in MiB; a larger one needs a ``cache_dir``. Default 2048.
        num_workers: threads that decode, default 1.
        image_key: key of the image, default "image".

    Raises:
        TypeError: When an item is not a dictionary.
        ValueError: When an image has another shape than the first one, or the array is too large.
        ValueError: When a deterministic transform changes anything besides the image.

    Example::

        >>> import numpy as np
        >>> from monai.transforms import Compose, Lambdad
        >>> load = Compose([Lambdad("image", lambda size: torch.full((1, 2, 2), float(size)))])
        >>> dataset = ByteCacheDataset([{"image": 0}, {"image": 255}], load, value_range=(0, 255))
        >>> dataset[1]["image"].max(), dataset.gather([0, 1]).shape
        (tensor(255.), torch.Size([2, 1, 2, 2]))

    """

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable | Sequence[Callable],
        *,
        value_range: tuple[float, float] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        memory_mb: float = 2048,
        num_workers: int = 1,
        image_key: str = CommonKeys.IMAGE,
    ) -> None:
        if value_range is not None and not value_range[0] < value_range[1]:
            raise ValueError(f"value_range: expected (low, high), got {tuple(value_range)}. Pass the images' range.")
        if len(data) == 0:
            raise ValueError("data: expected at least one item, got none. Check the split.")
        for number, item in enumerate(data):
            check_item("data", number, item)
        if not isinstance(transform, Compose):
            transform = Compose(transform)
        steps = transform.flatten().transforms
        fixed = next((i for i, step in enumerate(steps) if isinstance(step, Randomizable)), len(steps))
        super().__init__(list(data), Compose(steps[fixed:]))
        self.load = Compose(steps[:fixed])
        self.value_range = None if value_range is None else (float(value_range[0]), float(value_range[1]))
        self.image_key = str(image_key)
        self.num_workers = num_workers
        listed = each_image(self.data, image_key=self.image_key)
        first = self._encode(self._decode(listed[0]))
        self.store = None if cache_dir is None else self._open(Path(cache_dir), first)
        if self.store is None:
            self.rows, self.row_of = self._fill_memory(listed, first, memory_mb)
        else:
            self.rows, self.row_of = self._fill_file(listed, self.store)

    def __getstate__(self) -> dict[str, Any]:
        # a mapped array would pickle its whole content, so the other process maps the file itself
        return {**vars(self), "rows": self.rows if self.store is None else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if self.store is not None:
            self.rows = self.store.map()

    @property
    def whole_batches(self) -> bool:
        """Whether :py:meth:`gather` gives complete batches because no transform is left for single items."""
        return not self.transform.transforms

    def gather(self, indices: Sequence[int]) -> torch.Tensor:
        """Return the images of several items, before any random transform.

        Args:
            indices: B positions in ``data``.

        Returns:
            (B, C, spatial dimensions), float32.

        Raises:
            ValueError: When an item has several images.

        """
        if len(self.row_of) != len(self.data):
            raise ValueError(
                f"data: expected items of one image, got {len(self.row_of)} images in {len(self.data)} items. Pool "
                "their features with backbone.embed of a FrozenBackbone."
            )
        return self._restore(torch.from_numpy(self.rows[self.row_of[np.asarray(indices)]]))

    def select(self, places: Sequence[int], data: Sequence[dict[str, Any]]) -> ByteCacheDataset:
        """Return a dataset of some of the images, which shares their array: no file is read.

        Args:
            places: positions of these images in ``data``.
            data: their items; only the image must be that of the item here.

        """
        rows = self.row_of
        if len(rows) == len(self.data):
            rows = rows[np.asarray(places)]
        else:
            parts = np.split(rows, np.cumsum([len(images_in(item)) for item in self.data])[:-1])
            rows = np.concatenate([parts[place] for place in places])
        return self._copy(list(data), rows)

    def each_image(self) -> ByteCacheDataset:
        """Return a dataset with an item for each image, which shares the array."""
        return self._copy(each_image(self.data, image_key=self.image_key), self.row_of)

    def _copy(self, data: list[dict[str, Any]], rows: np.ndarray) -> ByteCacheDataset:
        other = object.__new__(type(self))
        vars(other).update(vars(self), data=data, row_of=rows)
        return other

    def _transform(self, index: int) -> Any:
        item = {**self.data[index], self.image_key: self.gather([index])[0]}
        return self.transform(item)

    def _restore(self, rows: torch.Tensor) -> torch.Tensor:
        if self.value_range is None:
            return rows.float()
        low, high = self.value_range
        return rows.float().mul_((high - low) / 255).add_(low)

    def _encode(self, image: torch.Tensor) -> np.ndarray:
        if self.value_range is None:
            return image.half().numpy()
        low, high = self.value_range
        return ((image - low) * (255 / (high - low))).round().clamp(0, 255).byte().numpy()

    def _decode(self, item: dict[str, Any]) -> torch.Tensor:
        try:
            result = self.load(dict(item))
        except Exception as error:
            # monai.bundle shows the first cause of an error, which may not name the file
            raise image_error(item[self.image_key], error) from None
        changed = [key for key, value in item.items() if key != self.image_key and result.get(key) is not value]
        if changed or result.keys() != item.keys():
            keys = changed or sorted(map(str, result.keys() ^ item.keys()))
            raise ValueError(
                f"transform: expected to change {self.image_key!r} alone, got {', '.join(keys)} changed. "
                "Move that transform behind the first random one."
            )
        image = result[self.image_key].as_subclass(torch.Tensor).detach().cpu().float()
        if not torch.isfinite(image if self.value_range else image.half()).all():
            raise ValueError(
                f"{item[self.image_key]}: expected finite values, below 65,504 without a value_range, got others. "
                "Scale the image in the transform, pass a value_range or leave the image out."
            )
        return image

    def _encoded(self, items: Sequence[dict[str, Any]], shape: tuple[int, ...]) -> Iterator[np.ndarray]:
        """Yield the encoded images of the items, in order."""

        def encode(item: dict[str, Any]) -> np.ndarray:
            row = self._encode(self._decode(item))
            if row.shape != shape:
                raise ValueError(
                    f"{item[self.image_key]}: expected the shape {shape} of the first image, got {row.shape}. "
                    "Resize the images in the transform."
                )
            return row

        if self.num_workers <= 1:
            yield from progress(map(encode, items), "decoding", total=len(items))
            return
        with ThreadPoolExecutor(self.num_workers) as pool:
            yield from progress(pool.map(encode, items), "decoding", total=len(items))

    def _fill_memory(
        self, items: Sequence[dict[str, Any]], first: np.ndarray, memory_mb: float
    ) -> tuple[np.ndarray, np.ndarray]:
        needed = first.nbytes * len(items) / 2**20
        if needed > memory_mb:
            raise ValueError(
                f"memory_mb: expected at least {needed:.0f} for {len(items)} images, got {memory_mb:g}. "
                "Raise it, or pass a cache_dir."
            )
        rows = np.empty((len(items), *first.shape), dtype=first.dtype)
        for index, row in enumerate(self._encoded(items, first.shape)):
            rows[index] = row
        return rows, np.arange(len(items))

    @property
    def recipe(self) -> str:
        """Transforms, ``value_range`` and versions as JSON; together with the files, they determine the images."""
        return json.dumps([describe(self.load), self.image_key, self.value_range, __version__])

    def _open(self, cache_dir: Path, first: np.ndarray) -> RowStore | None:
        try:
            name = hashlib.blake2b(self.recipe.encode(), digest_size=10).hexdigest()
        except UndescribedError as error:
            logger.warning("cache_dir: not used. %s", error)
            return None
        return RowStore(cache_dir / name, first.shape, first.dtype)

    def _fill_file(self, items: Sequence[dict[str, Any]], store: RowStore) -> tuple[np.ndarray, np.ndarray]:
        archives: dict[str, str] = {}
        keys = [content_key(item[self.image_key], archives) for item in items]
        with store.lock():
            known = store.find(keys)
            new = {key: item for key, item in zip(keys, items, strict=True) if key not in known}
            encoded, names = self._encoded(list(new.values()), store.shape), iter(new)
            while chunk := list(islice(encoded, _CHUNK)):
                known |= store.append(list(islice(names, len(chunk))), np.stack(chunk))
        return store.map(), np.array([known[key] for key in keys])
