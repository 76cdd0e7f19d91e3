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

"""Read the weights of a network from common file formats."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import

__all__ = ["load_weights", "read_weights"]

read_safetensors, has_safetensors = optional_import("safetensors.torch", name="load_file")

# where training programs put a state_dict, in order of preference
_PLACES = ("state_dict", "model_state_dict", "model", "net", "network", "model_state", "module")
_ADVICE = "Save the weights alone: torch.save(network.state_dict(), path)."


def load_weights(
    network: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    name: str,
    advice: str = "Pass the network that it was trained with.",
) -> None:
    """Load a file's weights into a network, strictly, and converted to the network's types.

    Args:
        network: the network.
        path: the file, see :py:func:`monai_weckd.networks.weights.read_weights`. A prefix, such as ``module.``,
            ``_orig_mod.`` or Lightning's ``model.``, is dropped, and so are entries without it.
        name: what the file is, for errors: ``"teacher"``, ``"ckpt"`` or ``"student"``.
        advice: what to do if the weights belong to another network.

    Raises:
        ValueError: When the file cannot be read, or its weights belong to another network.

    """
    weights = _without_prefix(read_weights(path, name=name), network.state_dict())
    try:
        network.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{name}: expected the state_dict of {type(network).__name__} in {path}, got another ({reason}). {advice}"
        ) from error


def read_weights(path: str | os.PathLike[str], *, name: str) -> dict[str, torch.Tensor]:
    """Return the weights in a file, by name. No code of the file is executed.

    Args:
        path: a ``state_dict``; a checkpoint, which is a dictionary with a ``state_dict`` under a key such as ``model``;
            or, if ``safetensors`` is installed, a ``.safetensors`` file.
        name: what the file is, for errors.

    Raises:
        ValueError: When the file holds anything else.
        ImportError: When ``safetensors`` is needed and not installed.

    """
    path = Path(path)
    if path.suffix.lower() == ".safetensors" and not has_safetensors:
        raise ImportError(
            f"{name}: expected the package safetensors to read {path}, got none. Install it: pip install safetensors."
        )
    try:
        if path.suffix.lower() == ".safetensors":
            content = read_safetensors(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes raise anything, and PyTorch's advice, weights_only=False, is unsafe
        raise ValueError(
            f"{name}: expected a file with a network's weights, got {_kind(path, error)} in {path}. {_ADVICE}"
        ) from None
    return _state_dict(content, path, name)


def _kind(path: Path, error: Exception) -> str:
    """Describe in words the content of a file that cannot be read as weights."""
    unsafe = re.findall(r"GLOBAL (\S+)", str(error))
    if unsafe:
        return f"a pickle of other objects than tensors ({unsafe[0]})"
    if "TorchScript" in str(error):
        return "a TorchScript program"
    if isinstance(error, OSError):
        return f"no access ({error.strerror})"
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "nothing"
    if start.startswith(b"version https://git-lfs"):
        return "the pointer of Git LFS instead of the file (git lfs pull)"
    if all(byte in b"\t\n\r\f" or byte >= 32 for byte in start) and b"\x80" not in start:
        return "text"
    return f"what PyTorch cannot read ({type(error).__name__}; damaged, or another format)"


def _state_dict(content: Any, path: Path, name: str) -> dict[str, torch.Tensor]:
    """Return the ``state_dict`` in a file's content: itself, or what a checkpoint has under the usual key."""
    if _is_state_dict(content):
        return dict(content)
    found = {key: value for key, value in content.items() if _is_state_dict(value)} if _is_mapping(content) else {}
    places = [place for place in _PLACES if place in found] or list(found)
    if not places or (places[0] not in _PLACES and len(places) > 1):
        keys = ", ".join(map(str, list(content)[:6])) if _is_mapping(content) else type(content).__name__
        raise ValueError(
            f"{name}: expected a state_dict, or a checkpoint with one as state_dict or model, got {keys} in {path}. "
            f"{_ADVICE}"
        )
    return dict(found[places[0]])


def _is_mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(key, str) for key in value)


def _is_state_dict(value: Any) -> bool:
    return _is_mapping(value) and bool(value) and all(isinstance(part, torch.Tensor) for part in value.values())


def _without_prefix(weights: dict[str, torch.Tensor], expected: Mapping[str, Any]) -> Mapping[str, torch.Tensor]:
    """Return weights under the network's names if only a prefix differs, else as they are."""
    first = next(iter(expected), "")
    prefixes = [name.removesuffix(first) for name in weights if name.endswith(f".{first}")]
    for prefix in sorted(prefixes, key=len):
        below = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if below.keys() == expected.keys():
            return below
    own = next(iter(weights), "")
    missing = first.removesuffix(own)
    if first.endswith(f".{own}") and {f"{missing}{name}" for name in weights} == expected.keys():
        return {f"{missing}{name}": value for name, value in weights.items()}
    return weights
