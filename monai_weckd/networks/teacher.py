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

"""Load a teacher from a bundle, TorchScript, ONNX or ``state_dict`` file."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
from monai.bundle import ConfigParser
from monai.utils import optional_import

from monai_weckd.networks.features import unwrap
from monai_weckd.utils.records import model_chain

onnxruntime, _ = optional_import("onnxruntime")

__all__ = ["OnnxNetwork", "load_teacher"]


class OnnxNetwork(torch.nn.Module):
    """Wrap an ONNX file as a module for prediction only. Needs ``onnxruntime``.

    Args:
        path: an ONNX file with one input, (B, C, spatial dimensions); its first output must be logits, (B, C).

    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(os.fspath(path), options)
        self.input_name = self.session.get_inputs()[0].name

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (B, C), on the device of the images.

        Args:
            images: a batch, (B, C, spatial dimensions).

        """
        array = torch.as_tensor(images.detach()).as_subclass(torch.Tensor).cpu().contiguous().numpy()
        logits = self.session.run(None, {self.input_name: array})[0]
        return torch.from_numpy(logits).to(images.device)


def load_teacher(
    source: torch.nn.Module | str | os.PathLike[str],
    *,
    network: torch.nn.Module | None = None,
    classes: Sequence[str] | None = None,
) -> torch.nn.Module:
    """Load a teacher from a network, a bundle or a file.

    Args:
        source: a network, which is returned unchanged; the folder of a MONAI bundle, with its ``network_def`` and
            ``models/model.pt``; a TorchScript file; an ``.onnx`` file; or a file with a plain ``state_dict``. A
            bundle's configuration and a TorchScript file are programs: load only those that you trust.
        network: the network whose copy gets the weights of a ``state_dict``, default None: no network.
        classes: the student's class names in the order of their indices. The teacher's must be equal, if they are known
            from ``chain.json`` beside a ``state_dict`` or from a bundle's metadata. Default None: not compared. Teacher
            and student may see different inputs: see ``teacher_transform`` of the trainer.

    Raises:
        FileNotFoundError: When there is no such file or folder, or no model in the bundle.
        ValueError: When there is no network for a ``state_dict``, or the ``state_dict`` belongs to another network.
        ValueError: When the teacher has other classes, or the same in another order.

    """
    if isinstance(source, torch.nn.Module):
        return source
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(
            f"teacher: expected a network, a bundle's folder or a file, got {path}, which is not there. Check the path."
        )
    if path.is_dir():
        weights = _found(path, "models/model.pt")
        if classes is not None and model_chain(weights) is None:
            _check_classes(classes, _bundle_classes(path), path)
        return load_teacher(weights, network=_bundle_network(path), classes=classes)
    if path.suffix == ".onnx":
        return OnnxNetwork(path)
    if _is_script(path):
        return torch.jit.load(os.fspath(path), map_location="cpu")
    if network is None:
        raise ValueError(f"network: expected the network of the weights in {path.name}, got None. Pass its definition.")
    chain = model_chain(path)
    if classes is not None and chain is not None:
        _check_classes(classes, chain["classes"], path)
    return _with_weights(deepcopy(unwrap(network)), path)


def _check_classes(classes: Sequence[str], found: Sequence[str], path: Path) -> None:
    if list(found) != list(classes):
        raise ValueError(
            f"teacher: expected the student's classes {list(classes)} in their order, got {list(found)} in {path}. "
            "Give the student's data the order of the teacher's."
        )


def _bundle_classes(folder: Path) -> list[str]:
    """Return the names of the outputs in a bundle's metadata."""
    metadata = ConfigParser.load_config_file(_found(folder, "configs/metadata.json"))
    return [str(name) for name in metadata["network_data_format"]["outputs"]["pred"]["channel_def"].values()]


def _found(folder: Path, *names: str) -> Path:
    """Return the first of these files that a bundle has."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(
        f"teacher: expected a bundle with {' or '.join(names)}, got {folder} without. Train it, or pass another one."
    )


def _bundle_network(folder: Path) -> torch.nn.Module:
    parser = ConfigParser()
    if (folder / "configs" / "metadata.json").is_file():
        parser.read_meta(folder / "configs" / "metadata.json")
    parser.read_config(_found(folder, "configs/inference.json", "configs/train.json"))
    parser["bundle_root"] = str(folder)
    network: torch.nn.Module = parser.get_parsed_content("network_def")
    return network


def _is_script(path: Path) -> bool:
    """Return whether a zip archive holds TorchScript code rather than a plain ``state_dict``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def _with_weights(network: torch.nn.Module, path: Path) -> torch.nn.Module:
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"teacher: expected the state_dict of {type(network).__name__} in {path.name}, got another ({reason}). "
            "Pass the network that it was trained with."
        ) from error
    return network
