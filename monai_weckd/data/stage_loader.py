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

"""Build the data loader of a stage from the trainer's own loader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from threading import Thread
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import DistributedSampler as MonaiDistributedSampler
from monai.data import DistributedWeightedRandomSampler, SmartCacheDataset, ThreadDataLoader
from monai.data.utils import worker_init_fn as monai_worker_init_fn
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, SequentialSampler, WeightedRandomSampler

from monai_weckd.data.stage import StageBatchSampler, StageDataset
from monai_weckd.plan.label_kind import Label
from monai_weckd.plan.splits import identify
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.messages import check_item

__all__ = ["check_loader", "collate_batch", "stage_loader", "training_items"]

_WEIGHTED = (WeightedRandomSampler, DistributedWeightedRandomSampler)
# samplers that draw every item once per epoch, as a stage does with its own items
_EVEN = (SequentialSampler, RandomSampler, DistributedSampler, MonaiDistributedSampler)


def training_items(loader: Iterable | DataLoader) -> list[dict[str, Any]]:
    """Return the data list of a training loader, with the ``id`` and ``group`` that a plan needs.

    An item without ``id`` gets its image path as id. An item without ``group`` is a group of its own.

    Args:
        loader: a ``DataLoader`` whose dataset keeps its data list in ``data``, as MONAI's datasets do.

    Raises:
        TypeError: When there is no such list of dictionaries.

    """
    dataset = getattr(loader, "dataset", None)
    data = getattr(dataset, "data", None)
    if not isinstance(loader, DataLoader) or not isinstance(data, Sequence):
        got = f"one over {type(dataset).__name__}" if isinstance(loader, DataLoader) else type(loader).__name__
        raise TypeError(
            f"train_data_loader: expected a DataLoader over a MONAI dataset of dictionaries, got {got}. "
            "Use monai.data.Dataset or CacheDataset, whose `data` is the list of items."
        )
    for number, item in enumerate(data):
        check_item("train_data_loader", number, item)
    if isinstance(loader.dataset, SmartCacheDataset):
        raise TypeError(
            "train_data_loader: expected a dataset whose items keep their places, got SmartCacheDataset, which replaces"
            " them. Use monai.data.CacheDataset."
        )
    return identify(data)


def check_loader(loader: Any) -> None:
    """Refuse a training loader whose way of drawing items cannot be kept within a stage.

    Args:
        loader: the trainer's own loader.

    Raises:
        TypeError: When it makes batches in a way of its own, or its workers are threads.
        ValueError: When it has no ``batch_size``.
        TypeError: When its sampler is neither even nor weighted.
        ValueError: When some items have no weight.

    """
    _check_kind(loader)
    if loader.batch_size is None:
        raise ValueError(
            "train_data_loader: expected a batch_size, got None. Pass batch_size instead of a batch_sampler."
        )
    sampler = loader.sampler
    # not a subclass, which may draw differently
    if type(sampler) not in (*_WEIGHTED, *_EVEN):
        raise TypeError(
            f"sampler: expected none, shuffle or a WeightedRandomSampler, got {type(sampler).__name__}. "
            "A stage draws from its own items: remove other items from the dataset, or pass weights."
        )
    weights = getattr(sampler, "weights", None)
    if weights is not None and len(weights) != len(loader.dataset):
        raise ValueError(
            f"sampler: expected a weight for each of {len(loader.dataset)} items, got {len(weights)}. Pass them all."
        )


def _check_kind(loader: Any) -> None:
    """Refuse what a stage's plain ``DataLoader`` would not do."""
    if type(loader).__iter__ not in (DataLoader.__iter__, ThreadDataLoader.__iter__):
        raise TypeError(
            f"train_data_loader: expected the batches of a DataLoader, got {type(loader).__name__} with an __iter__ of "
            "its own. Move what it does to a batch to collate_fn."
        )
    repeats = getattr(loader, "repeats", 1)
    if repeats != 1:
        raise TypeError(f"repeats: expected 1, got {repeats}. Pass a larger epoch_length or max_epochs instead.")
    if issubclass(getattr(loader.multiprocessing_context, "Process", object), Thread):
        raise TypeError(
            "use_thread_workers: expected False, got True. Threads share the random state of the transforms, so that "
            "no run could be repeated; workers are processes."
        )


def _weights(sampler: Any) -> Any:
    """Return the weights by which a sampler draws, None if it draws every item once."""
    if type(sampler) not in _WEIGHTED:
        return None
    once = not getattr(sampler, "replacement", True) and sampler.num_samples == len(sampler.weights)
    return None if once else sampler.weights


def stage_loader(
    template: Any,
    *,
    labels: Mapping[int, Label],
    pool: Sequence[int],
    pool_ratio: int,
    num_batches: int,
    seed: int,
    stage: int,
    views: int = 0,
    start: int = 0,
    num_classes: int | None = None,
    stand_in: int = UNLABELED,
) -> DataLoader:
    """Return the loader of one stage, with the dataset, batch size, workers and collation of a template.

    Weights of the template's sampler apply to the labeled items. Order and seeds come from ``seed``, not from the
    template's ``generator``; all batches are full, with or without ``drop_last``.

    Args:
        template: the trainer's own loader; ``batch_size`` counts the labeled items on each rank.
        labels: the revealed labels by dataset index.
        pool: dataset indices of items drawn without their labels.
        pool_ratio: pool items for each labeled item.
        num_batches: number of batches in the stage.
        seed: seed of the chain.
        stage: stage number, from 1.
        views: number of views of an item, default 0: a new view each time.
        start: number of the first batch, when a stage resumes in the middle, default 0.
        num_classes: see :py:class:`StageDataset`.
        stand_in: see :py:class:`StageDataset`.

    Raises:
        ValueError: When the template has no ``batch_size``.
        TypeError: When its sampler is neither even nor weighted.

    """
    check_loader(template)
    weights = _weights(template.sampler)
    world_size = idist.get_world_size()
    sampler = StageBatchSampler(
        sorted(labels),
        pool,
        batch_size=template.batch_size * world_size,
        pool_ratio=pool_ratio,
        num_batches=num_batches,
        seed=seed,
        stage=stage,
        views=views,
        start=start,
        rank=idist.get_rank(),
        world_size=world_size,
        weights=None if weights is None else [float(weights[index]) for index in sorted(labels)],
    )
    init = template.worker_init_fn
    return DataLoader(
        StageDataset(template.dataset, labels, num_classes=num_classes, stand_in=stand_in),
        batch_sampler=sampler,
        num_workers=template.num_workers,
        collate_fn=partial(collate_batch, template.collate_fn),
        pin_memory=template.pin_memory,
        timeout=template.timeout,
        multiprocessing_context=template.multiprocessing_context,
        prefetch_factor=template.prefetch_factor,
        persistent_workers=template.persistent_workers,
        # MONAI's own seeds the transforms of a worker, which here have a seed for each item
        worker_init_fn=None if init is monai_worker_init_fn else init,
        # each iteration draws a base seed for the workers: do not draw it from torch's global generator
        generator=torch.Generator().manual_seed(seed),
    )


def collate_batch(collate: Callable, items: Any) -> Any:
    """Collate items into a batch, unless they are a batch already.

    Args:
        collate: makes a batch from a list of items.
        items: a list of items, or a batch.

    """
    return items if isinstance(items, dict) else collate(items)
