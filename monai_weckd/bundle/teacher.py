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

"""The answers of a bundle's trained model, for a student to learn from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.bundle import ConfigParser
from torch import nn

from monai_weckd.bundle.checks import calling_parser
from monai_weckd.bundle.config import BundleConfig
from monai_weckd.bundle.identity import check_transforms
from monai_weckd.data.datalist import Datalist
from monai_weckd.data.embedding import EmbeddingDataset
from monai_weckd.networks.freezing import predict_logits
from monai_weckd.networks.stored import StoredLogits
from monai_weckd.networks.weights import load_weights
from monai_weckd.plan.chain_plan import ChainPlan
from monai_weckd.plan.settings import PlanSettings
from monai_weckd.utils.enums import UNLABELED
from monai_weckd.utils.literals import literal
from monai_weckd.utils.records import model_chain

__all__ = ["stored_logits", "trained_network"]


def stored_logits(
    run_dir: str | os.PathLike[str] | None,
    items: Sequence[Mapping[str, Any]],
    *,
    bundle: str | os.PathLike[str],
    classes: Sequence[str],
    cache_dir: str | os.PathLike[str] | None = None,
) -> StoredLogits:
    """Return the logits of a finished run's model on items, as the bundle's ``train.json`` loads them.

    The items' labels are not read. Images are not augmented.

    Args:
        run_dir: output folder of the run, with ``model.pt`` and ``chain.json``.
        items: dictionaries with ``id`` and ``image``, in the order of the student's dataset.
        bundle: the bundle's folder.
        classes: the student's class names in the order of their indices.
        cache_dir: folder with the run's decoded images and embeddings, default None: they are made anew.

    Raises:
        ValueError: When there is no finished run, its classes differ, or its model belongs to another network.

    """
    model, chain = _finished(run_dir, classes)
    config = _config(bundle, model, chain, cache_dir=None if cache_dir is None else literal(str(cache_dir)))
    if chain["preprocessing"] is not None:
        check_transforms("train#deterministic_transforms", chain["preprocessing"], config.parser)
    findings = config.has_findings
    nothing: Any = np.full(len(classes), UNLABELED, dtype=np.float32) if findings else 0
    hidden = [{**item, "label": nothing} for item in items]
    ids = tuple(item["id"] for item in items)
    plan = ChainPlan(tuple(classes), PlanSettings(), train=ids, findings=findings)
    config = config.copy(datalist=Datalist(hidden, tuple(classes), findings=findings), plan=plan)
    config.value("imports")
    network, loader = config.value("network"), config.value("train#dataloader")
    load_weights(network, model, name="teacher_dir")
    if isinstance(loader.dataset, EmbeddingDataset):
        loader.dataset.fill(config.value("backbone").fingerprint())
    logits, _ = predict_logits(network, loader, config.value("device"), inferer=config.value("train#inferer"))
    return StoredLogits(logits)


def trained_network(
    run_dir: str | os.PathLike[str] | None,
    *,
    bundle: str | os.PathLike[str],
    classes: Sequence[str],
    parser: ConfigParser | None = None,
) -> nn.Module:
    """Return the model of a finished run, as the bundle's ``train.json`` builds it, on the CPU.

    Args:
        run_dir: output folder of the run, with ``model.pt`` and ``chain.json``.
        bundle: the bundle's folder.
        classes: the class names in the order of their indices.
        parser: parser of the configuration whose images the model is to see, default None: the calling one.

    Raises:
        ValueError: When there is no finished run, its classes or preprocessing differ, or its model belongs to another
            network.

    """
    model, chain = _finished(run_dir, classes)
    parser = parser or calling_parser("trained_network")
    if chain["preprocessing"] is not None:
        check_transforms("train#deterministic_transforms", chain["preprocessing"], parser)
    config = _config(bundle, model, chain).copy(datalist=Datalist([], tuple(classes)))
    config.value("imports")
    network: nn.Module = config.value("network_def")
    load_weights(network, model, name="teacher_dir")
    return network


def _config(bundle: str | os.PathLike[str], model: Path, chain: Mapping[str, Any], **changes: Any) -> BundleConfig:
    """Return a bundle's configuration for the network and the size of images that a run had."""
    overlays = []
    if "spatial_size" in chain["settings"]:
        changes["spatial_size"] = chain["settings"]["spatial_size"]
    if "config" in (chain.get("backbone") or {}):
        overlays.append("local_backbone.json")
        changes["backbone_path"] = literal(str(model.with_name("chain.json")))
    config = BundleConfig(bundle, overlays=overlays, changes=changes)
    kinds = ["several findings" if found else "one class" for found in (config.has_findings, chain.get("findings"))]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"teacher_dir: expected a run with {kinds[0]} an image, as {config.root.name} has, got one with "
            f"{kinds[1]}. Pass a run of this bundle."
        )
    return config


def _finished(run_dir: str | os.PathLike[str] | None, classes: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """Return the model of a finished run of these classes, and its ``chain.json``."""
    model = Path(run_dir or "") / "model.pt"
    chain = model_chain(model) if run_dir and model.is_file() else None
    if chain is None:
        raise ValueError(
            f"teacher_dir: expected the output folder of a finished run, got {run_dir!r}. "
            "Train a teacher first, and pass --teacher_dir path/to/its/output."
        )
    if tuple(chain["classes"]) != tuple(classes):
        raise ValueError(
            f"teacher_dir: expected a teacher of the classes {list(classes)}, got one of {chain['classes']}. "
            "Train it on the same classes."
        )
    return model, chain
