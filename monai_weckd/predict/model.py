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

import json
import os
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import CommonKeys

from monai_weckd.bundle.config import find_overlay
from monai_weckd.bundle.identity import describe_transforms
from monai_weckd.utils.errors import one_error
from monai_weckd.utils.messages import nearest
from monai_weckd.utils.records import model_chain

__all__ = ["PredictionBundle"]

_NEEDED = ("device", "ckpt_path", "class_names", "network_def", "preprocessing", "inferer", "postprocessing")


class PredictionBundle:
    """What a bundle's ``configs/inference.json`` does to an image, one image and one batch at a time.

    Images are read by :py:class:`~monai_weckd.transforms.LoadMedicalImaged`, as in training, where the configuration
    has MONAI's ``LoadImaged``: it needs no other reader for another format.

    Args:
        bundle: the bundle's folder.
        checkpoint: the model, a ``state_dict``; default None: the configuration's ``ckpt_path``.
        overlays: configuration files that are merged into ``inference.json``, in their order: paths, or names of files
            in ``configs``.
        changes: what to set in the configuration, by key.

    Attributes:
        root: the bundle's folder.
        checkpoint: path of the model.
        classes: class names in the order of their indices.
        metadata: content of ``configs/metadata.json``.
        spatial_dims: 2 for pictures, 3 for volumes.

    Raises:
        ValueError: When a file or key is missing, the model is of another network, or was trained on images of another
            size or preprocessing, by ``chain.json`` beside it.
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
        self.root = Path(bundle)
        parser = self._read(overlays, changes or {})
        if checkpoint is not None:
            parser["ckpt_path"] = os.fspath(checkpoint)
        _read_as_in_training(parser)
        with one_error():
            parser.get_parsed_content("imports")
            self.checkpoint = Path(parser.get_parsed_content("ckpt_path"))
            if not self.checkpoint.is_file():
                raise FileNotFoundError(
                    f"ckpt: expected a model, got nothing at {self.checkpoint}. Pass --ckpt path/to/output/model.pt."
                )
            self._check_chain(parser)
            self.classes = [str(name) for name in parser.get_parsed_content("class_names")]
            self.device = torch.device(parser.get_parsed_content("device"))
            self.preprocessing = parser.get_parsed_content("preprocessing")
            self.inferer = parser.get_parsed_content("inferer")
            self.postprocessing = parser.get_parsed_content("postprocessing")
            self.network = self._loaded(parser.get_parsed_content("network_def"))

    def load(self, path: str) -> torch.Tensor:
        """Return an image as the network takes it, (C, spatial dimensions).

        Args:
            path: a file, or a folder with a DICOM series.

        Raises:
            ValueError: When the image has more or fewer spatial dimensions than the network takes.

        """
        image = torch.as_tensor(self.preprocessing({CommonKeys.IMAGE: path})[CommonKeys.IMAGE])
        if image.ndim != self.spatial_dims + 1:
            found = image.ndim - 1
            raise ValueError(f"{path}: expected an image of {self.spatial_dims} dimensions, got {found}. Leave it out.")
        return image.as_subclass(torch.Tensor)

    @torch.inference_mode()
    def predict(self, images: torch.Tensor) -> np.ndarray:
        """Return the probabilities of the classes, (B, number of classes).

        Args:
            images: what :py:meth:`load` returned, as a batch.

        Raises:
            ValueError: When the network has other classes than the configuration.

        """
        logits = self.inferer(images.to(self.device), self.network)
        found = [self.postprocessing({CommonKeys.PRED: row})[CommonKeys.PRED] for row in logits]
        probabilities: np.ndarray = torch.stack(list(map(torch.as_tensor, found))).cpu().numpy()
        if probabilities.shape[1:] != (len(self.classes),):
            raise ValueError(
                f"class_names: expected as many as the network's {list(probabilities.shape[1:])} outputs, "
                f"got {len(self.classes)}. Put chain.json beside the model."
            )
        return probabilities

    def _read(self, overlays: Sequence[str | os.PathLike[str]], changes: Mapping[str, Any]) -> ConfigParser:
        """Return the bundle's configuration, of which nothing has been evaluated."""
        configs = self.root / "configs"
        for name in ("inference.json", "metadata.json"):
            if not (configs / name).is_file():
                raise ValueError(f"bundle: expected configs/{name} in {str(self.root)!r}, got none. Pass a bundle.")
        self.metadata = ConfigParser.load_config_file(configs / "metadata.json")
        self.spatial_dims = len(self.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"])
        parser = ConfigParser()
        parser.read_meta(configs / "metadata.json")
        parser.read_config(
            [str(configs / "inference.json"), *(str(find_overlay(self.root, overlay)) for overlay in overlays)]
        )
        parser["bundle_root"] = str(self.root)
        for key in _NEEDED:
            if key not in parser:
                raise ValueError(f"bundle: expected the key {key!r} in its inference.json, got none. Add it.")
        for key, value in changes.items():
            if key not in parser:
                hint = nearest(key, list(parser.get()))
                raise ValueError(f"set: expected a key of {configs / 'inference.json'}, got {key!r}. {hint}")
            parser[key] = value
        return parser

    def _check_chain(self, parser: ConfigParser) -> None:
        """Refuse other images than those of the training: the network would take them, and be worse."""
        chain = model_chain(self.checkpoint)
        if chain is None:
            return
        trained = chain["settings"].get("spatial_size")
        own = parser.get_parsed_content("spatial_size") if "spatial_size" in parser else trained
        if trained is not None and list(own) != list(trained):
            raise ValueError(
                f"spatial_size: expected {list(trained)}, at which the model was trained, got {list(own)}. "
                f"Pass --set spatial_size={json.dumps(trained, separators=(',', ':'))}, or the overlay of the training."
            )
        if chain["preprocessing"] is None or not isinstance(parser["preprocessing"], dict):
            return
        found = describe_transforms("preprocessing#transforms", parser)
        for transform, other in zip_longest(chain["preprocessing"], found):
            if transform != other:
                raise ValueError(
                    f"preprocessing: expected {json.dumps(transform)}, as the model was trained, "
                    f"got {json.dumps(other)}. Take the overlay and settings of the training."
                )

    def _loaded(self, network: torch.nn.Module) -> torch.nn.Module:
        try:
            network.load_state_dict(torch.load(self.checkpoint, map_location="cpu", weights_only=True))
        except Exception as error:  # of a file that is no model, PyTorch may raise anything
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"ckpt: expected the state_dict of {type(network).__name__} in {self.checkpoint}, got another "
                f"({reason}). Pass the overlay of its training, such as --config_file inference_pretrained.json."
            ) from None
        return network.to(self.device).eval()


def _read_as_in_training(parser: ConfigParser) -> None:
    preprocessing = parser["preprocessing"]
    transforms = preprocessing.get("transforms", []) if isinstance(preprocessing, dict) else []
    for number, transform in enumerate(transforms):
        if isinstance(transform, dict) and transform.get("_target_", "").rpartition(".")[2] == "LoadImaged":
            parser[f"preprocessing#transforms#{number}"] = {
                "_target_": "monai_weckd.transforms.LoadMedicalImaged",
                "keys": transform["keys"],
                "channels": "@channels" if "channels" in parser else None,
            }
