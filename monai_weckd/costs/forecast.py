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

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.utils import CommonKeys

from monai_weckd.cli.options import parse_value
from monai_weckd.costs.estimate import estimate_cost
from monai_weckd.costs.probe import probe_costs
from monai_weckd.plan.chain_plan import ChainPlan

__all__ = ["BundleForecast"]

# option of the command by key of the configuration
_SETTINGS = {
    "num_stages": "num_stages",
    "label_fraction": "label_fraction",
    "shard_policy": "policy",
    "shard_by": "shard_by",
    "val_fraction": "val_fraction",
    "test_fraction": "test_fraction",
    "split_file": "split_file",
    "selection": "selection",
    "shard_file": "shard_file",
    "missing_classes": "missing_classes",
    "seed": "seed",
    "max_epochs": "max_epochs",
    "iterations_per_epoch": "iterations_per_epoch",
    "batch_size": "batch_size",
}
_PROBED_IMAGES = 4


class BundleForecast:
    """Predict what training with a bundle's configuration will cost here, before it begins.

    Args:
        bundle: the bundle's folder.
        changes: what to set in ``configs/train.json``, by key, values as text.

    Raises:
        ValueError: When there is no such configuration, or it has no such key.

    """

    def __init__(self, bundle: Path, changes: Mapping[str, str]) -> None:
        path = bundle / "configs" / "train.json"
        if not path.is_file():
            raise ValueError(f"bundle: expected configs/train.json in {str(bundle)!r}, got none. Pass a bundle.")
        self.parser = ConfigParser()
        self.parser.read_config(str(path))
        self.parser["bundle_root"] = str(bundle)
        for key, text in changes.items():
            if key not in self.parser:
                raise ValueError(f"set: expected a key of {path}, got {key!r}. See its top level.")
            self.parser[key] = parse_value(text)

    @property
    def settings(self) -> dict[str, Any]:
        """What the configuration says about the options of the ``plan`` command."""
        found = {option: self._content(key) for key, option in _SETTINGS.items()}
        return {**found, "no_stratify": not self._content("stratify")}

    def forecast(self, plan: ChainPlan, items: Iterable[Mapping[str, Any]], args: Namespace) -> Iterator[str]:
        """Yield what the chain will cost, line by line; of heads that train on embeddings no more than that they do.

        Args:
            plan: the plan.
            items: the data list.
            args: options of the command: ``max_epochs``, ``iterations_per_epoch`` and ``batch_size``.

        """
        self.parser["class_names"] = list(plan.classes)
        self._content("imports")
        if self._content("freeze_backbone"):
            yield "freeze_backbone: a stage of heads takes seconds, once each image has gone through the network"
            return
        load = self._content("train#preprocessing")
        images = [{CommonKeys.IMAGE: item["image"]} for item in plan.select(items, "train")[:_PROBED_IMAGES]]
        shape = tuple(load(dict(images[0]))[CommonKeys.IMAGE].shape)
        ratio, views = self._content("pool_ratio"), self._content("views")
        costs = probe_costs(
            self._content("network"),
            self._content("optimizer"),
            loss_function=self._content("loss_function"),
            image_shape=shape,
            num_classes=len(plan.classes),
            batch_size=args.batch_size,
            pool_ratio=ratio,
            prepare_batch=self._content("train#prepare_batch"),
            inferer=self._content("train#inferer"),
            load=[partial(load, image) for image in images],
            item_bytes=math.prod(shape) * (2 if self._content("train#dataset#value_range") is None else 1),
        )
        estimate = estimate_cost(
            plan,
            costs,
            max_epochs=args.max_epochs,
            epoch_length=args.iterations_per_epoch,
            batch_size=args.batch_size,
            pool_ratio=ratio,
            views=views if self._content("teacher_cache") else 0,
            val_interval=self._content("val_interval"),
        )
        yield f"predicted by a probe on this machine, images of {' x '.join(map(str, shape))}:"
        yield f"  decoding  {_seconds([estimate.load_seconds])}"
        yield f"  stages    {_seconds(estimate.seconds)}"
        yield f"  in all    {sum(estimate.steps)} steps, {_seconds([estimate.total_seconds])}"
        yield f"  memory    {estimate.peak_bytes / 2**20:.0f} MiB at most"

    def _content(self, key: str) -> Any:
        return self.parser.get_parsed_content(key)


def _seconds(values: Sequence[float]) -> str:
    return " + ".join(f"{value:.0f}" if value >= 10 else f"{value:.1f}" for value in values) + " s"
