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

"""Forecast the training cost of a bundle on this machine, line by line."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from monai.utils import CommonKeys

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.costs.estimate import CostEstimate, estimate_cost
from monai_weckd.costs.probe import probe_costs
from monai_weckd.data.datalist import Datalist
from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["forecast_cost"]

_PROBED_IMAGES = 4


def forecast_cost(
    config: BundleConfig, plan: ChainPlan, datalist: Datalist, *, max_epochs: int, epoch_length: int, batch_size: int
) -> Iterator[str]:
    """Forecast the cost of training with a bundle's configuration on this machine, line by line.

    For heads that train on embeddings, the forecast says only that they take seconds.

    Args:
        config: the bundle's training configuration.
        plan: the plan.
        datalist: the data list of the plan.
        max_epochs: epochs of the whole chain.
        epoch_length: optimizer steps in an epoch.
        batch_size: labeled images in a batch.

    """
    config = config.copy(datalist=datalist, plan=plan)
    config.value("imports")
    if _written(config, "backbone#freeze"):
        yield "backbone#freeze: a stage of heads takes seconds, once each image has gone through the network"
        return
    load, chain = config.value("train#preprocessing"), config.value("chain")
    images = [{CommonKeys.IMAGE: item["image"]} for item in plan.select(datalist.items, "train")[:_PROBED_IMAGES]]
    shape = tuple(load(dict(images[0]))[CommonKeys.IMAGE].shape)
    costs = probe_costs(
        config.value("network"),
        config.value("optimizer"),
        loss_function=config.value("loss_function"),
        image_shape=shape,
        num_classes=len(plan.classes),
        batch_size=batch_size,
        pool_ratio=chain.pool_ratio,
        prepare_batch=config.value("train#prepare_batch"),
        inferer=config.value("train#inferer"),
        load=[partial(load, image) for image in images],
        item_bytes=math.prod(shape) * (2 if _written(config, "train#dataset#value_range") is None else 1),
    )
    estimate = estimate_cost(
        plan,
        costs,
        max_epochs=max_epochs,
        epoch_length=epoch_length,
        batch_size=batch_size,
        pool_ratio=chain.pool_ratio,
        views=chain.views if chain.teacher_cache else 0,
        stage_epochs=chain.stage_epochs,
        val_interval=config.value("val_interval"),
    )
    yield f"predicted by a probe on this machine, images of {' x '.join(map(str, shape))}:"
    yield from _lines(estimate)


def _written(config: BundleConfig, key: str) -> Any:
    """Return the value of a key, None if the configuration does not have it."""
    return config.value(key) if key in config else None


def _lines(estimate: CostEstimate) -> Iterator[str]:
    yield f"  decoding  {_seconds([estimate.load_seconds])}"
    yield f"  stages    {_seconds(estimate.seconds)}"
    yield f"  in all    {sum(estimate.steps)} steps, {_seconds([estimate.total_seconds])}"
    yield f"  memory    {estimate.peak_bytes / 2**20:.0f} MiB at most"


def _seconds(values: Sequence[float]) -> str:
    return " + ".join(f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in values) + " s"
