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

"""Embed the images of a data set by the frozen network of a bundle, as training does."""

from __future__ import annotations

from typing import Any

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.data.datalist import Datalist
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.settings import PlanSettings

__all__ = ["check_frozen", "embedded_images"]


def check_frozen(config: BundleConfig) -> None:
    """Refuse a bundle that trains its network.

    Args:
        config: the bundle's training configuration.

    Raises:
        ValueError: When its network is not frozen.

    """
    if "backbone#freeze" not in config or not config.value("backbone#freeze"):
        raise ValueError(
            f"bundle: expected a frozen network in {config.files[0]}, got one that is trained. "
            "Pass a bundle whose train.json has backbone#freeze true, without overlays that change it."
        )


def embedded_images(config: BundleConfig, datalist: Datalist) -> Any:
    """Return the :py:class:`~monai_weckd.data.EmbeddingDataset` of all items; ``images`` has the images themselves.

    Where the configuration has a ``cache_dir``, images and embeddings of earlier runs are read from there.

    Args:
        config: the bundle's training configuration, whose network is frozen.
        datalist: the items.

    Raises:
        ValueError: When an image has another shape than the first.

    """
    plan = ChainPlan(datalist.classes, PlanSettings(), train=tuple(item["id"] for item in datalist.items))
    config = config.copy(datalist=datalist, plan=plan)
    for key in ("imports", "initialize"):
        config.value(key)
    return config.value("train#dataloader").dataset
