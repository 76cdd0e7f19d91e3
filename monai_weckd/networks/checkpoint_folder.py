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

"""Read the configuration, the preprocessing and the weights of a vision network from a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from monai_weckd.networks.timm_weights import to_transformers
from monai_weckd.networks.weights import file_digest, read_weights

__all__ = ["Checkpoint", "read_checkpoint"]

# in order of preference; an index lists the files of a checkpoint in several
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)
_INDEX = ".index.json"
_PREPROCESSING = ("preprocessor_config.json", "processor_config.json")


class Checkpoint(NamedTuple):
    """What a folder says about a vision network.

    Args:
        config: configuration of the network as ``transformers`` has it.
        preprocessing: ``mean`` and ``std`` of the colors, ``rescale_factor`` that multiplies pixels of 0 to 255 before,
            and the ``size`` that the network was trained with.
        weights: tensors by name.
        files: SHA-256 of each file that was read, by name.

    """

    config: dict[str, Any]
    preprocessing: dict[str, Any]
    weights: dict[str, torch.Tensor]
    files: dict[str, str]


def read_checkpoint(path: str | os.PathLike[str] | None) -> Checkpoint:
    """Read a folder of ``transformers``, timm or open_clip. Nothing is downloaded, and no code is executed.

    - ``transformers``: ``config.json`` with ``model_type``, ``preprocessor_config.json``, and ``model.safetensors``,
      also in several files, or ``pytorch_model.bin``.
    - timm: ``config.json`` with ``architecture`` and ``pretrained_cfg``, and ``model.safetensors`` or
      ``pytorch_model.bin``.
    - open_clip: ``open_clip_config.json`` and ``open_clip_pytorch_model.bin`` or ``.safetensors``.

    Args:
        path: the folder, or its file of weights.

    Raises:
        ValueError: When it is no such folder, a file is missing, or the weights cannot be read.

    """
    if path is None or not Path(path).exists():
        raise ValueError(f"path: expected a folder with a vision network, got {path}. Pass backbone_path.")
    place = Path(path)
    folder = place.parent if place.is_file() else place
    name = next((name for name in ("open_clip_config.json", "config.json") if (folder / name).is_file()), None)
    if name is None:
        advice = "Copy the file of the model's page, beside the weights."
        if (folder / "hubconf.py").is_file():
            advice = "A torch.hub repository is code, which is not executed: see docs/how-to/local_backbone.md."
        raise ValueError(f"path: expected config.json or open_clip_config.json in {folder}, got neither. {advice}")
    config = _read_json(folder / name)
    files = [name]
    if name == "open_clip_config.json" or "architecture" in config:
        preprocessing = _timm_preprocessing(config, folder / name)
    else:
        preprocessing, read = _preprocessing(folder)
        files.append(read)
    names = [place.name] if place.is_file() else _weight_files(folder)
    weights = {key: value for name in names for key, value in read_weights(folder / name, name="path").items()}
    if "model_type" in config:
        config = config.get("vision_config", config)  # beside a text tower
    else:
        arguments = config.get("model_args") or {}
        config, weights = to_transformers(weights, heads=arguments.get("num_heads"), where=str(folder))
    digests = {name: file_digest(folder / name) for name in (*files, *names)}
    return Checkpoint(config, preprocessing, weights, digests)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"path: expected JSON in {path}, got {error}. Copy the file again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"path: expected an object in {path}, got {type(content).__name__}. Copy the file again.")
    return content


def _preprocessing(folder: Path) -> tuple[dict[str, Any], str]:
    """Return the preprocessing of a folder of transformers, and the name of its file."""
    name = next((name for name in _PREPROCESSING if (folder / name).is_file()), None)
    if name is None:
        raise ValueError(
            f"path: expected preprocessor_config.json in {folder}, which has mean and standard deviation, got none. "
            "Copy it, too."
        )
    content = _read_json(folder / name)
    content = content.get("image_processor", content)
    normalized, rescaled = content.get("do_normalize", True), content.get("do_rescale", True)
    found = {
        "mean": content.get("image_mean") if normalized else [0.0] * 3,
        "std": content.get("image_std") if normalized else [1.0] * 3,
        "rescale_factor": content.get("rescale_factor", 1 / 255) if rescaled else 1.0,
        "size": _side(content.get("crop_size") or content.get("size")),
    }
    return _checked(found, folder / name), name


def _timm_preprocessing(config: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the preprocessing of a folder of timm or open_clip."""
    of_clip = (config.get("model_cfg") or {}).get("vision_cfg") or {}
    if "model_cfg" in config and "timm_model_name" not in of_clip:
        raise ValueError(
            f"path: expected a vision tower of timm in {path}, got another. Use the same model as transformers has it."
        )
    described = config.get("preprocess_cfg") or config.get("pretrained_cfg") or {}
    found = {
        "mean": described.get("mean"),
        "std": described.get("std"),
        "rescale_factor": 1 / 255,
        "size": of_clip.get("image_size") or (described.get("input_size") or [None])[-1],
    }
    return _checked(found, path)


def _side(size: Any) -> Any:
    """Return the side of a square, which is a number, or has a name in older or newer files."""
    if isinstance(size, dict):
        return size.get("height") or size.get("shortest_edge")
    return size


def _checked(found: dict[str, Any], path: Path) -> dict[str, Any]:
    """Refuse a preprocessing that is not there in whole."""
    for name in ("mean", "std"):
        value = found[name]
        if (
            not isinstance(value, Sequence)
            or len(value) != 3
            or not all(isinstance(part, (int, float)) for part in value)
        ):
            raise ValueError(f"path: expected three numbers as {name} of the colors in {path}, got {value}. Add them.")
    if min(found["std"]) <= 0:
        raise ValueError(f"path: expected positive standard deviations in {path}, got {found['std']}. Correct them.")
    if not isinstance(found["size"], int) or found["size"] < 1:
        raise ValueError(f"path: expected the size of an image in {path}, got {found['size']}. Add it.")
    return found


def _weight_files(folder: Path) -> list[str]:
    """Return the names of a folder's files of weights."""
    name = next((name for name in _WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise ValueError(
            f"path: expected one of {', '.join(_WEIGHTS)} in {folder}, got none. Copy it, or pass the file's own path."
        )
    if not name.endswith(_INDEX):
        return [name]
    places = _read_json(folder / name).get("weight_map")
    names = sorted(set(places.values())) if isinstance(places, dict) else []
    if not names or any(Path(part).name != part for part in names):
        raise ValueError(f"path: expected a weight_map to files of its folder in {folder / name}, got another one.")
    missing = [part for part in names if not (folder / part).is_file()]
    if missing:
        raise ValueError(f"path: expected all files of {name} in {folder}, got none named {missing[0]}. Copy it, too.")
    return names
