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

"""The images of a site as a bundle reads them, and the model of all sites as the bundle runs it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from monai_weckd.audit.embedding import check_frozen, embedded_images
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.bundle.identity import describe_transforms
from monai_weckd.data.datalist import Datalist
from monai_weckd.fl.exact import ExactHead
from monai_weckd.fl.exact_site import ExactSite
from monai_weckd.networks import StandardizedLinear
from monai_weckd.networks.features import find_head, find_module
from monai_weckd.utils.files import state_bytes, write_atomically
from monai_weckd.utils.literals import literal
from monai_weckd.utils.records import json_digest, sealed_json

__all__ = ["SiteBundle", "check_trained", "shared_config", "without_images", "write_model"]


class SiteBundle:
    """A bundle whose network is frozen, or has been trained by the sites, as they use it for a joint head.

    Args:
        bundle: the bundle's folder.
        classes: class names in the order of their indices, the same at all sites; default None: those of its metadata.
        overlays: configuration files to merge into ``train.json``.
        changes: values to set in the configuration, by key.
        weights: ``state_dict`` of the network that the sites have trained, default None: the network is frozen.

    Raises:
        ValueError: When the bundle trains its network and there are no weights, or the other way round.

    Example::

        >>> len(SiteBundle("bundles/otoscopy_chain_classification").classes)
        4

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        *,
        classes: Sequence[str] | None = None,
        overlays: Sequence[str | os.PathLike[str]] = (),
        changes: Mapping[str, Any] | None = None,
        weights: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        self.config, self.classes = shared_config(bundle, classes=classes, overlays=overlays, changes=changes)
        self.weights = weights
        if weights is None:
            check_frozen(self.config)
            return
        check_trained(self.config)
        network = without_images(self.config, self.classes).value("network")
        network.load_state_dict(weights)
        self.config = self.config.copy({"backbone#freeze": True}, network=network)

    @cached_property
    def identity(self) -> str:
        """A digest of the network, the preprocessing and the classes, which must be the same at all sites."""
        config = without_images(self.config, self.classes)
        transforms = describe_transforms("train#deterministic_transforms", config.parser)
        about = {"network": config.value("backbone").fingerprint(), "transforms": transforms}
        return json_digest({**about, "classes": list(self.classes)})

    def site(self, dataset_dir: str | os.PathLike[str]) -> ExactSite:
        """Return what a site computes on the images of a folder that are not for validation or test.

        Args:
            dataset_dir: see :py:func:`monai_weckd.data.load_datalist`; some classes, or all labels, may be missing.

        Raises:
            ValueError: When an image cannot be read, or has a label that is not among the classes.

        """
        config = self.config.copy({"dataset_dir": literal(os.fspath(dataset_dir))})
        datalist = config.value("datalist")
        items = [item for item in datalist.items if item.get("split", "train") == "train"]
        features = embedded_images(config, datalist._replace(items=items)).gather(range(len(items)))
        labels = torch.tensor([item["label"] for item in items])
        groups = [item["group"] for item in items]
        return ExactSite(features, labels, groups, num_classes=len(self.classes), bounded=self.bounded)

    @cached_property
    def bounded(self) -> bool:
        """Whether the network's head bounds its input, see :py:class:`~monai_weckd.fl.ExactSite`."""
        return isinstance(_head_of(without_images(self.config, self.classes).value("network")), StandardizedLinear)

    def write(
        self, head: ExactHead, output_dir: str | os.PathLike[str], stages: Sequence[Mapping[str, Any]] = ()
    ) -> Path:
        """Write ``model.pt``, which the bundle's ``inference.json`` runs, and ``chain.json`` with the head's figures.

        Args:
            head: the head for the labels of all sites.
            output_dir: the folder; created if absent.
            stages: records of the stages that have trained the network.

        Returns:
            The path of the model.

        Raises:
            FileExistsError: When there is a model already.

        """
        records = [*stages, _stage(head, len(stages) + 1)]
        return write_model(self.config, self.classes, output_dir, records, head=head, weights=self.weights)


def shared_config(
    bundle: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    overlays: Sequence[str | os.PathLike[str]] = (),
    changes: Mapping[str, Any] | None = None,
) -> tuple[BundleConfig, tuple[str, ...]]:
    """Return the training configuration of a bundle for given classes, whichever of them a site has, and these.

    Args:
        bundle: the bundle's folder.
        classes: class names in the order of their indices, default None: those of its metadata.
        overlays: configuration files to merge into ``train.json``.
        changes: values to set in the configuration, by key.

    Raises:
        ValueError: When it is a bundle of findings.

    """
    config = BundleConfig(bundle, overlays=overlays, changes=changes)
    config.refuse_findings("federate")
    config.refuse_several_images("federate")
    names = config.class_names if classes is None else tuple(classes)
    config.set("datalist#classes", [literal(name) for name in names])
    config.value("imports")
    return config, names


def check_trained(config: BundleConfig) -> None:
    """Refuse a configuration that trains nothing step by step.

    Args:
        config: the configuration.

    Raises:
        ValueError: When it solves heads.

    """
    if config.solves_heads:
        raise ValueError(
            "bundle: expected a network that is trained, got one whose head is solved. Pass --config_file "
            "scratch.json, or --mode exact."
        )


def without_images(config: BundleConfig, classes: Sequence[str]) -> BundleConfig:
    """Return a copy of a configuration that reads no image.

    Args:
        config: the configuration.
        classes: class names.

    """
    config = config.copy(datalist=Datalist([], tuple(classes)))
    config.value("imports")
    return config


def write_model(
    config: BundleConfig,
    classes: Sequence[str],
    output_dir: str | os.PathLike[str],
    stages: Sequence[Mapping[str, Any]],
    *,
    head: ExactHead | None = None,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write ``model.pt`` and ``chain.json``, and return the path of the model.

    Args:
        config: the training configuration.
        classes: class names.
        output_dir: the folder; created if absent.
        stages: records of the stages, of which the last one is the model.
        head: head of the network, default None: that of the weights.
        weights: the network's weights, default None: those that it has without training.

    Raises:
        FileExistsError: When there is a model already.

    """
    folder = Path(output_dir)
    path = folder / "model.pt"
    if path.exists():
        raise FileExistsError(f"output_dir: expected no model.pt in {folder}, got one. Pass another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    config = without_images(config, classes)
    network = config.value("network_def")
    if weights is not None:
        network.load_state_dict(weights)
    if head is not None:
        head.write(_head_of(network))
    content = state_bytes(network.state_dict())
    write_atomically(path, content)
    about = {
        "format": 1,
        "classes": list(classes),
        "preprocessing": describe_transforms("train#deterministic_transforms", config.parser),
        "settings": {"spatial_size": config["spatial_size"]},
        "stages": list(stages),
        "final": {"stage": stages[-1]["stage"], "sha256": hashlib.sha256(content).hexdigest()},
    }
    write_atomically(folder / "chain.json", sealed_json(about, indent=4))
    return path


def _head_of(network: torch.nn.Module) -> Any:
    return find_module(network, find_head(network))


def _stage(head: ExactHead, number: int) -> dict[str, Any]:
    """Return the record of a stage that is a head."""
    found = {"labels": head.held_out, "penalty": head.penalty, "balanced_accuracy": head.balanced_accuracy}
    return {"stage": number, "labeled": head.labels, "temperature": head.temperature, "out_of_fold": found}
