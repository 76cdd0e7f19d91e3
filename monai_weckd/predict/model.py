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

"""Load a bundle's ``inference.json`` and model, and compute class probabilities."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.utils import CommonKeys

from monai_weckd.bundle.config import BundleConfig
from monai_weckd.bundle.identity import check_transforms
from monai_weckd.data.prepared import load_image
from monai_weckd.inferers import HeadInferer
from monai_weckd.networks.features import HeadHook
from monai_weckd.networks.weights import load_weights
from monai_weckd.utils.errors import raising_cause
from monai_weckd.utils.literals import literal
from monai_weckd.utils.records import model_chain

__all__ = ["PredictionBundle", "class_probabilities", "probability_fault"]


class PredictionBundle:
    """Apply a bundle's ``configs/inference.json``: load single images and predict batches.

    If the configuration uses MONAI's ``LoadImaged``, it is replaced by
    :py:class:`~monai_weckd.transforms.LoadMedicalImaged`, which reads all formats as in training.

    Args:
        bundle: the bundle's folder.
        checkpoint: the model, a ``state_dict``; default None: the configuration's ``ckpt_path``.
        overlays: configuration files to merge into ``inference.json``, in order: paths, or names of files in
            ``configs``.
        changes: values to set in the configuration, by key.

    Attributes:
        config: the configuration.
        root: the bundle's folder.
        checkpoint: path of the model.
        classes: names of the classes, or of the findings, in the order of their indices.
        item_level: "image"; or "series", "study" or "patient" if the model takes the features of all images of one.
        thresholds: from which probability on each finding counts as present; None where an image has one class.
        metadata: content of ``configs/metadata.json``.
        spatial_dims: 2 for pictures, 3 for volumes.

    Raises:
        ValueError: When a file or key is missing, the model belongs to another network, or ``chain.json`` beside it
            records another image size or preprocessing.
        FileNotFoundError: When there is no model.

    """

    def __init__(
        self,
        bundle: str | os.PathLike[str],
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        overlays: Sequence[str | os.PathLike[str]] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.config = config = BundleConfig(bundle, "inference", overlays=overlays, changes=changes)
        self.root, self.metadata, self.spatial_dims = config.root, config.metadata, config.spatial_dims
        if checkpoint is not None:
            config.set("ckpt_path", literal(os.fspath(checkpoint)))
        _read_as_in_training(config)
        config.value("imports")
        self.checkpoint = Path(config.value("ckpt_path"))
        if not self.checkpoint.is_file():
            raise FileNotFoundError(
                f"ckpt: expected a model, got nothing at {self.checkpoint}. Pass --ckpt path/to/output/model.pt."
            )
        self.item_level = "image"
        self._check_chain(config)
        self.thresholds: list[float | None] | None = None
        if "thresholds" in config:
            self.thresholds = list(config.value("thresholds"))
        self.classes = [str(name) for name in config.value("class_names")]
        self.device = torch.device(config.value("device"))
        self.preprocessing = config.value("preprocessing")
        self.inferer = config.value("inferer")
        self.postprocessing = config.value("postprocessing")
        self.network = self._loaded(config.value("network_def"))

    def load(self, path: str) -> torch.Tensor:
        """Return an image as input of the network, (C, spatial dimensions).

        Args:
            path: a file, or a folder with a DICOM series.

        Raises:
            ValueError: When the image cannot be read, or has another number of dimensions than the network expects;
                the message is one line.

        """
        return load_image(self.preprocessing, path, self.spatial_dims)

    def predict(self, images: torch.Tensor) -> np.ndarray:
        """Return the probabilities of the classes, (B, number of classes).

        Args:
            images: a batch of images from :py:meth:`load`.

        Raises:
            ValueError: When the network and the configuration have different numbers of classes.

        """
        return self._probabilities(images, self.inferer)

    def classify(self, features: torch.Tensor) -> np.ndarray:
        """Return the probabilities of the classes, (B, number of classes), from the features before the head.

        Args:
            features: (B, D), such as the means of :py:meth:`predict_features` over the images of each item.

        """
        return self._probabilities(features, HeadInferer())

    def _probabilities(self, inputs: torch.Tensor, inferer: Callable) -> np.ndarray:
        probabilities = class_probabilities(
            self.network, inputs.to(self.device), inferer=inferer, postprocessing=self._postprocess
        )
        if probabilities.shape[1:] != (len(self.classes),):
            raise ValueError(
                f"class_names: expected as many as the network's {list(probabilities.shape[1:])} outputs, "
                f"got {len(self.classes)}. Put chain.json beside the model."
            )
        return probabilities

    def predict_features(self, images: torch.Tensor) -> tuple[np.ndarray, torch.Tensor]:
        """Return the probabilities of the classes, (B, number of classes), and the features before the head, (B, D).

        Args:
            images: a batch of images from :py:meth:`load`.

        """
        with HeadHook(self.network) as hook:
            return self.predict(images), hook.features.float().cpu()

    def _postprocess(self, logits: torch.Tensor) -> torch.Tensor:
        found = [self.postprocessing({CommonKeys.PRED: row})[CommonKeys.PRED] for row in logits]
        return torch.stack(list(map(torch.as_tensor, found)))

    def _check_chain(self, config: BundleConfig) -> None:
        """Refuse a size or preprocessing other than in training: the network would accept it, but predict worse."""
        chain = model_chain(self.checkpoint)
        if chain is None:
            return
        findings = "thresholds" in config
        if bool(chain.get("findings")) != findings:
            kinds = ("one class an image", "several findings an image")
            got, own = kinds if findings else kinds[::-1]
            raise ValueError(
                f"ckpt: expected a model of {own}, as {self.root.name} has, got one of {got}. Pass the bundle of its "
                "training."
            )
        self.item_level = chain["settings"].get("item_level", "image")
        trained = chain["settings"].get("spatial_size")
        own = config.value("spatial_size") if "spatial_size" in config else trained
        if trained is not None and list(own) != list(trained):
            raise ValueError(
                f"spatial_size: expected {list(trained)}, at which the model was trained, got {list(own)}. "
                f"Pass --set spatial_size={json.dumps(trained, separators=(',', ':'))}, or the overlay of the training."
            )
        if chain["preprocessing"] is None or not isinstance(config["preprocessing"], dict):
            return
        with raising_cause():
            check_transforms("preprocessing#transforms", chain["preprocessing"], config.parser)

    def _loaded(self, network: torch.nn.Module) -> torch.nn.Module:
        advice = "Pass the overlay or --set of its training, such as --config_file inference_pretrained.json."
        load_weights(network, self.checkpoint, name="ckpt", advice=advice)
        return network.to(self.device).eval()


@torch.inference_mode()
def class_probabilities(
    network: torch.nn.Module,
    images: torch.Tensor,
    *,
    inferer: Callable | None = None,
    postprocessing: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> np.ndarray:
    """Return the class probabilities, (B, C); :py:func:`probability_fault` checks whether they are finite.

    Args:
        network: the classifier, in eval mode.
        images: a batch, (B, channels, spatial dimensions), on the network's device.
        inferer: calls the network, ``(images, network) -> logits``, default None: a direct call.
        postprocessing: converts logits to probabilities, (B, C) each, default None: softmax.

    """
    logits = network(images) if inferer is None else inferer(images, network)
    found = torch.softmax(logits.float(), dim=1) if postprocessing is None else postprocessing(logits)
    probabilities: np.ndarray = found.cpu().numpy()
    return probabilities


def probability_fault(path: str, probabilities: np.ndarray) -> str:
    """Return why the probabilities of an image are unusable, in one line; empty if they are finite.

    Args:
        path: the image.
        probabilities: class probabilities, (C,).

    """
    if np.isfinite(probabilities).all():
        return ""
    return f"{path}: expected finite probabilities, got others. Look for NaN in the image."


def _read_as_in_training(config: BundleConfig) -> None:
    preprocessing = config["preprocessing"]
    transforms = preprocessing.get("transforms", []) if isinstance(preprocessing, dict) else []
    # stock MONAI clips what has more bits, training refuses it
    bits = 8 if any(map(_is_of_8_bits, transforms)) else None
    for number, transform in enumerate(transforms):
        if isinstance(transform, dict) and transform.get("_target_", "").rpartition(".")[2] == "LoadImaged":
            loader = {
                "_target_": "monai_weckd.transforms.LoadMedicalImaged",
                "keys": transform["keys"],
                "channels": "@channels" if "channels" in config else None,
                "bits": bits,
            }
            config.set(f"preprocessing#transforms#{number}", loader)


def _is_of_8_bits(transform: Any) -> bool:
    """Return whether a transform clips the values of pictures to those of 8 bits."""
    return isinstance(transform, dict) and (
        [transform.get(key) for key in ("a_min", "a_max", "clip")] == [0, 255, True]
    )
