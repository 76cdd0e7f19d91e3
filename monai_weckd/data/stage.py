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

"""The batches of a stage: a deterministic batch sampler, and a dataset that hides unrevealed labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable
from monai.utils import CommonKeys
from torch.utils.data import Dataset, Sampler

from monai_weckd.utils.draws import derive
from monai_weckd.utils.enums import INDEX, UNLABELED, VIEW

__all__ = ["StageBatchSampler", "StageDataset"]


class StageBatchSampler(Sampler[list[tuple[int, int]]]):
    """Draw the batches of one stage as a pure function of seed, stage and iteration.

    Every index comes once per pass over the shard. Passes follow each other without regard to epochs, so a shard
    smaller than a batch is repeated and ``epoch_length`` stays constant over the chain. Each batch is a list of
    ``(index, view seed)`` pairs for :py:class:`StageDataset`. The sampler keeps no generator: batch ``i`` is the same
    whether the sampler began at 0 or at ``i``, in this process or in a loader's worker. The view seed is a function of
    seed, stage, index and how often the stage has drawn the item.

    Args:
        labeled: dataset indices whose labels the stage trains on.
        pool: dataset indices of items drawn without their labels.
        batch_size: number of labeled items in a batch, over all ranks.
        pool_ratio: number of pool items for each labeled item in a batch, default 0.
        views: number of views of an item in a stage, which then repeat in turn; default 0: a new view each time.
        num_batches: number of batches in the stage.
        seed: seed of the chain.
        stage: stage number, from 1.
        start: number of the first batch, when a stage resumes in the middle, default 0.
        rank: number of this process among ``world_size``. It gets every ``world_size``-th item of the batch, so every
            rank has as many labeled and pool items as any other, and the mean of the ranks' losses is the batch's.
        world_size: number of processes that share a batch, default 1.

    Raises:
        ValueError: When ``labeled`` is empty, or ``pool_ratio`` is above 0 and ``pool`` is empty.
        ValueError: When ``batch_size`` is smaller than ``world_size``, or not a multiple of it.

    Example::

        >>> sampler = StageBatchSampler([4, 5, 6], batch_size=2, num_batches=3, seed=0, stage=1)
        >>> [len(batch) for batch in sampler]
        [2, 2, 2]
        >>> tail = StageBatchSampler([4, 5, 6], batch_size=2, num_batches=3, seed=0, stage=1, start=2)
        >>> list(sampler)[2:] == list(tail)
        True

    """

    def __init__(
        self,
        labeled: Sequence[int],
        pool: Sequence[int] = (),
        *,
        batch_size: int,
        num_batches: int,
        seed: int,
        stage: int,
        pool_ratio: int = 0,
        views: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(labeled) == 0:
            raise ValueError("labeled: expected at least one item, got none. Raise label_fraction.")
        if pool_ratio > 0 and len(pool) == 0:
            raise ValueError(f"pool_ratio: expected 0 where the pool is empty, got {pool_ratio}. Pass pool_ratio=0.")
        if views < 0:
            raise ValueError(f"views: expected a number from 0 up, got {views}. 0 gives a new view each time.")
        if batch_size < world_size:
            raise ValueError(
                f"batch_size: expected at least one for each of {world_size} processes, got {batch_size}. Raise it."
            )
        if batch_size % world_size:
            raise ValueError(
                f"batch_size: expected a multiple of {world_size}, the number of processes, got {batch_size}. "
                "Give every process as many items as the others."
            )
        self.labeled = np.asarray(labeled)
        self.pool = np.asarray(pool)
        self.batch_size = batch_size
        self.pool_ratio = pool_ratio
        self.views = views
        self.num_batches = num_batches
        self.seed = seed
        self.stage = stage
        self.start = start
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_batches - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        streams = [self._stream(self.labeled, self.batch_size, number=0)]
        if self.pool_ratio:
            streams.append(self._stream(self.pool, self.batch_size * self.pool_ratio, number=1))
        for parts in zip(*streams, strict=True):
            batch = list(chain.from_iterable(parts))
            yield batch[self.rank :: self.world_size]

    def _stream(self, indices: np.ndarray, count: int, *, number: int) -> Iterator[list[tuple[int, int]]]:
        """Yield ``count`` entries at a time from an endless series of shuffled passes over ``indices``, with seeds."""

        # shuffle once per pass, not once per batch: a batch needs its own pass and perhaps the next
        @lru_cache(maxsize=2)
        def order(visit: int) -> np.ndarray:
            return np.random.default_rng([self.seed, self.stage, number, visit]).permutation(indices)

        for iteration in range(self.start, self.num_batches):
            visits, places = np.divmod(np.arange(iteration * count, (iteration + 1) * count), len(indices))
            passes = range(visits[0], visits[-1] + 1)
            drawn = np.concatenate([order(visit)[places[visits == visit]] for visit in passes])
            views = derive(self.seed, self.stage, drawn, visits % self.views if self.views else visits)
            yield list(zip(drawn.tolist(), views.tolist(), strict=True))


class StageDataset(Dataset):
    """Wrap a dataset for one stage, so that it shows the revealed labels and no others.

    The label of each item is replaced by the revealed one, or by ``UNLABELED``. The sampler's view seed seeds the
    random transforms of the wrapped dataset for each item. Besides image and label, an item has its ``index`` and its
    ``view`` seed. A dataset with ``whole_batches`` and ``gather``, such as a
    :py:class:`~monai_weckd.data.ByteCacheDataset` without transforms for single items, gives whole batches at once.

    Args:
        dataset: a map-style dataset of dictionaries; its ``transform``, if any, is seeded for each item.
        labels: the revealed labels by dataset index.
        label_key: key of the label in an item, default "label".

    """

    def __init__(self, dataset: Any, labels: Mapping[int, int], *, label_key: str = CommonKeys.LABEL) -> None:
        self.dataset = dataset
        self.labels = dict(labels)
        self.label_key = str(label_key)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        index, view = key
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=view)
        return {**self.dataset[index], self.label_key: self._label(index), INDEX: index, VIEW: view}

    def __getitems__(self, keys: list[tuple[int, int]]) -> Any:
        if not getattr(self.dataset, "whole_batches", False):
            return [self[key] for key in keys]
        indices, views = zip(*keys, strict=True)
        return {
            self.dataset.image_key: self.dataset.gather(indices),
            self.label_key: torch.tensor([self._label(index) for index in indices]),
            INDEX: torch.tensor(indices),
            VIEW: torch.tensor(views),
        }

    def _label(self, index: int) -> int:
        return self.labels.get(index, UNLABELED)
