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
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from monai.utils import CommonKeys

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.costs.estimate import CostEstimate, estimate_cost
from monai_weckd.costs.probe import probe_costs
from monai_weckd.data.datalist import Datalist
from monai_weckd.data.embedding import single_images
from monai_weckd.data.item_level import images_in, refuse_several
from monai_weckd.networks.features import images_of
from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["forecast_cost"]

_PROBED_IMAGES = 4


def forecast_cost(config: BundleConfig, plan: ChainPlan, datalist: Datalist) -> Iterator[str]:
    """Forecast the cost of training with a bundle's configuration on this machine, line by line.

    Args:
        config: the bundle's training configuration.
        plan: the plan.
        datalist: the data list of the plan.

    """
    config = config.copy(datalist=datalist, plan=plan)
    config.value("imports")
    yield from _solved(config, plan, datalist) if config.solves_heads else _trained(config, plan, datalist)


def _solved(config: BundleConfig, plan: ChainPlan, datalist: Datalist) -> Iterator[str]:
    """Forecast a chain whose heads are solved: each image goes through the network once."""
    backbone, images = config.value("backbone"), single_images(config.value("train#dataset"))
    probed, seconds = range(min(_PROBED_IMAGES, len(images))), float("inf")
    for _ in range(2):  # the first time also allocates memory
        began = time.perf_counter()
        backbone.embeddings([images_of(images, probed)])
        seconds = min(seconds, time.perf_counter() - began)
    used = {*plan.train, *plan.val, *plan.test}
    count = sum(len(images_in(item)) for item in datalist.items if item["id"] in used)
    each = seconds / len(probed)
    yield (
        f"predicted by a probe on this machine: {count} images go through the network once, {count * each:.0f} s "
        f"({1000 * each:.0f} ms each); after that, a stage takes seconds"
    )


def _trained(config: BundleConfig, plan: ChainPlan, datalist: Datalist) -> Iterator[str]:
    """Forecast a chain that trains a network step by step."""
    refuse_several(datalist.items)
    load, chain = config.value("train#preprocessing"), config.value("chain")
    steps = {
        "max_epochs": config.value("train#trainer#max_epochs"),
        "epoch_length": config.value("train#trainer#epoch_length"),
        "batch_size": config.value("train#dataloader#batch_size"),
    }
    images = [{CommonKeys.IMAGE: item["image"]} for item in plan.select(datalist.items, "train")[:_PROBED_IMAGES]]
    shape = tuple(load(dict(images[0]))[CommonKeys.IMAGE].shape)
    costs = probe_costs(
        config.value("network"),
        config.value("optimizer"),
        loss_function=config.value("loss_function"),
        image_shape=shape,
        num_classes=len(plan.classes),
        findings=plan.findings,
        batch_size=steps["batch_size"],
        pool_ratio=chain.pool_ratio,
        prepare_batch=config.value("train#prepare_batch"),
        inferer=config.value("train#inferer"),
        load=[partial(load, image) for image in images],
        item_bytes=math.prod(shape) * (2 if _written(config, "train#dataset#value_range") is None else 1),
    )
    estimate = estimate_cost(
        plan,
        costs,
        pool_ratio=chain.pool_ratio,
        views=chain.views if chain.teacher_cache else 0,
        stage_epochs=chain.stage_epochs,
        val_interval=config.value("val_interval"),
        **steps,
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
