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

"""Keep what all stages of a bundle share, so that no stage builds it again: network, backbone and images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cached_property
from threading import Lock
from typing import Any

import torch

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.data.datalist import Datalist
from monai_weckd.data.item_level import images_in
from monai_weckd.data.verify import image_state, known_state
from monai_weckd.networks.weights import load_weights
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.label_kind import LabelKind
from monai_weckd.plan.settings import PlanSettings

__all__ = ["SharedParts"]


class SharedParts:
    """The parts of a bundle that do not depend on labels; each is evaluated once, when a program first asks for it.

    The network in :py:meth:`config` and the datasets are for one thread at a time. :py:attr:`preprocessing` and
    :py:meth:`new_network` are for any thread.

    Args:
        config: the configuration.
        kind: names of the classes or findings.
        settings: settings of the plan.
        item_level: what an item is, "image" or a level of :py:func:`monai_weckd.data.group_images`.

    """

    def __init__(self, config: BundleConfig, kind: LabelKind, settings: PlanSettings, *, item_level: str) -> None:
        self._config = config
        self._kind = kind
        self._item_level = item_level
        self._settings = settings
        self._lock = Lock()
        self._base: BundleConfig | None = None
        self._items: dict[str, tuple[int, Any, Mapping[str, Any]]] = {}
        self._images: Any = None
        self._embeddings: tuple[list[str], Any, torch.Tensor] | None = None

    def _value(self, key: str) -> Any:
        with self._lock:
            if self._base is None:
                base = self._config.copy(datalist=self._datalist([]))
                # in the order of a training, so that the network begins with the same weights
                for name in ("imports", "initialize"):
                    base.value(name)
                self._base = base
            return self._base.value(key)

    @property
    def preprocessing(self) -> Any:
        """The transforms of an image."""
        return self._value("train#preprocessing")

    def new_network(self) -> torch.nn.Module:
        """Return a new network with the weights before the first stage."""
        # the original never runs, so that a copy is the same at any time
        network: torch.nn.Module = deepcopy(self._value("network"))
        return network

    @cached_property
    def _objects(self) -> dict[str, Any]:
        network = self.new_network()
        if "backbone" not in self._config:
            return {"network": network}
        return {"network": network, "backbone": self._config.copy(network=network).value("backbone")}

    @property
    def network(self) -> torch.nn.Module:
        """The network of every :py:meth:`config`."""
        network: torch.nn.Module = self._objects["network"]
        return network

    def config(
        self, items: Sequence[Mapping[str, Any]], plan: ChainPlan, changes: Mapping[str, Any] | None = None
    ) -> BundleConfig:
        """Return a configuration for a training, with the shared network as it was before the first stage.

        Args:
            items: the items, with labels.
            plan: the plan of these items.
            changes: values to set.

        """
        self._reset()
        dataset = self.dataset(plan.select(items, "train"))
        if hasattr(dataset, "fill"):
            # the backbone updates the embeddings of this dataset only, not those of earlier stages
            self._objects["backbone"].datasets.clear()
            self._objects["backbone"].datasets[dataset] = None
        datalist = self._datalist(items)
        changes = {**(changes or {}), "train#dataloader#dataset": dataset}
        return self._config.copy(changes, datalist=datalist, plan=plan, **self._objects)

    def _datalist(self, items: Sequence[Mapping[str, Any]]) -> Datalist:
        listed = [dict(item) for item in items]
        return Datalist(listed, self._kind.names, findings=self._kind.findings, item_level=self._item_level)

    def _reset(self) -> None:
        self.network.load_state_dict(self._value("network").state_dict())

    def load(self, student: str | os.PathLike[str] | None) -> torch.nn.Module:
        """Return the network with the weights of a student, or with those before the first stage.

        Args:
            student: file of the student, default None: none.

        """
        if student is None:
            self._reset()
        else:
            load_weights(self.network, student, name="student")
        return self.network

    def embeddings(self, dataset: Any) -> torch.Tensor | None:
        """Return the embeddings of a dataset by the current network, (N, D), None where the backbone is not frozen.

        Args:
            dataset: result of :py:meth:`dataset`.

        """
        if not hasattr(dataset, "fill"):
            return None
        dataset.fill(self._objects["backbone"].fingerprint())
        key = [dataset.made_by, *(item["id"] for item in dataset.data)]
        if self._embeddings is None or self._embeddings[0] != key or self._embeddings[1] is not dataset.rows:
            self._embeddings = key, dataset.rows, dataset.gather(range(len(dataset)))
        return self._embeddings[2]

    def dataset(self, items: Sequence[dict[str, Any]]) -> Any:
        """Return a dataset of items, as for training; images that are new or have changed are read, and no others.

        Args:
            items: the items.

        """
        states = {item["id"]: tuple(map(known_state, images_in(item))) for item in items}
        if any(self._state_of(key) != state for key, state in states.items()):
            others = {key: (state, item) for key, (_, state, item) in self._items.items() if key not in states}
            kept = {key: one for key, one in others.items() if tuple(map(image_state, images_in(one[1]))) == one[0]}
            found = {**kept, **{item["id"]: (states[item["id"]], item) for item in items}}
            self._images = self._read([item for _, item in found.values()])
            self._items = {key: (place, *rest) for place, (key, rest) in enumerate(found.items())}
            if hasattr(self._images, "fill"):
                self._images.fill(self._objects["backbone"].fingerprint())
        return self._images.select([self._items[item["id"]][0] for item in items], items)

    def _state_of(self, key: str) -> Any:
        return self._items[key][1] if key in self._items else None

    def _read(self, items: Sequence[Mapping[str, Any]]) -> Any:
        ids = tuple(item["id"] for item in items)
        plan = ChainPlan(self._kind.names, self._settings, train=ids, findings=self._kind.findings)
        datalist = self._datalist(items)
        dataset = self._config.copy(datalist=datalist, plan=plan, **self._objects).value("train#dataloader").dataset
        if not hasattr(getattr(dataset, "images", dataset), "select"):
            raise ValueError(
                f"train#dataset: expected a ByteCacheDataset, got {type(dataset).__name__}. "
                "Use it to label images, so that each is read once."
            )
        return dataset
