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
from typing import Any

import ignite.distributed as idist
import torch
from monai.data import SmartCacheDataset
from torch.utils.data import DataLoader

from monai_weckd.data.stage import StageBatchSampler, StageDataset
from monai_weckd.plan.splits import identify

__all__ = ["collate_batch", "stage_loader", "training_items"]


def training_items(loader: Iterable | DataLoader) -> list[dict[str, Any]]:
    """Return the data list of a training loader, with the ``id`` and ``group`` that a plan needs.

    An item without ``id`` gets its image path as id. An item without ``group`` is a group of its own.

    Args:
        loader: a ``DataLoader`` whose dataset keeps its data list in ``data``, as MONAI's datasets do.

    Raises:
        TypeError: When there is no such list of dictionaries.

    """
    data = getattr(getattr(loader, "dataset", None), "data", None)
    if (
        not isinstance(loader, DataLoader)
        or not isinstance(data, Sequence)
        or not all(isinstance(i, dict) for i in data)
    ):
        raise TypeError(
            f"train_data_loader: expected a DataLoader over a MONAI dataset of dictionaries, "
            f"got {type(loader).__name__}. "
            "Use monai.data.Dataset or CacheDataset, whose `data` is the list of items."
        )
    if isinstance(loader.dataset, SmartCacheDataset):
        raise TypeError(
            "train_data_loader: expected a dataset whose items keep their places, got SmartCacheDataset, which replaces"
            " them. Use monai.data.CacheDataset."
        )
    return identify(data)


def stage_loader(
    template: Any,
    *,
    labels: Mapping[int, int],
    pool: Sequence[int],
    pool_ratio: int,
    num_batches: int,
    seed: int,
    stage: int,
    views: int = 0,
    start: int = 0,
) -> DataLoader:
    """Return the loader of one stage, with the dataset, batch size, workers and collation of a template.

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

    Raises:
        ValueError: When the template has no ``batch_size``.

    """
    if template.batch_size is None:
        raise ValueError(
            "train_data_loader: expected a batch_size, got None. Pass batch_size instead of a batch_sampler."
        )
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
    )
    return DataLoader(
        StageDataset(template.dataset, labels),
        batch_sampler=sampler,
        num_workers=template.num_workers,
        collate_fn=partial(collate_batch, template.collate_fn),
        pin_memory=template.pin_memory,
        timeout=template.timeout,
        multiprocessing_context=template.multiprocessing_context,
        prefetch_factor=template.prefetch_factor,
        # each iteration draws a base seed for the workers: keep this off torch's global generator
        generator=torch.Generator().manual_seed(seed),
    )


def collate_batch(collate: Callable, items: Any) -> Any:
    """Collate items into a batch, unless they are a batch already.

    Args:
        collate: makes a batch from a list of items.
        items: a list of items, or a batch.

    """
    return items if isinstance(items, dict) else collate(items)
