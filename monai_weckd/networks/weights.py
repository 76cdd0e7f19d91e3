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

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import

from monai_weckd.networks.features import find_head

__all__ = ["file_digest", "load_weights", "read_weights", "with_weights"]

read_safetensors, has_safetensors = optional_import("safetensors.torch", name="load_file")

_PIECE = 1 << 22
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


def with_weights(
    network: torch.nn.Module,
    path: str | os.PathLike[str] | None,
    *,
    axes: Sequence[int] | None = None,
    head_layer: str | None = None,
) -> torch.nn.Module:
    """Return a network with the weights of a file, all but those of its head, which stays as it is.

    What else is in the file, such as another head, is left out. Where the network takes one channel and the file has
    kernels for three, these are summed, which equals feeding a gray image three times.

    Args:
        network: any network, such as one of MONAI.
        path: the file, see :py:func:`monai_weckd.networks.weights.read_weights`; a prefix of the names is dropped.
        axes: for volumes: the file's spatial axes in the order that the images have, such as (1, 2, 0) if the file has
            the slices' axis first and the images have it last. Default None: they are the same.
        head_layer: module path of the head, default None: the last ``torch.nn.Linear``.

    Raises:
        ValueError: When the file cannot be read, or lacks a weight of the network.

    Example::

        >>> import tempfile
        >>> layers = lambda classes: torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, classes))
        >>> trained, file = layers(5), tempfile.mkdtemp() + "/trained.pt"
        >>> torch.save(trained.state_dict(), file)
        >>> torch.equal(with_weights(layers(9), file)[0].weight, trained[0].weight)
        True

    """
    if path is None or not Path(path).is_file():
        raise ValueError(f"path: expected a file with weights, got {path}. Pass backbone_path.")
    head = find_head(network, head_layer)
    own = {name: value for name, value in network.state_dict().items() if not name.startswith(f"{head}.")}
    weights, first = read_weights(path, name="path"), next(iter(own))
    prefixes = ["", *(name.removesuffix(first) for name in weights if name.endswith(f".{first}"))]
    prefix = min(prefixes, key=lambda prefix: sum(f"{prefix}{name}" not in weights for name in own))
    found = {name: _fitted(weights.get(f"{prefix}{name}"), value, axes) for name, value in own.items()}
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ValueError(
            f"path: expected all weights of {type(network).__name__} but its head {head} in {path}, got none of the "
            f"shape of {missing[0]} ({len(missing)} of {len(own)}). Pass the network that they were trained with."
        )
    network.load_state_dict(found, strict=False)
    network.origin = {"files": {Path(path).name: file_digest(path)}}  # type: ignore[assignment]  # a plain attribute
    return network


def _fitted(value: torch.Tensor | None, own: torch.Tensor, axes: Sequence[int] | None) -> torch.Tensor | None:
    """Return a weight for another order of axes or for one channel, None if its shape still differs."""
    if value is None:
        return None
    if axes is not None and value.ndim == 2 + len(axes):
        value = value.permute(0, 1, *(2 + axis for axis in axes))
    if value.ndim >= 4 and value.shape[1] == 3 and own.shape[1] == 1:
        value = value.sum(1, keepdim=True)
    return value if value.shape == own.shape else None


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal.

    Args:
        path: the file, of any size.

    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


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
