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

from monai_weckd.data.blind import hidden, withhold
from monai_weckd.plan.label_kind import Label
from monai_weckd.utils.draws import derive
from monai_weckd.utils.enums import INDEX, UNLABELED, VIEW
from monai_weckd.utils.messages import check_item

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
        rank: number of this process among ``world_size``. It gets every ``world_size``-th item of the batch, so all
            ranks have equally many labeled and pool items, and the mean of their losses is the loss of the batch.
        world_size: number of processes that share a batch, default 1.
        weights: weight of each labeled item for drawing with replacement, default None: each comes once per
            pass. Pool items are drawn evenly, because weights may reveal their labels.

    Raises:
        ValueError: When all ``weights`` are 0.
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
        weights: Sequence[float] | None = None,
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
        self.shares = None if weights is None else _shares(weights)
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
        streams = [self._stream(self.labeled, self.batch_size, number=0, shares=self.shares)]
        if self.pool_ratio:
            streams.append(self._stream(self.pool, self.batch_size * self.pool_ratio, number=1))
        for parts in zip(*streams, strict=True):
            batch = list(chain.from_iterable(parts))
            yield batch[self.rank :: self.world_size]

    def _stream(
        self, indices: np.ndarray, count: int, *, number: int, shares: np.ndarray | None = None
    ) -> Iterator[list[tuple[int, int]]]:
        """Yield ``count`` entries at a time from an endless series of shuffled passes over ``indices``, with seeds."""

        # shuffle once per pass, not once per batch: a batch needs its own pass and perhaps the next
        @lru_cache(maxsize=2)
        def order(visit: int) -> np.ndarray:
            generator = np.random.default_rng([self.seed, self.stage, number, visit])
            if shares is None:
                return generator.permutation(indices)
            return generator.choice(indices, size=len(indices), p=shares)

        for iteration in range(self.start, self.num_batches):
            positions = np.arange(iteration * count, (iteration + 1) * count)
            visits, places = np.divmod(positions, len(indices))
            passes = range(visits[0], visits[-1] + 1)
            drawn = np.concatenate([order(visit)[places[visits == visit]] for visit in passes])
            # an item that is drawn twice in a pass gets two views
            turns = visits if shares is None else positions
            views = derive(self.seed, self.stage, drawn, turns % self.views if self.views else turns)
            yield list(zip(drawn.tolist(), views.tolist(), strict=True))


def _shares(weights: Sequence[float]) -> np.ndarray:
    values = np.asarray(weights, dtype=float)
    if not values.sum() > 0:
        raise ValueError(
            "sampler: expected a weight above 0 for an item of each stage, got only 0. "
            "Raise the weights, or leave it out."
        )
    return values / values.sum()


class StageDataset(Dataset):
    """Wrap a dataset for one stage, so that it shows the revealed labels and no others.

    A withheld label does not reach the transforms of the wrapped dataset: they get -1 in its place, and the result is
    replaced by ``UNLABELED``. Revealed labels pass through the transforms. The sampler's view seed
    seeds the random transforms of the wrapped dataset for each item. Besides image and label, an item has its ``index``
    and its ``view`` seed. If the transforms make a list of an item, such as crops, so does this dataset. A dataset with
    ``whole_batches`` and ``gather``, such as a :py:class:`~monai_weckd.data.ByteCacheDataset` without transforms for
    single items, gives whole batches at once.

    Args:
        dataset: a map-style dataset that reads its items, dictionaries, from its list ``data``; its ``transform``, if
            any, is seeded for each item.
        labels: the revealed labels by dataset index.
        label_key: key of the label in an item, default "label".
        num_classes: number of classes; a class number that the transforms make of a label must be below it. Default
            None: not checked.
        stand_in: class number that the transforms get in place of a withheld label, default -1.

    """

    def __init__(
        self,
        dataset: Any,
        labels: Mapping[int, Label],
        *,
        label_key: str = CommonKeys.LABEL,
        num_classes: int | None = None,
        stand_in: int = UNLABELED,
    ) -> None:
        self.labels = dict(labels)
        self.label_key = str(label_key)
        self.num_classes = num_classes
        # in the form of the labels
        self._withheld = hidden(next(iter(self.labels.values()), UNLABELED))
        self.dataset = dataset
        if not getattr(dataset, "whole_batches", False):
            self.dataset = withhold(dataset, self.labels, label_key=self.label_key, stand_in=stand_in)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        index, view = key
        transform = getattr(self.dataset, "transform", None)
        if isinstance(transform, Randomizable):
            transform.set_random_state(seed=view)
        item = self.dataset[index]
        if isinstance(item, list):  # MONAI's collation makes one batch of the parts of all items
            return [self._shown(part, index, view + place) for place, part in enumerate(item)]
        return self._shown(item, index, view)

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

    def _shown(self, item: Any, index: int, view: int) -> dict[str, Any]:
        check_item("train_data_loader", index, item)
        return {**item, self.label_key: self._transformed_label(index, item), INDEX: index, VIEW: view}

    def _label(self, index: int) -> Label:
        return self.labels.get(index, self._withheld)

    def _transformed_label(self, index: int, item: Mapping[str, Any]) -> Any:
        """Return what the transforms have made of a revealed label, and -1 in its type for any other."""
        if self.label_key not in item:
            return self._label(index)
        label = _as_class(item[self.label_key])
        if index not in self.labels:
            return hidden(label)
        if self.num_classes is not None and isinstance(label, int) and not 0 <= label < self.num_classes:
            raise ValueError(
                f"{self.label_key}: expected a class number below {self.num_classes} after the transforms, got {label} "
                f"for {item.get('id', index)!r}, which the plan gives class {self.labels[index]}. "
                "Look at the transforms of the label."
            )
        return label


def _as_class(label: Any) -> Any:
    """Return a single whole number as int, and any other label as it is, but without metadata."""
    if isinstance(label, torch.Tensor):
        label = label.as_subclass(torch.Tensor)
        whole = label.numel() == 1 and not label.is_floating_point()
        return int(label) if whole else label
    if isinstance(label, np.ndarray):
        return int(label.item()) if label.size == 1 and label.dtype.kind in "iub" else label
    return int(label) if hasattr(label, "__index__") else label
