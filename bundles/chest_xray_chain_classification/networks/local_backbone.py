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

"""A vision backbone from a folder of one's own. This file needs torch, and transformers on use: bundles have a copy."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["LocalBackbone", "slices_along"]

# of each kind of network: further arguments that let it take images of any size
_KINDS: dict[str, dict[str, bool]] = {
    "dinov2": {},
    "dinov2_with_registers": {},
    "dinov3_vit": {},
    "dinov3_convnext": {},
    "convnext": {},
    "convnextv2": {},
    "vit": {"interpolate_pos_encoding": True},
    "clip_vision_model": {"interpolate_pos_encoding": True},
    "siglip_vision_model": {"interpolate_pos_encoding": True},
}
_POOLING = ("class_and_mean", "class", "mean")
_COLORS = 3
_SLICE_SIZE = 224  # at most, unless another is asked for
_RECORD = "backbone"  # key of chain.json


class LocalBackbone(nn.Module):
    """Classify by the features of a vision network whose weights lie in a folder, such as DINOv2.

    The folder is one of ``transformers`` (DINOv2, RAD-DINO, DINOv3, the vision towers of CLIP and SigLIP, ViT,
    ConvNeXt), of timm or of open_clip (plain ViT and ConvNeXt, BiomedCLIP). See
    :py:func:`monai_weckd.networks.checkpoint_folder.read_checkpoint`. Nothing is downloaded, and no code of the folder
    is executed.

    The network takes images in [-1, 1] and applies the folder's own mean and standard deviation, so that an exported
    model contains them. It takes any size: the image is resized to the nearest multiple of the patch, and learned
    positions are interpolated, so that DINOv2 sees images of your size and not of 518 x 518.

    A volume is seen as slices along its axes (2.5-D); features are the mean and the maximum over the slices of an axis.

    Args:
        path: the folder or its file of weights; or the ``chain.json`` of a training, which records all that is needed
            beside the weights, these options included, so that a trained model needs no folder.
        spatial_dims: 2 for images, 3 for volumes. Defaults to 2.
        in_channels: channels of the images, 3, or 1 for gray ones. Defaults to 3.
        num_classes: number of logits of ``classifier``, which starts untrained. Defaults to 1.
        layers: numbers of further blocks (stages of a ConvNeXt) whose features are used beside those of the last one,
            from 1, or from the last one, -1. Default none.
        pooling: what a transformer gives: ``"class_and_mean"``, the class token and the mean of the patches; one of
            them, ``"class"`` or ``"mean"``. A network without a class token has the mean alone.
        input_scale: factor that scales the images to [-1, 1]; for images of standard deviation 1, use 0.45. Defaults to
            1.0.
        slice_axes: spatial axes of a volume, from 0, along which it is cut. Defaults to all three.
        slices: slices along each of them, from 15 to 85 % of its length. Defaults to 10.
        slice_size: height and width of a slice. Default None: that of the folder, at most 224.

    Raises:
        ValueError: When the folder cannot be used, or an argument is out of its range.
        ImportError: When ``transformers`` is not installed.

    """

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        spatial_dims: int = 2,
        in_channels: int = 3,
        num_classes: int = 1,
        layers: Sequence[int] = (),
        pooling: str = "class_and_mean",
        input_scale: float = 1.0,
        slice_axes: Sequence[int] = (0, 1, 2),
        slices: int = 10,
        slice_size: int | None = None,
    ) -> None:
        super().__init__()
        options = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "layers": list(layers),
            "pooling": pooling,
            "input_scale": input_scale,
            "slice_axes": list(slice_axes),
            "slices": slices,
            "slice_size": slice_size,
        }
        self.origin, weights = _origin(path, options)
        self.options = self.origin["options"]
        for name, value in zip(("scale", "shift"), _affine(self.origin["preprocessing"], self.options), strict=True):
            self.register_buffer(name, value)
        kind = self.origin["config"].get("model_type")
        self.network = _build(self.origin["config"], weights)
        self.arguments = _KINDS[kind]
        self.patch = 1 if "convnext" in kind else int(self.network.config.patch_size)
        # the first list of modules is that of the blocks, or of the stages
        self.depth = len(self._blocks())
        self.places = [_place(layer, self.depth) for layer in self.options["layers"]]
        self.map = nn.Identity()  # its output is the feature map, for heat maps and attention transfer
        self.classifier = nn.Linear(self._width(), num_classes)

    def extra_repr(self) -> str:
        """Return the options that the weights do not show."""
        return ", ".join(f"{name}={value}" for name, value in self.options.items())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        Args:
            image: (B, C, H, W) or (B, C, H, W, D).

        Returns:
            (B, ``num_classes``).

        """
        return self.classifier(self.features(image))

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the features of images or volumes, (B, D).

        Args:
            image: (B, C, H, W) or (B, C, H, W, D).

        """
        if self.options["spatial_dims"] == 2:
            return self._picture_features(image)
        axes, count, found = self.options["slice_axes"], self.options["slices"], []
        for planes in slices_along(image, axes, count=count, size=self.options["slice_size"]):
            rows = self._picture_features(planes.flatten(0, 1)).unflatten(0, (-1, count))
            found += [rows.mean(1), rows.amax(1)]
        return torch.cat(found, dim=1)

    def _picture_features(self, image: torch.Tensor) -> torch.Tensor:
        """Return the features of pictures, (B, D): of each of the layers and of the last block."""
        height, width = (max(1, round(int(length) / self.patch)) * self.patch for length in image.shape[2:])
        if (height, width) != tuple(image.shape[2:]):
            image = F.interpolate(image, size=(height, width), mode="bilinear", antialias=True)
        kept: list[torch.Tensor] = []

        def keep(module: nn.Module, inputs: object, output: Any) -> None:
            kept.append(output[0] if isinstance(output, tuple) else output)

        # removed at once, because a copy of the network would share hooks that stay
        hooks = [block.register_forward_hook(keep) for block in self._blocks()]
        last = self.network(pixel_values=image * self.scale + self.shift, **self.arguments).last_hidden_state
        for hook in hooks:
            hook.remove()
        grid = (height // self.patch, width // self.patch)
        states = [kept[place] for place in self.places]
        states.append(kept[-1] if kept[-1].ndim == 4 else last)  # the last block of a transformer is normalized
        return torch.cat([self._pooled(state, grid) for state in states], dim=1)

    def _pooled(self, state: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """Return the features, (B, D), of tokens, (B, N, D), or of a feature map, (B, D, H, W)."""
        if state.ndim == 4:
            return self.map(state).flatten(2).mean(2)
        before = state.shape[1] - grid[0] * grid[1]  # class token and registers
        found = []
        if before and self.options["pooling"] != "mean":
            found.append(state[:, 0])
        if not before or self.options["pooling"] != "class":
            patches = state[:, before:].transpose(1, 2).unflatten(2, grid)
            found.append(self.map(patches).flatten(2).mean(2))
        return torch.cat(found, dim=1)

    def _blocks(self) -> nn.ModuleList:
        return next(module for module in self.network.modules() if isinstance(module, nn.ModuleList))

    def _width(self) -> int:
        """Return the number of features."""
        self.eval()  # so that no random number is drawn
        with torch.no_grad():
            width = self._picture_features(torch.zeros(1, self.options["in_channels"], 64, 64)).shape[1]
        self.train()
        # of a volume: mean and maximum along each axis
        return width if self.options["spatial_dims"] == 2 else 2 * len(self.options["slice_axes"]) * width


def slices_along(volume: torch.Tensor, axes: Sequence[int] = (0, 1, 2), *, count: int, size: int) -> list[torch.Tensor]:
    """Return slices along axes of volumes, from 15 to 85 % of their length: for each axis, (B, S, C, size, size).

    Args:
        volume: (B, C, H, W, D).
        axes: spatial axes, from 0, default: all three.
        count: number of slices along an axis, S.
        size: height and width of a slice, to which it is resized.

    Example::

        >>> [tuple(part.shape) for part in slices_along(torch.rand(2, 1, 8, 9, 7), [0, 2], count=4, size=16)]
        [(2, 4, 1, 16, 16), (2, 4, 1, 16, 16)]

    """
    found = []
    for axis in (2 + axis for axis in axes):
        last = int(volume.shape[axis]) - 1
        places = [round(last * (0.15 + 0.7 * number / max(1, count - 1))) for number in range(count)]
        planes = torch.stack([volume.select(axis, place) for place in places], dim=1)
        resized = F.interpolate(planes.flatten(0, 1), size=(size, size), mode="bilinear", antialias=True)
        found.append(resized.unflatten(0, (-1, count)))
    return found


def _origin(
    path: str | os.PathLike[str] | None, options: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, torch.Tensor] | None]:
    """Return what there is to know of a network, and the weights of a folder; a record of a training has none."""
    if path is not None and Path(path).name == "chain.json":
        return _recorded(Path(path)), None
    from monai_weckd.networks.checkpoint_folder import read_checkpoint  # only to begin from a folder

    _check_options(options)
    checkpoint = read_checkpoint(path)
    size = options["slice_size"] or min(checkpoint.preprocessing["size"], _SLICE_SIZE)
    record = {
        "files": checkpoint.files,
        "config": checkpoint.config,
        "preprocessing": checkpoint.preprocessing,
        "options": {**options, "slice_size": size},
    }
    return record, checkpoint.weights


def _check_options(options: dict[str, Any]) -> None:
    """Raise a ValueError when an option is out of its range."""
    for name, known, advice in (
        ("spatial_dims", (2, 3), "Pass 3 for volumes."),
        ("in_channels", (1, _COLORS), "Pass 1 for gray images."),
        ("pooling", _POOLING, "Pass 'class_and_mean'."),
    ):
        if options[name] not in known:
            raise ValueError(f"{name}: expected one of {known}, got {options[name]!r}. {advice}")
    axes = options["slice_axes"]
    if not axes or not set(axes) <= {0, 1, 2} or len(set(axes)) < len(axes):
        raise ValueError(f"slice_axes: expected axes among 0, 1 and 2, each once, got {axes}. Pass [0, 1, 2].")
    for name, advice in (("input_scale", "1.0 for [-1, 1]"), ("slices", "10")):
        if options[name] <= 0:
            raise ValueError(f"{name}: expected a positive number, got {options[name]}. Pass {advice}.")


def _recorded(path: Path) -> dict[str, Any]:
    """Return what a training recorded about its backbone."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not content.get(_RECORD):
        raise ValueError(
            f"path: expected the chain.json of a model with a LocalBackbone, got {path} without one. "
            "Put chain.json beside the model."
        )
    record: dict[str, Any] = content[_RECORD]
    return record


def _affine(preprocessing: dict[str, Any], options: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and shift, (3, 1, 1) each, that make the input of the network from an image."""
    # an image in [-1, 1] is (pixel / 127.5 - 1)
    mean, std = (torch.tensor(preprocessing[name]).view(-1, 1, 1) for name in ("mean", "std"))
    unit = 127.5 * preprocessing["rescale_factor"]
    return options["input_scale"] * unit / std, (unit - mean) / std


def _place(layer: int, depth: int) -> int:
    """Return the index of a block by its number, which counts from 1, or from the end."""
    if not 1 <= abs(layer) <= depth:
        raise ValueError(f"layers: expected numbers from 1 to {depth}, or from -{depth} to -1, got {layer}. Pass [].")
    return layer - 1 if layer > 0 else depth + layer


def _build(config: dict[str, Any], weights: dict[str, torch.Tensor] | None) -> Any:
    """Return the network of a configuration, with weights or untrained; refuse weights that it does not fill."""
    kind = config.get("model_type")
    if kind not in _KINDS:
        raise ValueError(f"path: expected a vision network of the kinds {tuple(_KINDS)}, got {kind!r}. Use another.")
    try:
        import transformers  # optional, and it takes seconds
    except ImportError:
        raise ImportError(
            "path: expected the package transformers for a LocalBackbone, got none. "
            'Install it: pip install "monai-weckd[backbones]".'
        ) from None
    try:
        settings = transformers.CONFIG_MAPPING[kind].from_dict({**config, "dtype": "float32"})
        if weights is None:
            return transformers.AutoModel.from_config(settings)
        network, missing = _filled(transformers, settings, weights)
    except Exception as error:  # of many classes, and in many lines
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"path: expected the configuration of a {kind}, got one that transformers cannot build ({reason}). "
            "Copy config.json again, or update transformers."
        ) from error
    if missing:
        raise ValueError(
            f"path: expected all weights of a {kind}, got a checkpoint without {missing[0]} ({len(missing)} in all). "
            "Copy the whole folder, with all of its files."
        )
    return network


def _filled(transformers: Any, settings: Any, weights: dict[str, torch.Tensor]) -> tuple[Any, list[str]]:
    """Return the network with its weights, and the names of those that are missing or have another shape."""
    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # other parts of a checkpoint, such as a text tower, are not wanted
    transformers.logging.disable_progress_bar()
    try:
        # names of earlier versions are translated; without a path, nothing is looked up anywhere
        network, told = transformers.AutoModel._model_mapping[type(settings)].from_pretrained(
            None, config=settings, state_dict=weights, output_loading_info=True, ignore_mismatched_sizes=True
        )
    finally:
        transformers.logging.set_verbosity(level)
        transformers.logging.enable_progress_bar()
    return network, sorted([*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])])
